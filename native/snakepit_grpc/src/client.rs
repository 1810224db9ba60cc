//! The client proper: knows HTTP/2 and gRPC, not the BEAM.

use crate::proto::health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use crate::proto::snakepit::Payload;
use crate::wire::{MAX_MESSAGE, Pieces, timeout_header};
use http::{HeaderValue, Method, Request, Uri, Version, header};
use prost::Message;
use std::future::Future;
use std::time::Duration;
use tonic::client::GrpcService;
use tonic::codec::Streaming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, body::Body};
use tonic_prost::ProstDecoder;

/// The bytes that a worker may send on one stream before we take them: bounds what waits here for a slow reader of
/// items. Larger windows were not measurably faster, and frames over HTTP/2's 16 KiB were slower.
const STREAM_WINDOW: u32 = 4 << 20;

/// The same for all of them together: no limit, so that one slow reader cannot hold up the others.
const CONNECTION_WINDOW: u32 = i32::MAX as u32;

/// A channel to `unix:/path` or `http://host:port`. It connects at the first call and again whenever it has to.
///
/// Needs the context of a runtime.
pub fn connect(target: &str) -> Result<Channel, String> {
    let refuse = |why: &str| format!("{target:?} is no target: {why}");
    let origin = match target.strip_prefix("unix:") {
        // The authority that servers expect on a Unix socket.
        Some(path) if path.starts_with('/') => Uri::from_static("http://localhost"),
        Some(_) => return Err(refuse("unix: must be followed by an absolute path")),
        None if target.starts_with("http://") => {
            target.parse().map_err(|error: http::uri::InvalidUri| refuse(&error.to_string()))?
        }
        None => return Err(refuse("expected unix:/path or http://host:port")),
    };
    let endpoint = Endpoint::from_shared(target.to_string()).map_err(|error| refuse(&error.to_string()))?;
    Ok(endpoint
        .origin(origin)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_lazy())
}

/// `Worker/Call`.
pub async fn call(channel: Channel, request: Pieces, timeout: Option<Duration>) -> Result<Payload, Status> {
    within(timeout, unary(channel, "/snakepit.v1.Worker/Call", request, timeout)).await
}

/// `Worker/Stream`: its items come from the answer. The timeout is only sent to the worker; the reader enforces it.
pub async fn stream(
    channel: Channel,
    request: Pieces,
    timeout: Option<Duration>,
) -> Result<Streaming<Payload>, Status> {
    send(channel, "/snakepit.v1.Worker/Stream", request, timeout).await
}

/// `Health/Check` of the server as a whole: does it serve?
pub async fn is_serving(channel: Channel, timeout: Option<Duration>) -> Result<bool, Status> {
    let request = Pieces::message(&HealthCheckRequest::default());
    let answer: HealthCheckResponse =
        within(timeout, unary(channel, "/grpc.health.v1.Health/Check", request, timeout)).await?;
    Ok(answer.status() == ServingStatus::Serving)
}

/// The deadline, kept here whatever the worker does about it.
pub async fn within<T>(timeout: Option<Duration>, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let Some(timeout) = timeout else { return work.await };
    let began = tokio::time::Instant::now();
    let late = || Status::deadline_exceeded(format!("no answer within {} ms", timeout.as_millis()));
    match tokio::time::timeout(timeout, work).await {
        Err(_) => Err(late()),
        // The other side, and tonic's own timer, call it a cancellation when the same deadline strikes there first.
        Ok(Err(status)) if status.code() == Code::Cancelled && began.elapsed() >= timeout.mul_f32(0.99) => Err(late()),
        Ok(result) => result,
    }
}

async fn unary<T: Message + Default + 'static>(
    channel: Channel,
    path: &'static str,
    body: Pieces,
    timeout: Option<Duration>,
) -> Result<T, Status> {
    let mut messages = send(channel, path, body, timeout).await?;
    let answer = messages.message().await?;
    // Only the end of the stream carries the status.
    if messages.message().await?.is_some() {
        return Err(Status::internal("more than one message answers a call"));
    }
    answer.ok_or_else(|| Status::internal("no message answers the call"))
}

async fn send<T: Message + Default + 'static>(
    mut channel: Channel,
    path: &'static str,
    body: Pieces,
    timeout: Option<Duration>,
) -> Result<Streaming<T>, Status> {
    let mut request = Request::new(Body::new(body));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(timeout) = timeout {
        let value = HeaderValue::from_str(&timeout_header(timeout)).expect("digits and a letter");
        headers.insert("grpc-timeout", value);
    }
    let failed = |error: tonic::transport::Error| Status::from_error(Box::new(error));
    std::future::poll_fn(|context| GrpcService::poll_ready(&mut channel, context)).await.map_err(failed)?;
    let response = GrpcService::call(&mut channel, request).await.map_err(failed)?;
    // A call that fails at once has its status here instead of at the end.
    if let Some(status) = Status::from_header_map(response.headers())
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    let status = response.status();
    Ok(Streaming::new_response(ProstDecoder::default(), response.into_body(), status, None, Some(MAX_MESSAGE)))
}
