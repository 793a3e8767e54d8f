//! Backends that mean harm, or are broken: they cost bounded time and memory.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use lvx_health::probe::{Probe, Reach, Target};
use lvx_model::Check;

/// Serves on the loopback of the test's own namespace, one thread per connection.
fn hostile(behave: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4_096]);
                behave(stream);
            });
        }
    });
    port
}

fn endlessly(mut stream: TcpStream, begin: &[u8], piece: &[u8], pause: Duration) {
    if stream.write_all(begin).is_err() {
        return;
    }
    while stream.write_all(piece).is_ok() {
        thread::sleep(pause);
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn hostile_backends_cost_bounded_time_and_memory() {
    type Case = (&'static str, &'static str, fn(TcpStream), &'static str);
    let cases: [Case; 11] = [
        (
            "endless header line",
            "type = \"http\"",
            |stream| endlessly(stream, b"HTTP/1.1 200 OK\r\nx: ", &[b'a'; 65_536], Duration::ZERO),
            "too large",
        ),
        (
            "endless headers",
            "type = \"http\"",
            |stream| endlessly(stream, b"HTTP/1.1 200 OK\r\n", b"x-y: z\r\n", Duration::ZERO),
            "not HTTP as it should be",
        ),
        (
            "endless 1xx",
            "type = \"http\"",
            |stream| endlessly(stream, b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", Duration::ZERO),
            "sends more than 192 KiB",
        ),
        (
            "slowloris answer",
            "type = \"http\"",
            |stream| endlessly(stream, b"HTTP/1.1 200 OK\r\n", b"x", Duration::from_millis(30)),
            "no answer within",
        ),
        (
            "1 GB body",
            "type = \"http\"\nbody = \"never there\"",
            |stream| {
                endlessly(
                    stream,
                    b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n",
                    &[b'a'; 65_536],
                    Duration::ZERO,
                );
            },
            "is not in the first 64 KiB",
        ),
        (
            "endless chunks",
            "type = \"http\"\nbody_regex = \"(x+x+)+y\"",
            |stream| {
                endlessly(
                    stream,
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                    b"4\r\nxxxx\r\n",
                    Duration::ZERO,
                );
            },
            "",
        ),
        (
            "body whose end never comes",
            "type = \"http\"\nbody = \"never there\"",
            |stream| {
                endlessly(
                    stream,
                    b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n",
                    b"x",
                    Duration::from_millis(30),
                );
            },
            "the body did not end within 250 ms (",
        ),
        (
            "body whose beginning never comes",
            "type = \"http\"\nload_field = \"/load\"",
            |stream| {
                endlessly(
                    stream,
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                    b"",
                    Duration::from_millis(30),
                );
            },
            "the body did not end within 250 ms (0 bytes came)",
        ),
        (
            "no TLS at all",
            "type = \"https\"",
            |stream| endlessly(stream, b"", &[0x16; 4_096], Duration::ZERO),
            "TLS",
        ),
        (
            "endless stream for tcp",
            "type = \"tcp\"\nsend = \"x\"\nexpect = \"never there\"",
            |stream| endlessly(stream, b"", &[b'a'; 4_096], Duration::ZERO),
            "is not in the first 16384 bytes",
        ),
        (
            "noise for grpc",
            "type = \"grpc\"",
            |stream| endlessly(stream, b"", &[0x7f; 4_096], Duration::ZERO),
            "",
        ),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for (what, check, behave, part) in cases {
        let port = hostile(behave);
        let check =
            format!("{check}\nport = {port}\ninterval = \"300ms\"\ntimeout = \"250ms\"\nfall = 2\njitter = 0\n");
        let check: Check = toml::from_str(&check).unwrap();
        let probe = Probe::new(&check).unwrap();
        let target = Target {
            service: "tcp://10.9.0.100:80".parse().unwrap(),
            backend: [127, 0, 0, 1].into(),
            port,
            reach: Reach::Address,
        };
        let before = resident_kib();
        let begin = Instant::now();
        for _ in 0..4 {
            let report = runtime.block_on(probe.run(&target));
            assert_eq!(report.outcome.name(), "down", "{what}: {report:?}");
            let reason = report.reason.unwrap();
            assert!(reason.contains(part), "{what}: {reason}");
            assert!(reason.len() < 300 && !reason.contains('\n'), "{what}: {reason}");
        }
        let (took, grew) = (begin.elapsed() / 4, resident_kib().saturating_sub(before));
        println!(
            "FIGURE {what}: {} ms per probe, {grew} KiB more resident",
            took.as_millis()
        );
        assert!(took < Duration::from_secs(2), "{what}");
        // The hostile servers are threads of the same process.
        assert!(grew < 32 * 1024, "{what}: {grew} KiB");
    }
}

#[test]
fn hundreds_of_hostile_backends_do_not_delay_the_probe_of_a_good_one() {
    let bad = hostile(|stream| endlessly(stream, b"HTTP/1.1 200 OK\r\n", b"x", Duration::from_millis(100)));
    let good = hostile(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let probe = |port: u16| {
            let check: Check = toml::from_str(&format!("type = \"http\"\nport = {port}\ninterval = \"1s\"")).unwrap();
            std::sync::Arc::new(Probe::new(&check).unwrap())
        };
        let target = Target {
            service: "tcp://10.9.0.100:80".parse().unwrap(),
            backend: [127, 0, 0, 1].into(),
            port: 80,
            reach: Reach::Address,
        };
        let slow = probe(bad);
        for _ in 0..300 {
            let slow = std::sync::Arc::clone(&slow);
            tokio::spawn(async move { slow.run(&target).await });
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let report = probe(good).run(&target).await;
        println!(
            "FIGURE a good backend among 300 slow ones: {} ms",
            report.latency.as_millis()
        );
        assert_eq!(report.outcome.name(), "up", "{report:?}");
    });
}
