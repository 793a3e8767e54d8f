//! The API as another program would use it: HTTP on the socket.

#![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{daemon::Daemon, test_daemon::TestDaemon};
use lvx_model::settings::UnknownFragments;

const WEB: &str = "/v1/services/tcp%3A%2F%2F10.0.0.100%3A80";

async fn call_raw(daemon: &TestDaemon, method: &str, path: &str, body: impl Into<Bytes>) -> (u16, String) {
    let stream = UnixStream::connect(daemon.socket()).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "lvx")
        .body(Full::new(body.into()));
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.into()).unwrap())
}

async fn call(daemon: &TestDaemon, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (status, text) = call_raw(daemon, method, path, body).await;
    (
        status,
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{method} {path}: {text}")),
    )
}

async fn with_web() -> TestDaemon {
    let daemon = TestDaemon::start(9);
    let body = json!({"address": "tcp://10.0.0.100:80", "backend": [{"address": "10.0.0.11"}]});
    let (status, answer) = call(&daemon, "POST", "/v1/services", body).await;
    assert_eq!((status, &answer["scheduler"]), (201, &json!("mh")));
    daemon
}

#[tokio::test]
async fn services_and_backends_are_added_changed_and_removed() {
    let daemon = with_web().await;
    let (status, answer) = call(&daemon, "PATCH", WEB, json!({"forward": "nat"})).await;
    assert_eq!((status, &answer["forward"]), (200, &json!("nat")));
    let backends = format!("{WEB}/backends");
    let (status, answer) = call(
        &daemon,
        "POST",
        &backends,
        json!({"address": "10.0.0.12:8080", "weight": 3}),
    )
    .await;
    assert_eq!(
        (status, answer),
        (201, json!({"address": "10.0.0.12:8080", "weight": 3}))
    );
    let second = format!("{backends}/10.0.0.12%3A8080");
    let (status, answer) = call(&daemon, "PATCH", &second, json!({"weight": 0})).await;
    assert_eq!((status, &answer["weight"]), (200, &json!(0)));
    let (status, answer) = call(&daemon, "POST", &format!("{second}/drain"), json!({"drain": true})).await;
    assert_eq!((status, &answer["drain"]), (200, &json!(true)));
    let (_, answer) = call(&daemon, "GET", WEB, Value::Null).await;
    assert_eq!(
        answer,
        json!({"address": "tcp://10.0.0.100:80", "forward": "nat", "scheduler": "mh", "backend": [
            {"address": "10.0.0.11", "weight": 1}, {"address": "10.0.0.12:8080", "weight": 0, "drain": true}]})
    );
    assert_eq!(call(&daemon, "DELETE", &second, Value::Null).await.0, 200);
    assert_eq!(call(&daemon, "DELETE", WEB, Value::Null).await.0, 200);
    assert_eq!(
        call(&daemon, "GET", "/v1/services", Value::Null).await,
        (200, json!([]))
    );
    assert!(daemon.recording.last().services().is_empty());
}

#[tokio::test]
async fn every_failure_has_its_status_and_says_why() {
    let daemon = with_web().await;
    let backends = format!("{WEB}/backends");
    let one = format!("{backends}/10.0.0.11");
    let cases = [
        (
            "POST",
            "/v1/services",
            json!({"address": "tcp://10.0.0.100:80"}),
            409,
            "exists already",
        ),
        (
            "POST",
            "/v1/services",
            json!({"address": "tcp://224.0.0.1:80"}),
            422,
            "multicast",
        ),
        (
            "POST",
            "/v1/services",
            json!({"address": "10.0.0.1:80"}),
            422,
            "names no protocol",
        ),
        (
            "POST",
            "/v1/services",
            json!({"adress": "tcp://10.0.0.1:80"}),
            422,
            "unknown field `adress`",
        ),
        (
            "POST",
            "/v1/services",
            json!({"address": "tcp://10.0.0.1:80", "scheduler": "lblc"}),
            422,
            "`mh`, `rr`, `wrr`",
        ),
        (
            "POST",
            "/v1/services",
            json!({"address": "tcp://10.0.0.1:80", "mh_slots": 1000}),
            422,
            "must be a prime",
        ),
        ("POST", "/v1/services", Value::Null, 400, "EOF"),
        (
            "PATCH",
            "/v1/services/tcp%3A%2F%2F10.0.0.9%3A80",
            json!({}),
            404,
            "does not exist",
        ),
        ("GET", "/v1/services/10.0.0.9", Value::Null, 400, "names no protocol"),
        (
            "POST",
            &backends,
            json!({"address": "10.0.0.11"}),
            409,
            "exists already",
        ),
        (
            "POST",
            &backends,
            json!({"address": "10.0.0.12", "weight": 70_000}),
            422,
            "out of range",
        ),
        (
            "POST",
            &backends,
            json!({"address": "10.0.0.12", "weight": -1}),
            422,
            "out of range",
        ),
        (
            "POST",
            &backends,
            json!({"address": "10.0.0.12", "port": 8080}),
            422,
            "dr cannot rewrite ports",
        ),
        (
            "POST",
            &backends,
            json!({"address": "2001:db8::1"}),
            422,
            "one address family",
        ),
        ("PATCH", &one, json!({"weight": 65_536}), 422, "out of range"),
        (
            "PATCH",
            &format!("{backends}/10.0.0.99"),
            json!({"weight": 1}),
            404,
            "does not exist in service",
        ),
        (
            "DELETE",
            &format!("{backends}/10.0.0.99"),
            Value::Null,
            404,
            "does not exist in service",
        ),
        (
            "DELETE",
            &format!("{backends}/web1"),
            Value::Null,
            400,
            "is not a backend's address",
        ),
        ("GET", "/v1/export?format=yaml", Value::Null, 400, "yaml"),
        (
            "POST",
            "/v1/apply",
            json!({"service": [], "more": 1}),
            400,
            "body:1: unknown field `more`",
        ),
        ("GET", "/v1/services/%FF", Value::Null, 400, "UTF-8"),
        ("GET", "/v1/nothing", Value::Null, 404, "there is nothing here"),
        ("PUT", "/v1/services", Value::Null, 405, "not this method"),
    ];
    let before = daemon.recording.last();
    for (method, path, body, status, part) in cases {
        let (answered, answer) = call(&daemon, method, path, body.clone()).await;
        let message = answer["error"].as_str().unwrap();
        assert_eq!(answered, status, "{method} {path} {body}: {message}");
        assert!(
            message.contains(part),
            "{method} {path} {body}: {message:?} does not say {part:?}"
        );
        assert!(!message.contains('\n') && !message.contains("at line"), "{message:?}");
    }
    assert_eq!(daemon.recording.last(), before);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let daemon = TestDaemon::start(9);
    let (status, answer) = call_raw(&daemon, "POST", "/v1/apply", vec![b' '; 16 * 1024 * 1024 + 1]).await;
    assert_eq!(status, 413, "{answer}");
}

#[tokio::test]
async fn what_the_dataplane_has_no_room_for_is_refused() {
    let daemon = TestDaemon::start(0);
    let (status, answer) = call(
        &daemon,
        "POST",
        "/v1/services",
        json!({"address": "tcp://10.0.0.100:80"}),
    )
    .await;
    assert_eq!(status, 422);
    assert!(
        answer["error"].as_str().unwrap().contains("raise `max_services`"),
        "{answer}"
    );
    assert_eq!(
        call(&daemon, "GET", "/v1/services", Value::Null).await,
        (200, json!([]))
    );
}

#[tokio::test]
async fn export_is_what_apply_reads_in_both_formats() {
    let daemon = with_web().await;
    for format in ["toml", "json"] {
        let (_, text) = call_raw(&daemon, "GET", &format!("/v1/export?format={format}"), "").await;
        let (status, answer) = call_raw(&daemon, "POST", "/v1/apply", text.clone()).await;
        assert_eq!(
            (status, answer.as_str()),
            (200, "{\"applied\":true,\"changes\":[]}"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_body_with_a_byte_order_mark_is_read() {
    let daemon = with_web().await;
    let (status, answer) = call_raw(&daemon, "PATCH", WEB, "\u{feff}{\"forward\": \"nat\"}").await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn a_dry_run_tells_the_difference_and_changes_nothing() {
    let daemon = with_web().await;
    let (status, answer) = call_raw(&daemon, "POST", "/v1/apply?dry_run=true", "service = []").await;
    assert_eq!(status, 200);
    assert!(
        answer.contains("\"applied\":false") && answer.contains("remove_service"),
        "{answer}"
    );
    assert_eq!(daemon.recording.last().services().len(), 1);
}

#[tokio::test]
async fn connections_are_lines_of_json() {
    let daemon = with_web().await;
    let (status, text) = call_raw(&daemon, "GET", "/v1/conns?client=192.0.2.1", "").await;
    assert_eq!(status, 200);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["backend"], "10.0.0.11:80");
    let (_, none) = call_raw(&daemon, "GET", "/v1/conns?client=192.0.2.2", "").await;
    assert_eq!(none, "");
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let daemon = with_web().await;
    let message = Daemon::claim(&daemon.settings()).unwrap_err().to_string();
    assert!(message.contains("another lvx daemon uses"), "{message}");
    let mut other = daemon.settings();
    other.state_dir = daemon.path().join("other");
    let message = Daemon::claim(&other).unwrap_err().to_string();
    assert!(message.contains("another lvx daemon answers at"), "{message}");
    assert_eq!(call(&daemon, "GET", "/v1/status", Value::Null).await.0, 200);
}

#[tokio::test]
async fn settings_that_are_read_again_take_effect_and_wrong_ones_do_not() {
    let daemon = with_web().await;
    let mut given = daemon.recording.settings();
    let lan = "interfaces = [\"lan0\"]\n";
    daemon.reload(&format!("{lan}[timeouts]\nudp = \"7s\"\n")).await;
    let udp = given.wait_for(|given| !given.is_empty()).await.unwrap()[0].timeouts.udp;
    assert_eq!(udp, Some("7s".parse().unwrap()));
    for wrong in ["[timeouts]\nudp = \"never\"\n", "interfaces = []\n"] {
        // The third is taken when the first has been read.
        for _ in 0..3 {
            daemon.reload(wrong).await;
        }
    }
    assert_eq!(given.borrow().len(), 1, "what is wrong changes nothing");
    daemon.reload(&format!("{lan}unknown_fragments = \"drop\"\n")).await;
    let last = given.wait_for(|given| given.len() > 1).await.unwrap()[1].clone();
    assert_eq!(last.timeouts.udp, lvx_model::Timeouts::IPVS.udp);
    assert_eq!(last.unknown_fragments, UnknownFragments::Drop);
    assert_eq!(call(&daemon, "GET", "/v1/status", Value::Null).await.0, 200);
}

#[tokio::test]
async fn a_daemon_whose_task_dies_ends_and_names_it() {
    let daemon = with_web().await;
    daemon.recording.die("reconciler");
    let message = daemon.ended().await.unwrap_err().to_string();
    assert!(message.contains("task `reconciler` has ended"), "{message}");
}

#[tokio::test]
async fn a_start_that_fails_is_taken_back_and_an_end_is_not() {
    let daemon = with_web().await;
    let recording = std::sync::Arc::clone(&daemon.recording);
    let daemon = daemon.restart(0).await;
    assert!(!recording.is_taken_back());
    let recording = std::sync::Arc::clone(&daemon.recording);
    assert!(daemon.ended().await.is_err(), "there is no room for the service");
    assert!(recording.is_taken_back());
}

#[tokio::test]
async fn a_restarted_daemon_serves_what_was_acknowledged() {
    let daemon = with_web().await;
    let before = daemon.recording.last();
    let daemon = daemon.restart(9).await;
    let (_, answer) = call(&daemon, "GET", WEB, Value::Null).await;
    assert_eq!(answer["backend"][0]["address"], "10.0.0.11");
    assert_eq!(daemon.recording.last(), before);
}

#[tokio::test]
async fn a_daemon_that_is_asked_to_stop_stops_and_removes_its_socket() {
    let daemon = with_web().await;
    let socket = daemon.socket();
    assert_eq!(call_raw(&daemon, "POST", "/v1/stop", "").await.0, 202);
    daemon.ended().await.unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_daemon_that_cannot_start_leaves_no_socket() {
    let daemon = with_web().await;
    let (socket, mut settings) = (daemon.socket(), daemon.settings());
    assert_eq!(call_raw(&daemon, "POST", "/v1/stop", "").await.0, 202);
    let dir = daemon.ended().await.unwrap();
    settings.metrics = Some("192.0.2.1:9105".parse().unwrap());
    let message = Daemon::claim(&settings).unwrap_err().to_string();
    assert!(message.contains("cannot serve metrics at 192.0.2.1:9105"), "{message}");
    assert!(!socket.exists());
    drop(dir);
}

#[tokio::test]
async fn metrics_are_served_where_the_settings_say() {
    let daemon = with_web().await;
    let address = daemon.metrics_address();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: lvx\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    for line in [
        "# TYPE lvx_backend_packets_in_total counter",
        "lvx_backend_packets_in_total{service=\"tcp://10.0.0.100:80\",backend=\"10.0.0.11:80\"} 12",
        "lvx_packets_total{interface=\"lan0\",verdict=\"not_for_a_service\"} 5",
        "lvx_backend_active_connections{service=\"tcp://10.0.0.100:80\",backend=\"10.0.0.11:80\"} 2",
        "lvx_backend_up{service=\"tcp://10.0.0.100:80\",backend=\"10.0.0.11:80\"} 1",
    ] {
        assert!(answer.lines().any(|found| found == line), "no {line:?} in\n{answer}");
    }
}
