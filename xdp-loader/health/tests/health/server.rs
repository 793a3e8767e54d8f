//! Servers that run as processes of their own: this test program, started again.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use lvx_test_kit::{Namespace, process::Running};

use crate::lab::start;

/// Says which server to be, and where: `grpc 10.9.0.11:80`.
const VARIABLE: &str = "LVX_TEST_SERVER";

/// Starts a server of this file in a namespace.
pub fn serve(namespace: &Namespace, kind: &str, address: &str) -> Running {
    let this = env::current_exe().unwrap();
    let variable = format!("{VARIABLE}={kind} {address}");
    start(
        namespace,
        "env",
        [
            &variable,
            this.to_str().unwrap(),
            "--exact",
            "server::be_a_server",
            "--ignored",
            "--nocapture",
        ],
    )
}

#[test]
#[ignore = "a server for the other tests, which start it"]
fn be_a_server() {
    let Ok(wish) = env::var(VARIABLE) else { return };
    let (kind, address) = wish.split_once(' ').unwrap();
    match kind {
        "udp" => {
            let socket = UdpSocket::bind(address).unwrap();
            let mut buffer = [0; 2_048];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                socket.send_to(&buffer[..length], from).unwrap();
            }
        }
        // Answers PONG to whatever comes.
        "tcp" => answer(address, |stream| {
            let mut buffer = [0; 512];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(b"+PONG\r\n");
        }),
        // The same, and leaves it to its client to end the connection.
        "patient" => answer(address, |stream| {
            let mut buffer = [0; 512];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(b"+PONG\r\nand more\r\n");
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
        }),
        // An agent that is half loaded.
        "agent" => answer(address, |stream| {
            let _ = stream.write_all(b"up 50%\n");
        }),
        // Serves for a second and is gone for a second.
        "flapping" => loop {
            let listener = TcpListener::bind(address).unwrap();
            listener.set_nonblocking(true).unwrap();
            for _ in 0..100 {
                while listener.accept().is_ok() {}
                thread::sleep(Duration::from_millis(10));
            }
            drop(listener);
            thread::sleep(Duration::from_secs(1));
        },
        "grpc" => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (reporter, service) = tonic_health::server::health_reporter();
                reporter
                    .set_service_status("shop", tonic_health::ServingStatus::Serving)
                    .await;
                reporter
                    .set_service_status("stock", tonic_health::ServingStatus::NotServing)
                    .await;
                let address = address.parse().unwrap();
                tonic::transport::Server::builder()
                    .add_service(service)
                    .serve(address)
                    .await
                    .unwrap();
            });
        }
        other => panic!("no server {other}"),
    }
}

fn answer(address: &str, with: impl Fn(&mut std::net::TcpStream)) {
    for stream in TcpListener::bind(address).unwrap().incoming() {
        with(&mut stream.unwrap());
    }
}
