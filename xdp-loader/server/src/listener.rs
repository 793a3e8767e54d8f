//! The foundation of all HTTP listeners: connections are bounded in number, and each in what its headers may take.
//!
//! A client that is one too many waits in the kernel's backlog and takes no descriptor of ours; one that is slow with its headers, or
//! idle between requests, is closed.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, serve::Listener};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

/// What clients of a listener may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Bytes of a request's line and headers together; at least 8,192.
    pub(crate) header_bytes: usize,
    /// The time from a connection's beginning, or the last answer, to the end of a request's headers.
    pub(crate) header_time: Duration,
    /// How long a connection may last, whatever it does.
    pub(crate) life: Duration,
}

/// Listens on an address of this node.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves `router`, whose requests have the address of their peer as an extension, until `stop` ends; then takes no more requests, and returns when those under way are answered.
pub(crate) async fn serve<L>(mut listener: L, router: Router, limits: Limits, stop: impl Future<Output = ()>)
where
    L: Listener<Addr: Clone + Send + Sync + 'static>,
{
    let room = Arc::new(Semaphore::new(limits.connections));
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(limits.header_bytes);
    loop {
        let next = async {
            // Never closed, so that there is always a permit to wait for.
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, (stream, peer)) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        let router = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            router.call(request)
        });
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // What goes wrong with a connection is its client's to notice.
            let _ = timeout(limits.life, connection).await;
            drop(permit);
        });
    }
    drop(listener);
    connections.shutdown().await;
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use std::future;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lvx\r\nConnection: close\r\n\r\n";

    fn start(limits: Limits) -> SocketAddr {
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "here"));
        tokio::spawn(serve(listener, router, limits, future::pending()));
        address
    }

    fn limits() -> Limits {
        Limits {
            connections: 4,
            header_bytes: 8_192,
            header_time: Duration::from_millis(300),
            life: PATIENCE,
        }
    }

    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        answer
    }

    #[tokio::test]
    async fn idle_connections_keep_nobody_out_for_longer_than_their_header_time() {
        let address = start(limits());
        let mut idle = Vec::new();
        for _ in 0..20 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(ask(address, REQUEST).await.ends_with("here"));
        for mut stream in idle {
            let mut answer = Vec::new();
            let closed = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
            assert!(closed.is_ok(), "still open");
        }
    }

    #[tokio::test]
    async fn headers_without_end_are_refused() {
        let address = start(limits());
        let long = format!("GET / HTTP/1.1\r\nHost: lvx\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000));
        let answer = ask(address, long.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
    }

    #[tokio::test]
    async fn a_request_under_way_is_answered_after_the_stop() {
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let (entered, mut inside) = tokio::sync::mpsc::channel(1);
        let (go_on, wait) = tokio::sync::watch::channel(false);
        let router = Router::new().route(
            "/",
            get(move || {
                let (entered, mut wait) = (entered.clone(), wait.clone());
                async move {
                    entered.send(()).await.unwrap();
                    wait.wait_for(|on| *on).await.unwrap();
                    "late"
                }
            }),
        );
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn(serve(listener, router, limits(), async {
            let _ = stopped.await;
        }));
        let asked = tokio::spawn(ask(address, REQUEST));
        inside.recv().await.unwrap();
        stop.send(()).unwrap();
        go_on.send(true).unwrap();
        assert!(asked.await.unwrap().ends_with("late"));
        timeout(PATIENCE, served).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
