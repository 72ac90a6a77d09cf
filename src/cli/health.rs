//! `latchkey health`: asks a running service whether it is serving. Container engines use it, since their health checks
//! run a program.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use axum::{
    body::Body,
    http::{StatusCode, Uri},
};
use clap::Args;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{Report, report::innermost};
use crate::config;

/// Options of `latchkey health`.
#[derive(Args, Debug)]
pub struct HealthCommand {
    /// Address of the service's gRPC listener. If it is 0.0.0.0 or [::], loopback is asked.
    #[arg(long, visible_alias = "addr", env = "LATCHKEY_GRPC_ADDR", value_name = "ADDRESS",
        default_value = config::GRPC_ADDR)]
    grpc_addr: SocketAddr,

    /// Address of the service's admin listener, which is asked instead if the service has TLS: a check from this machine has
    /// no certificate.
    #[arg(long, env = "LATCHKEY_ADMIN_ADDR", value_name = "ADDRESS", default_value = config::ADMIN_ADDR)]
    admin_addr: SocketAddr,

    /// The service's certificate: if it is set, the service has TLS.
    #[arg(long, env = "LATCHKEY_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// TOML file of the service.
    #[arg(long, env = "LATCHKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How long the check may take: less than the timeout of the image's HEALTHCHECK, so that the reason is still reported.
const BOUND: Duration = Duration::from_secs(2);

impl HealthCommand {
    /// Returns the TOML file that may hold the address.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// Reports the service's health in one line. Only a "serving" in time is a success.
    pub async fn run(self) -> Report {
        let has_tls = self.tls_cert.is_some();
        let addr = reachable(if has_tls { self.admin_addr } else { self.grpc_addr });
        let asked = async { if has_tls { ask_admin(addr).await } else { ask(addr).await } };
        let (success, text) = match tokio::time::timeout(BOUND, asked).await {
            Ok(Ok(ServingStatus::Serving)) => (true, format!("{addr} is serving\n")),
            Ok(Ok(status)) => (false, format!("{addr} is not serving: {}\n", status.as_str_name())),
            Ok(Err(error)) => (false, format!("{addr} gives no answer: {error}\n")),
            Err(_) => (false, format!("{addr} gives no answer within {BOUND:?}\n")),
        };
        Report { text, success }
    }
}

/// Returns the address at which a service that listens on `addr` is reached from this machine.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    addr
}

/// Returns the health status of the service as a whole.
async fn ask(addr: SocketAddr) -> Result<ServingStatus, String> {
    let channel = connect(addr).await.map_err(|error| innermost(&error))?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    // The code alone: the message may span several lines.
    answer.map(|answer| answer.get_ref().status()).map_err(|status| status.code().to_string())
}

/// Returns the same from the admin listener.
async fn ask_admin(addr: SocketAddr) -> Result<ServingStatus, String> {
    let url = format!("http://{addr}/readyz").parse::<Uri>().map_err(|error| error.to_string())?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let answer = client.get(url).await.map_err(|error| innermost(&error))?;
    match answer.status() {
        StatusCode::OK => Ok(ServingStatus::Serving),
        StatusCode::SERVICE_UNAVAILABLE => Ok(ServingStatus::NotServing),
        other => Err(format!("the answer is {other}")),
    }
}

async fn connect(addr: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{addr}"))?.connect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_listens_on_every_address_is_asked_on_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:50051", "127.0.0.1:50051"),
            ("[::]:50051", "[::1]:50051"),
            ("10.0.0.7:50051", "10.0.0.7:50051"),
            ("[fd00::7]:50051", "[fd00::7]:50051"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
