//! Every kind of probe, against a real server: stopped, started again, stopped in its tracks.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Command,
    sync::Arc,
    time::Duration,
};

use lvx_model::{Desired, health::State, settings::HealthSettings};
use lvx_test_kit::{
    Namespace,
    process::{Running, finish},
};

use crate::{
    lab::{Net, Watch, figure, settings, start, tcp_counter},
    server::serve,
};

/// `fall` 2, 200 ms apart, with 150 ms to answer.
const TIMING: &str = "interval = \"200ms\"\ntimeout = \"150ms\"\nrise = 2\nfall = 2\n";
const PROMISED: Duration = Duration::from_millis(2 * 200 + 150);

/// Takes a server through stop and start and, where that is another thing, through SIGSTOP and SIGCONT.
fn prove(kind: &'static str, check: &str, stoppable: bool, start: impl Fn(&Net, &Namespace) -> Running + Sync) {
    let net = Net::new(1);
    let text = format!(
        "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[[service.health]]\n{TIMING}{check}\n\
         [[service.backend]]\naddress = \"10.9.0.11\"\n"
    );
    net.balancer.block_on(async || {
        let mut server = start(&net, &net.backends[0]);
        let mut watch = Watch::start(&text, settings()).await;
        watch.until("10.9.0.11", State::Up).await;
        server.kill().unwrap();
        let took = watch.until_health("10.9.0.11", "out", |health| !health.takes_new).await;
        figure(&format!("{kind}, stopped"), took, PROMISED);
        println!("  because: {}", watch.reason("10.9.0.11").await);
        server = start(&net, &net.backends[0]);
        let took = watch.until_health("10.9.0.11", "in", |health| health.takes_new).await;
        figure(
            &format!("{kind}, started again (with the server's own start)"),
            took,
            PROMISED,
        );
        if stoppable {
            // Not within the hold-out for flapping of the first fall.
            server.signal("STOP").unwrap();
            let took = watch.until_health("10.9.0.11", "out", |health| !health.takes_new).await;
            figure(&format!("{kind}, SIGSTOP"), took, PROMISED);
            println!("  because: {}", watch.reason("10.9.0.11").await);
            server.signal("CONT").unwrap();
        }
        server.kill().unwrap();
    });
}

/// nginx with one location per answer, in one process, so that a signal stops all of it.
pub fn nginx(net: &Net, namespace: &Namespace) -> Running {
    let dir = net.path();
    if !dir.join("key.pem").exists() {
        let arguments = format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=shop.example \
             -addext subjectAltName=DNS:shop.example -addext basicConstraints=critical,CA:FALSE -keyout {0}/key.pem -out {0}/cert.pem",
            dir.display()
        );
        finish(Command::new("openssl").args(arguments.split_whitespace())).unwrap();
    }
    let config = format!(
        "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log;\nevents {{}}\nhttp {{ access_log off;\n\
         server {{ listen 80; listen 443 ssl; listen [::]:80; ssl_certificate {0}/cert.pem; ssl_certificate_key {0}/key.pem;\n\
         location / {{ return 200 'all is well'; }}\nlocation /load {{ return 200 '{{\"system\":{{\"load\":50}}}}'; }}\n\
         location /state {{ root {0}; try_files /drain /well =503; }} }} }}\n",
        dir.display()
    );
    fs::write(dir.join("nginx.conf"), config).unwrap();
    let conf = dir.join("nginx.conf");
    start(
        namespace,
        "nginx",
        ["-p", dir.to_str().unwrap(), "-c", conf.to_str().unwrap()],
    )
}

/// unbound on port 5353 of the first backend, which knows `www.shop.example`.
pub fn unbound(net: &Net, namespace: &Namespace) -> Running {
    let config = format!(
        "server:\n interface: 10.9.0.11@5353\n access-control: 0.0.0.0/0 allow\n username: \"\"\n chroot: \"\"\n \
         do-daemonize: no\n pidfile: {}/unbound.pid\n use-syslog: no\n module-config: \"iterator\"\n num-threads: 1\n \
         local-zone: \"shop.example.\" static\n \
         local-data: \"www.shop.example. A 192.0.2.80\"\nremote-control:\n control-enable: no\n",
        net.path().display()
    );
    let path = net.path().join("unbound.conf");
    fs::write(&path, config).unwrap();
    start(namespace, "unbound", ["-d", "-c", path.to_str().unwrap()])
}

#[test]
fn icmp_finds_a_host_that_is_gone() {
    let net = Net::new(1);
    let text = format!(
        "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[[service.health]]\n{TIMING}type = \"icmp\"\n\
         [[service.backend]]\naddress = \"10.9.0.11\"\n[[service]]\naddress = \"tcp://[2001:db8:9::100]:80\"\nforward = \"nat\"\n\
         [[service.health]]\n{TIMING}type = \"icmp\"\n[[service.backend]]\naddress = \"2001:db8:9::11\"\n"
    );
    net.balancer.block_on(async || {
        let mut watch = Watch::start(&text, HealthSettings::default()).await;
        watch.until("10.9.0.11", State::Up).await;
        watch.until("2001:db8:9::11", State::Up).await;
        net.backends[0].ip("link set eth0 down").unwrap();
        let took = watch.until("10.9.0.11", State::Down).await;
        figure("icmp, IPv4, host gone", took, PROMISED);
        watch.until("2001:db8:9::11", State::Down).await;
        println!("  because: {}", watch.reason("2001:db8:9::11").await);
        net.backends[0].ip("link set eth0 up").unwrap();
        net.backends[0]
            .ip("addr replace 2001:db8:9::11/64 dev eth0 nodad")
            .unwrap();
        watch.until("10.9.0.11", State::Up).await;
        watch.until("2001:db8:9::11", State::Up).await;
    });
}

#[test]
fn tcp_finds_a_server_that_is_gone_and_one_that_accepts_and_never_answers() {
    prove(
        "tcp with expect",
        "type = \"tcp\"\nsend = \"PING\"\nexpect = \"PONG\"",
        true,
        |_, namespace| serve(namespace, "tcp", "10.9.0.11:80"),
    );
}

#[test]
fn a_tcp_connection_alone_finds_a_server_that_is_gone() {
    prove("tcp", "type = \"tcp\"", false, |_, namespace| {
        serve(namespace, "tcp", "10.9.0.11:80")
    });
}

#[test]
fn http_finds_a_server_that_is_gone_and_one_that_never_answers() {
    let check = "type = \"http\"\npath = \"/\"\nhost = \"shop.example\"\nstatus = 200\nbody_regex = \"all .s w?ell\"";
    prove("http", check, true, nginx);
}

#[test]
fn https_finds_a_server_that_is_gone_and_one_that_never_answers() {
    prove(
        "https",
        "type = \"https\"\nsni = \"shop.example\"\nport = 443\nverify = false",
        true,
        nginx,
    );
}

#[test]
fn https_verifies_when_it_is_asked_to() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let _server = nginx(&net, &net.backends[0]);
        let ca = net.path().join("cert.pem");
        let service = |port: u16, check: &str| {
            format!(
                "[[service]]\naddress = \"tcp://10.9.0.{port}:80\"\nforward = \"nat\"\n[[service.health]]\n{TIMING}\
                 type = \"https\"\nport = 443\n{check}\n[[service.backend]]\naddress = \"10.9.0.11\"\n"
            )
        };
        let mut good = Watch::start(
            &service(101, &format!("ca = \"{}\"\nsni = \"shop.example\"", ca.display())),
            HealthSettings::default(),
        )
        .await;
        good.until("10.9.0.11", State::Up).await;
        for (check, part) in [
            ("sni = \"shop.example\"".to_owned(), "UnknownIssuer"),
            (
                format!("ca = \"{}\"\nsni = \"other.example\"", ca.display()),
                "not valid for name",
            ),
        ] {
            let mut bad = Watch::start(&service(102, &check), HealthSettings::default()).await;
            bad.until("10.9.0.11", State::Down).await;
            let reason = bad.reason("10.9.0.11").await;
            assert!(reason.contains(part), "{reason}");
        }
        // That is this node's own trouble, and over when the file is there.
        let late = net.path().join("late.pem");
        let check = format!("ca = \"{}\"\nsni = \"shop.example\"", late.display());
        let mut watch = Watch::start(&service(103, &check), HealthSettings::default()).await;
        watch
            .until_reason("10.9.0.11", "cannot be asked: cannot use the certificates in ")
            .await;
        assert_eq!(watch.backend("10.9.0.11").state, State::Unknown);
        fs::copy(&ca, &late).unwrap();
        watch.until("10.9.0.11", State::Up).await;
    });
}

#[test]
fn https_without_verifying_takes_a_certificate_that_cannot_be_read() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        // Of X.509 version 1, as `openssl x509 -req` makes them without extensions.
        let dir = net.path().display();
        for command in [
            format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=old -keyout {dir}/key.pem -out {dir}/old.csr"
            ),
            format!("x509 -req -in {dir}/old.csr -signkey {dir}/key.pem -days 2 -out {dir}/cert.pem"),
        ] {
            finish(Command::new("openssl").args(command.split_whitespace())).unwrap();
        }
        let shown = finish(Command::new("openssl").args(format!("x509 -noout -text -in {dir}/cert.pem").split_whitespace()));
        assert!(shown.unwrap().contains("Version: 1"), "not a certificate of version 1");
        let _server = nginx(&net, &net.backends[0]);
        let text = format!(
            "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[[service.health]]\n{TIMING}\
             type = \"https\"\nport = 443\nverify = false\n[[service.backend]]\naddress = \"10.9.0.11\"\n"
        );
        let mut watch = Watch::start(&text, HealthSettings::default()).await;
        watch.until("10.9.0.11", State::Up).await;
    });
}

#[test]
fn a_tcp_probe_over_which_something_is_said_resets_no_connection_unless_it_is_asked_to() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let _server = serve(&net.backends[0], "patient", "10.9.0.11:80");
        // Connections that a reset has ended, as the backend's kernel counts them (RFC 4022, tcpEstabResets).
        let resets = || tcp_counter(&net.backends[0], "EstabResets");
        for (close, resets_some) in [("", false), ("close = \"rst\"\n", true)] {
            let text = format!(
                "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[[service.health]]\n{TIMING}{close}\
                 type = \"tcp\"\nsend = \"PING\"\nexpect = \"PONG\"\n[[service.backend]]\naddress = \"10.9.0.11\"\n"
            );
            let before = resets();
            let mut watch = Watch::start(&text, HealthSettings::default()).await;
            watch.until("10.9.0.11", State::Up).await;
            loop {
                let report = watch.health.report(None).await;
                let probe = &report.services[0].backends[0].probes[0];
                assert_eq!(probe.failed, 0, "{probe:?}");
                if probe.total >= 20 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(resets() - before > 0, resets_some, "{close}");
        }
    });
}

#[test]
fn dns_finds_a_server_that_is_gone_and_one_that_never_answers() {
    let check = "type = \"dns\"\nport = 5353\nname = \"www.shop.example\"\nrecord = \"A\"\nanswer = \"192.0.2.80\"";
    prove("dns", check, true, unbound);
}

#[test]
fn udp_finds_a_server_that_is_gone_and_one_that_never_answers() {
    prove(
        "udp",
        "type = \"udp\"\nsend_hex = \"00 ff 41\"\nexpect_hex = \"ff41\"",
        true,
        |_, namespace| serve(namespace, "udp", "10.9.0.11:80"),
    );
}

#[test]
fn udp_without_anything_to_expect_finds_a_port_that_is_unreachable() {
    prove(
        "udp without expect",
        "type = \"udp\"\nsend = \"hello\"",
        false,
        |_, namespace| serve(namespace, "udp", "10.9.0.11:80"),
    );
}

#[test]
fn grpc_finds_a_server_that_is_gone_and_one_that_never_answers() {
    prove(
        "grpc",
        "type = \"grpc\"\ngrpc_service = \"shop\"",
        true,
        |_, namespace| serve(namespace, "grpc", "10.9.0.11:80"),
    );
}

#[test]
fn grpc_believes_what_the_server_says_of_a_service() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let _server = serve(&net.backends[0], "grpc", "10.9.0.11:80");
        for (name, part) in [("stock", "NOT_SERVING"), ("nothing", "knows no gRPC service `nothing`")] {
            let text = format!(
                "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[[service.health]]\n{TIMING}\
                 type = \"grpc\"\ngrpc_service = \"{name}\"\n[[service.backend]]\naddress = \"10.9.0.11\"\n"
            );
            let mut watch = Watch::start(&text, HealthSettings::default()).await;
            watch.until("10.9.0.11", State::Down).await;
            watch.until_reason("10.9.0.11", part).await;
        }
    });
}

#[test]
fn exec_finds_what_its_program_finds() {
    // The program is the check: it asks the UDP server in its own way.
    let check = "type = \"exec\"\ncommand = [\"/bin/bash\", \"-c\", \"exec 3<>/dev/tcp/$LVX_BACKEND/$LVX_PORT && \
                 echo PING >&3 && read -t 0.1 -u 3 line && [[ $line == *PONG* ]] || exit 1\"]";
    prove("exec", check, true, |_, namespace| {
        serve(namespace, "tcp", "10.9.0.11:80")
    });
}

#[test]
fn a_nagios_plugin_degrades_keeps_and_takes_out() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let says = net.path().join("says");
        // The plugin is another user's, and this directory is root's.
        fs::set_permissions(net.path(), Permissions::from_mode(0o755)).unwrap();
        let text = format!(
            "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[[service.health]]\n\
             interval = \"200ms\"\nfall = 2\nrise = 1\ntype = \"exec\"\nnagios = true\n\
             command = [\"/bin/sh\", \"-c\", \"read code < {0}; echo STATE $code; exit $code\"]\n\
             [[service.backend]]\naddress = \"10.9.0.11\"\n",
            says.display()
        );
        let say = |code: &str| {
            let beside = says.with_extension("new");
            fs::write(&beside, format!("{code}\n")).unwrap();
            fs::rename(beside, &says).unwrap();
        };
        say("0");
        let mut watch = Watch::start(&text, settings()).await;
        watch.until("10.9.0.11", State::Up).await;
        say("1");
        watch.until("10.9.0.11", State::Degraded).await;
        watch.until_reason("10.9.0.11", "exec: exit status 1: STATE 1").await;
        let health = watch.backend("10.9.0.11");
        assert!(health.takes_new && health.share == 100, "{health:?}");
        say("3");
        watch
            .until_reason("10.9.0.11", "its state is kept: exit status 3: STATE 3")
            .await;
        assert_eq!(watch.backend("10.9.0.11").state, State::Degraded);
        say("2");
        watch.until("10.9.0.11", State::Down).await;
        watch.until_reason("10.9.0.11", "exec: exit status 2: STATE 2").await;
        say("1");
        watch.until("10.9.0.11", State::Degraded).await;
        say("0");
        watch.until("10.9.0.11", State::Up).await;
    });
}

#[test]
fn a_program_that_nobody_allowed_does_not_run_and_is_no_verdict() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let text = "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[[service.health]]\ninterval = \"100ms\"\n\
                    type = \"exec\"\ncommand = [\"/bin/true\"]\n[[service.backend]]\naddress = \"10.9.0.11\"\n";
        let mut watch = Watch::start(text, HealthSettings::default()).await;
        let reason = "`/bin/true` may not run on this node: name it in exec_allow";
        watch.until_reason("10.9.0.11", reason).await;
        assert_eq!(watch.backend("10.9.0.11").state, State::Unknown);
        // Root gave it: the services are the same.
        let given = Desired::clone(&watch.desired).with_granted([vec!["/bin/true".to_owned()]].into());
        watch.health.set_targets(Arc::new(given)).await;
        watch.until("10.9.0.11", State::Up).await;
    });
}

#[test]
fn an_agent_a_json_field_and_a_program_move_the_weight() {
    let net = Net::new(3);
    net.balancer.block_on(async || {
        let _agent = serve(&net.backends[0], "agent", "10.9.0.11:9777");
        let _nginx = nginx(&net, &net.backends[1]);
        let text = format!(
            "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[[service.backend]]\n\
             address = \"10.9.0.11\"\nweight = 4\nhealth = {{ type = \"agent\", port = 9777, interval = \"100ms\" }}\n\
             [[service.backend]]\naddress = \"10.9.0.12\"\nweight = 4\n[service.backend.health]\n{TIMING}type = \"http\"\n\
             path = \"/load\"\nload_field = \"/system/load\"\nload_full = 200\n[[service.backend]]\n\
             address = \"10.9.0.13\"\nweight = 4\n[service.backend.health]\n{TIMING}type = \"exec\"\n\
             command = [\"/bin/bash\", \"-c\", \"exit 12\"]\nweight_from_status = true\n"
        );
        let mut watch = Watch::start(&text, settings()).await;
        watch.until_health("10.9.0.11", "at half", |health| health.share == 50).await;
        watch.until_health("10.9.0.12", "at three quarters", |health| health.share == 75).await;
        watch
            .until_health("10.9.0.13", "at 10", |health| health.weight == Some(10))
            .await;
        assert_eq!(watch.weights(), [40, 60, 200]);
    });
}

#[test]
fn a_status_of_503_drains_and_200_ends_that() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let _server = nginx(&net, &net.backends[0]);
        let well = net.path().join("well");
        fs::write(&well, "well").unwrap();
        let text = format!(
            "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[[service.health]]\n{TIMING}\
             type = \"http\"\npath = \"/state\"\n[[service.backend]]\naddress = \"10.9.0.11\"\n"
        );
        let mut watch = Watch::start(&text, HealthSettings::default()).await;
        watch.until("10.9.0.11", State::Up).await;
        fs::remove_file(&well).unwrap();
        let took = watch.until("10.9.0.11", State::Draining).await;
        figure("http, 503 drains", took, Duration::from_millis(200));
        assert!(
            watch
                .reason("10.9.0.11")
                .await
                .contains("status 503: asks to be drained")
        );
        assert_eq!(watch.weights(), [0]);
        fs::write(&well, "well").unwrap();
        watch.until("10.9.0.11", State::Up).await;
    });
}

#[test]
fn a_backend_past_its_load_limit_gets_no_new_connection_until_it_recovers() {
    let net = Net::new(2);
    net.balancer.block_on(async || {
        let _nginx = nginx(&net, &net.backends[0]);
        let _steady = serve(&net.backends[1], "tcp", "10.9.0.12:80");
        let report = |load: u32| fs::write(net.path().join("well"), format!("{{\"load\": {load}}}")).unwrap();
        report(50);
        let text = format!(
            "[[service]]\naddress = \"tcp://10.9.0.100:80\"\nforward = \"nat\"\n[[service.backend]]\n\
             address = \"10.9.0.11\"\n[service.backend.health]\n{TIMING}type = \"http\"\npath = \"/state\"\n\
             load_field = \"/load\"\nload_full = 100\nload_limit = 90\n[[service.backend]]\naddress = \"10.9.0.12\"\n\
             [service.backend.health]\n{TIMING}type = \"tcp\"\n"
        );
        let mut watch = Watch::start(&text, HealthSettings::default()).await;
        watch.until("10.9.0.12", State::Up).await;
        watch
            .until_health("10.9.0.11", "at half", |health| health.share == 50)
            .await;
        assert_eq!(watch.weights(), [10, 20]);
        report(95);
        let took = watch.until_health("10.9.0.11", "out", |health| !health.takes_new).await;
        figure("load limit", took, Duration::from_millis(200));
        assert_eq!(watch.backend("10.9.0.11").state, State::Degraded);
        assert_eq!(watch.weights()[0], 0);
        assert!(watch.reason("10.9.0.11").await.contains("past its load limit"));
        // Below the limit and not yet recovered.
        report(85);
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!watch.backend("10.9.0.11").takes_new);
        report(40);
        watch.until("10.9.0.11", State::Up).await;
    });
}
