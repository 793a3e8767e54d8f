//! Probes of the VIP under direct routing, each at one backend.

use std::time::Duration;

use lvx_model::{health::State, settings::HealthSettings};

use crate::{
    lab::{Net, Watch, figure},
    server::serve,
};

fn text(vip: &str, backends: &[&str]) -> String {
    let backends: String = backends
        .iter()
        .map(|backend| format!("[[service.backend]]\naddress = \"{backend}\"\n"))
        .collect();
    format!(
        "[[service]]\naddress = \"tcp://{vip}:80\"\nforward = \"dr\"\n[[service.health]]\ntype = \"tcp\"\nsend = \"PING\"\n\
         expect = \"PONG\"\ninterval = \"200ms\"\ntimeout = \"150ms\"\nrise = 2\nfall = 2\n{backends}"
    )
}

/// As a backend of a `dr` service should be.
pub const SILENT: [(&str, &str); 2] = [("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/all/arp_announce", "2")];

fn black_hole(
    vip: &'static str,
    length: u8,
    any: &'static str,
    backends: [&'static str; 2],
    addresses: &'static [&'static str],
) {
    let net = Net::new(2);
    net.balancer.block_on(async || {
        let balancer = &net.balancer;
        // As in life: the balancer has the VIP itself.
        balancer.ip(&format!("addr add {vip}/{length} dev eth0")).unwrap();
        for backend in &net.backends {
            backend.sysctl(&SILENT).unwrap();
            backend.ip(&format!("addr add {vip}/{length} dev lo")).unwrap();
        }
        let _servers: Vec<_> = net.backends.iter().map(|backend| serve(backend, "tcp", any)).collect();
        let settings = HealthSettings {
            probe_addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ..HealthSettings::default()
        };
        let shown = if vip.contains(':') {
            format!("[{vip}]")
        } else {
            vip.to_owned()
        };
        let mut watch = Watch::start(&text(&shown, &backends), settings).await;
        watch.until(backends[0], State::Up).await;
        watch.until(backends[1], State::Up).await;
        let report = watch.health.report(None).await;
        for backend in &report.services[0].backends {
            assert!(backend.probes[0].vip, "{backend:?}");
        }
        // The backend forgets the VIP: its own address still answers.
        net.backends[1].ip(&format!("addr del {vip}/{length} dev lo")).unwrap();
        let took = watch.until(backends[1], State::Down).await;
        figure(
            &format!("DR black hole of {vip}"),
            took,
            Duration::from_millis(2 * 200 + 150),
        );
        watch.until_reason(backends[1], "DR black hole").await;
        println!("  because: {}", watch.reason(backends[1]).await);
        assert_eq!(watch.backend(backends[0]).state, State::Up);
        net.backends[1].ip(&format!("addr add {vip}/{length} dev lo")).unwrap();
        watch.until(backends[1], State::Up).await;
    });
}

#[test]
fn a_backend_without_the_vip_is_found_and_named() {
    black_hole(
        "10.9.0.100",
        32,
        "0.0.0.0:80",
        ["10.9.0.11", "10.9.0.12"],
        &["10.9.0.250/24"],
    );
}

#[test]
fn over_ipv6_no_address_of_its_own_is_needed() {
    black_hole(
        "2001:db8:9::100",
        128,
        "[::]:80",
        ["2001:db8:9::11", "2001:db8:9::12"],
        &[],
    );
}

/// What a restart does: the VIPs are probed from another MAC, which backends that answer do not know.
fn restarted(vip: &'static str, length: u8, any: &'static str, backend: &'static str, address: &'static str) {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        net.backends[0].sysctl(&SILENT).unwrap();
        net.backends[0].ip(&format!("addr add {vip}/{length} dev lo")).unwrap();
        let _server = serve(&net.backends[0], "tcp", any);
        let settings = HealthSettings {
            probe_addresses: vec![address.parse().unwrap()],
            ..HealthSettings::default()
        };
        let shown = if vip.contains(':') {
            format!("[{vip}]")
        } else {
            vip.to_owned()
        };
        for start in 0..3 {
            let mut watch = Watch::start(&text(&shown, &[backend]), settings.clone()).await;
            watch.until(backend, State::Up).await;
            let report = watch.health.report(None).await;
            let probe = &report.services[0].backends[0].probes[0];
            assert!(probe.vip, "{probe:?}");
            // The server may have come after the first one.
            assert!(probe.failed == 0 || start == 0, "start {start}: {probe:?}");
        }
    });
}

#[test]
fn a_restart_takes_no_healthy_backend_out_whose_vip_is_probed() {
    restarted("10.9.0.100", 32, "0.0.0.0:80", "10.9.0.11", "10.9.0.250/24");
}

#[test]
fn a_restart_takes_no_healthy_backend_out_whose_vip_is_probed_over_ipv6() {
    restarted(
        "2001:db8:9::100",
        128,
        "[::]:80",
        "2001:db8:9::11",
        "2001:db8:9::250/64",
    );
}

#[test]
fn without_an_address_to_probe_from_the_backends_own_is_asked_and_that_is_said() {
    let net = Net::new(1);
    net.balancer.block_on(async || {
        let _server = serve(&net.backends[0], "tcp", "0.0.0.0:80");
        let mut watch = Watch::start(&text("10.9.0.100", &["10.9.0.11"]), HealthSettings::default()).await;
        watch.until("10.9.0.11", State::Up).await;
        let report = watch.health.report(None).await;
        let probe = &report.services[0].backends[0].probes[0];
        assert!(!probe.vip);
        let note = probe.note.as_deref().unwrap();
        assert!(note.contains("give probe_addresses under [health]"), "{note}");
    });
}

#[test]
fn a_backend_that_answers_arp_or_neighbour_discovery_for_the_vip_is_found_and_named() {
    let net = Net::new(2);
    net.balancer.block_on(async || {
        net.balancer.ip("addr add 10.9.0.100/32 dev eth0").unwrap();
        net.balancer.ip("addr add 2001:db8:9::100/128 dev eth0").unwrap();
        for backend in &net.backends {
            backend.sysctl(&SILENT).unwrap();
            backend.ip("addr add 10.9.0.100/32 dev lo").unwrap();
            backend.ip("addr add 2001:db8:9::100/128 dev lo").unwrap();
        }
        let _servers: Vec<_> = net
            .backends
            .iter()
            .map(|backend| serve(backend, "tcp", "[::]:80"))
            .collect();
        let settings = HealthSettings {
            probe_addresses: vec!["10.9.0.250/24".parse().unwrap()],
            ..HealthSettings::default()
        };
        let both = text("10.9.0.100", &["10.9.0.11", "10.9.0.12"])
            + &text("[2001:db8:9::100]", &["2001:db8:9::11", "2001:db8:9::12"]);
        let mut watch = Watch::start(&both, settings).await;
        let backends = ["10.9.0.11", "10.9.0.12", "2001:db8:9::11", "2001:db8:9::12"];
        for backend in backends {
            watch.until(backend, State::Up).await;
        }
        // Long enough for a round of questions that nobody answers.
        tokio::time::sleep(Duration::from_secs(6)).await;
        for backend in backends {
            assert_eq!(watch.backend(backend).state, State::Up, "{backend}");
        }
        net.backends[1].sysctl(&[("ipv4/conf/all/arp_ignore", "0")]).unwrap();
        net.backends[0]
            .ip("addr add 2001:db8:9::100/128 dev eth0 nodad")
            .unwrap();
        for (backend, words) in [
            ("10.9.0.12", "answers ARP for the VIP 10.9.0.100"),
            (
                "2001:db8:9::11",
                "answers neighbour discovery for the VIP 2001:db8:9::100",
            ),
        ] {
            let took = watch.until(backend, State::Degraded).await;
            println!("FIGURE a backend that answers for the VIP, found after {took:.1?}");
            watch.until_reason(backend, words).await;
            println!("  because: {}", watch.reason(backend).await);
            assert!(watch.backend(backend).takes_new);
        }
        net.backends[1].sysctl(&SILENT).unwrap();
        net.backends[0].ip("addr del 2001:db8:9::100/128 dev eth0").unwrap();
        for backend in backends {
            watch.until(backend, State::Up).await;
        }
    });
}
