//! What a service says about its health over grpc.health.v1.

use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use super::{Client, soon, until};

/// The health service whose state says whether the service is attached to the broker.
pub const USER_EVENTS: &str = "latchkey.v1.UserEvents";

/// The health of a service, as it changes.
pub struct Watch(tonic::Streaming<HealthCheckResponse>);

impl Watch {
    /// Waits for the next change, and returns whether the service is serving now.
    pub async fn next(&mut self) -> bool {
        let change = soon("a change of health", self.0.message()).await.unwrap();
        change.unwrap().status() == ServingStatus::Serving
    }

    /// Waits for the end of the stream; its error is returned if it was cut.
    pub async fn ended(mut self) -> Result<(), tonic::Status> {
        while soon("the end of the watch", self.0.message()).await?.is_some() {}
        Ok(())
    }
}

impl Client {
    /// A client of grpc.health.v1.
    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    /// Watches the health of one of the services.
    pub async fn watch_health(&self, service: &str) -> Watch {
        let request = HealthCheckRequest { service: service.into() };
        Watch(self.health().watch(request).await.unwrap().into_inner())
    }

    /// Whether one of the services is serving now.
    pub async fn is_serving(&self, service: &str) -> bool {
        let request = HealthCheckRequest { service: service.into() };
        let answer = self.health().check(request).await.unwrap().into_inner();
        answer.status() == ServingStatus::Serving
    }

    /// Waits until the service is attached to the broker.
    pub async fn attached(&self) {
        until("attached to the broker", || async { self.is_serving(USER_EVENTS).await.then_some(()) }).await;
    }
}
