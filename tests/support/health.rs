//! What the service says of its health by grpc.health.v1.

use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use super::App;

/// What grpc.health.v1 says of a service, as it changes.
pub struct Watch(tonic::Streaming<HealthCheckResponse>);

impl Watch {
    /// Whether it is serving, at the next change.
    pub async fn next(&mut self) -> bool {
        self.0.message().await.unwrap().unwrap().status() == ServingStatus::Serving
    }
}

/// Watches the health of a service of `app`.
pub async fn watch(app: &App, service: &str) -> Watch {
    let request = HealthCheckRequest { service: service.into() };
    Watch(health(app).await.watch(request).await.unwrap().into_inner())
}

/// Whether the service is serving, now.
pub async fn is_serving(app: &App, service: &str) -> bool {
    is_serving_at(&format!("http://{}", app.server.grpc_addr()), service).await
}

/// Whether the service is serving, now, in the process at `url`.
pub async fn is_serving_at(url: &str, service: &str) -> bool {
    let request = HealthCheckRequest { service: service.into() };
    let answer = HealthClient::new(connect(url).await).check(request).await.unwrap().into_inner();
    answer.status() == ServingStatus::Serving
}

/// A connection to the service.
pub async fn channel(app: &App) -> Channel {
    connect(&format!("http://{}", app.server.grpc_addr())).await
}

async fn connect(url: &str) -> Channel {
    Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap()
}

/// A client of grpc.health.v1.
pub async fn health(app: &App) -> HealthClient<Channel> {
    HealthClient::new(channel(app).await)
}
