//! The client against a real server on a real socket, without a BEAM.

use crate::client;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::{Health, HealthServer};
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse};
use crate::proto::snakepit::Payload;
use crate::proto::snakepit::worker_server::{Worker, WorkerServer};
use crate::wire::Pieces;
use bytes::Bytes;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};

/// Answers what it is asked, or what the frame orders.
struct Echo;

#[tonic::async_trait]
impl Worker for Echo {
    async fn call(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        match &request.get_ref().frame[..] {
            b"hang" => std::future::pending().await,
            b"refuse" => Err(Status::failed_precondition("not today: ü")),
            b"timeout" => {
                let header = request.metadata().get("grpc-timeout").unwrap().to_str().unwrap().to_string();
                Ok(Response::new(Payload { frame: header.into(), buffers: vec![] }))
            }
            _ => Ok(Response::new(request.into_inner())),
        }
    }

    type StreamStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<Payload, Status>> + Send>>;

    async fn stream(&self, request: Request<Payload>) -> Result<Response<Self::StreamStream>, Status> {
        let fails = &request.get_ref().frame[..] == b"fail";
        let mut items: Vec<_> =
            request.into_inner().buffers.into_iter().map(|frame| Ok(Payload { frame, buffers: vec![] })).collect();
        if fails {
            items.push(Err(Status::aborted("in the middle")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }
}

#[tonic::async_trait]
impl Health for Echo {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        assert_eq!(request.get_ref().service, "");
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }
}

/// A server, and the socket it listens on.
struct Server {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Server {
    fn start() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("snakepit_grpc_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self::start_at(std::env::temp_dir().join(name))
    }

    fn start_at(path: PathBuf) -> Self {
        let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        let worker =
            WorkerServer::new(Echo).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
        let server = tonic::transport::Server::builder().add_service(worker).add_service(HealthServer::new(Echo));
        let task = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        Self { path, task }
    }

    fn target(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

fn request(frame: &'static [u8], buffers: &[Bytes]) -> Pieces {
    Pieces::payload(Bytes::from_static(frame), buffers.to_vec()).unwrap()
}

const LONG: Option<Duration> = Some(Duration::from_secs(60));

#[tokio::test]
async fn payloads_of_every_size_come_back() {
    let server = Server::start();
    let channel = client::connect(&server.target()).unwrap();
    for len in [0, 1, 4095, 4096, 65_535, 65_536, 1 << 20, 20 << 20] {
        let buffers: Vec<_> = [len, 0, len / 2].iter().map(|&len| Bytes::from(vec![len as u8; len])).collect();
        let answer = client::call(channel.clone(), request(b"echo", &buffers), LONG).await.unwrap();
        assert_eq!((&answer.frame[..], answer.buffers), (&b"echo"[..], buffers));
    }
}

#[tokio::test]
async fn a_refusal_has_its_code_and_message() {
    let server = Server::start();
    let channel = client::connect(&server.target()).unwrap();
    let status = client::call(channel.clone(), request(b"refuse", &[]), None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not today: ü"));
    let answer = client::call(channel, request(b"", &[]), None).await.unwrap();
    assert!(answer.frame.is_empty() && answer.buffers.is_empty());
}

#[tokio::test]
async fn the_deadline_is_sent_and_kept() {
    let server = Server::start();
    let channel = client::connect(&server.target()).unwrap();
    let answer = client::call(channel.clone(), request(b"timeout", &[]), LONG).await.unwrap();
    assert_eq!(&answer.frame[..], b"60000m");
    for timeout in [1, 20] {
        let timeout = Some(Duration::from_millis(timeout));
        let status = client::call(channel.clone(), request(b"hang", &[]), timeout).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    }
}

#[tokio::test]
async fn a_stream_ends_or_fails() {
    let server = Server::start();
    let channel = client::connect(&server.target()).unwrap();
    let buffers: Vec<_> = (0..100_u8).map(|n| Bytes::from(vec![n; 1000 * n as usize])).collect();
    for (frame, end) in [(&b"end"[..], None), (b"fail", Some(Code::Aborted))] {
        let mut items = client::stream(channel.clone(), request(frame, &buffers), LONG).await.unwrap();
        for buffer in &buffers {
            assert_eq!(items.message().await.unwrap().unwrap().frame, buffer);
        }
        match items.message().await {
            Ok(None) => assert_eq!(end, None),
            Err(status) => assert_eq!(Some(status.code()), end),
            Ok(Some(_)) => panic!("one item too many"),
        }
    }
}

#[tokio::test]
async fn a_lost_server_is_unavailable_until_it_is_back() {
    let server = Server::start();
    let (path, target) = (server.path.clone(), server.target());
    let channel = client::connect(&target).unwrap();
    assert!(client::is_serving(channel.clone(), LONG).await.unwrap());
    drop(server);
    // Its connections are tasks of their own: they end with the process, here only at the next connect.
    let lost = client::connect(&target).unwrap();
    let status = client::call(lost.clone(), request(b"echo", &[]), LONG).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(crate::failure::describe(&status).contains("No such file"), "{}", crate::failure::describe(&status));
    let _server = Server::start_at(path);
    assert!(client::call(lost, request(b"echo", &[]), LONG).await.is_ok());
}

#[tokio::test]
async fn only_two_kinds_of_target_exist() {
    for target in ["", "unix:", "unix:relative", "https://host:1", "host:1", "http://", "http://a b", "/path"] {
        let error = client::connect(target).err();
        assert!(error.is_some_and(|error| error.contains("is no target")), "{target}");
    }
    assert!(client::connect("http://127.0.0.1:1").is_ok());
}
