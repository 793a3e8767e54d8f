//! The foundation of all HTTP listeners: connections are bounded in number, and each in what its headers may take.
//!
//! A client that is one too many takes the place of the one that is idle longest. If all are being answered it waits, and those after
//! it wait in the kernel's backlog and take no descriptor of ours. One that is slow with its headers, or idle between requests, is
//! closed.

mod idle;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, serve::Listener};
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
use rustix::process::{Resource, getrlimit};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};

use self::idle::{Answer, Connection, Idle};

/// The part of the descriptors that the daemon may have that one listener may take.
const SHARE: u64 = 8;

/// What clients of a listener may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once; fewer where the daemon may not have eight times as many descriptors.
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

/// Serves `router`, whose requests have the address of their peer as an extension, until `stop` ends; then takes no more requests, and
/// returns when those under way are answered.
pub(crate) async fn serve<L>(mut listener: L, router: Router, limits: Limits, stop: impl Future<Output = ()>)
where
    L: Listener<Addr: Clone + Send + Sync + 'static>,
{
    let room = Arc::new(Semaphore::new(limits.connections.min(share())));
    let idle = Arc::new(Idle::default());
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(limits.header_bytes);
    loop {
        let next = async {
            let (stream, peer) = listener.accept().await;
            if room.available_permits() == 0 {
                idle.close_longest();
            }
            // Never closed, so that there is always a permit to wait for.
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            (permit, (stream, peer))
        };
        let (permit, (stream, peer)) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        let client = Connection::new(&idle);
        let (asked, router) = (Arc::clone(&client), TowerToHyperService::new(router.clone()));
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let (_busy, answer) = (asked.busy(), router.call(request));
            async {
                let answer = answer.await?;
                Ok::<_, std::convert::Infallible>(answer.map(|body| Body::new(Answer { body, _busy })))
            }
        });
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // What goes wrong with a connection is its client's to notice.
            tokio::select! {
                _ = timeout(limits.life, connection) => {}
                () = client.closed() => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    connections.shutdown().await;
}

/// Waits until the sender is dropped, as who serves until then does.
pub(crate) async fn until_dropped(mut sender: watch::Receiver<()>) {
    while sender.changed().await.is_ok() {}
}

/// Connections that a listener may have of all descriptors that the daemon may have.
fn share() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / SHARE).unwrap_or(usize::MAX).max(1)
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

    /// Nobody goes for being slow.
    fn patient() -> Limits {
        Limits {
            header_time: PATIENCE * 10,
            life: PATIENCE * 10,
            ..limits()
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
    async fn a_client_takes_the_place_of_the_one_that_is_idle_longest() {
        let address = start(patient());
        let mut idle = Vec::new();
        for _ in 0..20 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(ask(address, REQUEST).await.ends_with("here"));
        // The first ones had to go, and nobody else.
        for stream in &mut idle[..17] {
            let closed = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
            assert!(closed.is_ok(), "still open");
        }
        for stream in &mut idle[17..] {
            stream.write_all(REQUEST).await.unwrap();
            let mut answer = String::new();
            let answered = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
            assert!(answered.is_ok() && answer.ends_with("here"), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn who_is_being_answered_keeps_the_place() {
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let (entered, mut inside) = tokio::sync::mpsc::channel(1);
        let (go_on, wait) = watch::channel(false);
        let slow = get(move || {
            let (entered, mut wait) = (entered.clone(), wait.clone());
            async move {
                entered.send(()).await.unwrap();
                wait.wait_for(|on| *on).await.unwrap();
                "late"
            }
        });
        let router = Router::new().route("/", slow);
        tokio::spawn(serve(listener, router, patient(), future::pending()));
        let asked = tokio::spawn(ask(address, REQUEST));
        inside.recv().await.unwrap();
        let mut others = Vec::new();
        for _ in 0..20 {
            others.push(TcpStream::connect(address).await.unwrap());
        }
        // The first of them is closed: one after it has its place.
        timeout(PATIENCE, others[0].read_to_end(&mut Vec::new()))
            .await
            .unwrap()
            .unwrap();
        go_on.send(true).unwrap();
        assert!(asked.await.unwrap().ends_with("late"));
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
        let (go_on, wait) = watch::channel(false);
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
