//! The generator's connections and the sink against each other and against real peers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;

use super::*;
use crate::load::generator;
use crate::load::sink::{self, Arrived};

/// A sink, and what it counts.
async fn sink(delay: Duration) -> (SocketAddr, Arc<Arrived>) {
    let arrived = Arc::new(Arrived::default());
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    tokio::spawn(sink::serve(address, Arc::clone(&arrived), delay));
    (address, arrived)
}

async fn connect(address: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// A server of a library: takes what begins with 0 and whose length is right, and refuses the rest in the
/// headers of its answer.
async fn library() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await.ok();
            });
        }
    });
    address
}

type Body = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    assert_eq!(request.method(), "POST");
    let grpc = request.uri().path() == GRPC_PATH;
    if grpc {
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        assert!(request.uri().authority().is_some());
    }
    let body = request.into_body().collect().await?.to_bytes();
    let taken = body.first() == Some(&0);
    let mut frames = Vec::new();
    if taken && grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        frames = vec![Ok(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
    }
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    if !grpc {
        response.headers_mut().insert("content-length", HeaderValue::from_static("0"));
        *response.status_mut() = if taken { http::StatusCode::OK } else { http::StatusCode::SERVICE_UNAVAILABLE };
    } else if !taken {
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("14"));
    }
    Ok(response)
}

#[tokio::test]
async fn calls_of_every_size_reach_a_librarys_server_and_a_refusal_is_told_from_success() {
    let address = library().await;
    let mut connection = Grpc::open(connect(address).await, address).await.unwrap();
    for size in [5, 5_000, 500_000, 3_000_000, 6] {
        assert!(connection.call(&vec![0; size]).await.unwrap(), "{size} bytes");
        assert!(!connection.call(&vec![1; size]).await.unwrap(), "{size} bytes");
    }
}

#[tokio::test]
async fn posts_of_every_size_reach_a_librarys_server_and_a_refusal_is_told_from_success() {
    let address = library().await;
    let mut connection = Http::open(connect(address).await, address).unwrap();
    for size in [1, 5_000, 500_000, 2] {
        assert!(connection.post(&vec![0; size]).await.unwrap(), "{size} bytes");
        assert!(!connection.post(&vec![1; size]).await.unwrap(), "{size} bytes");
    }
}

#[tokio::test]
async fn the_sink_answers_the_generator_and_counts_every_byte() {
    let (address, arrived) = sink(Duration::ZERO).await;
    let mut connection = Grpc::open(connect(address).await, address).await.unwrap();
    let sizes = [5, 70_000, 2_000_000, 9_000_000];
    for size in sizes {
        assert!(connection.call(&vec![0; size]).await.unwrap());
    }
    assert_eq!(arrived.requests(), sizes.len() as u64);
    assert_eq!(arrived.bytes(), sizes.iter().sum::<usize>() as u64);
}

#[tokio::test]
async fn the_sink_answers_a_librarys_client_whose_calls_overlap() {
    for delay in [Duration::ZERO, Duration::from_millis(5)] {
        let (address, arrived) = sink(delay).await;
        let send = generator::grpc(connect(address).await).await.unwrap();
        let call = |size: usize| {
            let mut send = send.clone();
            async move {
                let request = Request::post(format!("http://{address}{GRPC_PATH}"));
                let request = request.body(Full::new(Bytes::from(vec![0; size]))).unwrap();
                let response = send.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                assert_eq!(response.headers()["content-type"], "application/grpc");
                let body = response.into_body().collect().await.unwrap();
                assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
                assert_eq!(body.to_bytes(), [0; 5][..]);
            }
        };
        for _ in 0..20 {
            tokio::join!(call(5), call(100_000), call(1_000_000), call(50));
        }
        assert_eq!(arrived.requests(), 80);
        assert_eq!(arrived.bytes(), 20 * 1_100_055);
    }
}

#[test]
fn the_head_of_an_answer_tells_success_length_and_end() {
    let parsed = |text: &str| Head::parse(text.as_bytes()).map(|head| (head.taken, head.length, head.closes));
    assert_eq!(parsed("HTTP/1.1 200 OK\r\nContent-Length: 7").unwrap(), (true, 7, false));
    let refused = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nConnection: close";
    assert_eq!(parsed(refused).unwrap(), (false, 0, true));
    assert!(parsed("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked").is_err());
}
