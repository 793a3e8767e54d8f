//! Next hops, found, followed and kept fresh.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use lvx_netlink::{NextHop, NextHopError, NextHopTracker, NextHops};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::lab::{BACKEND, BALANCER, PATIENCE, ip, net, text};

/// A tracker that follows the targets, and what it publishes.
async fn track(targets: &[&str]) -> (NextHopTracker, watch::Receiver<Arc<NextHops>>) {
    let tracker = NextHopTracker::start().await.unwrap();
    let hops = tracker.subscribe();
    tracker.set_targets(targets.iter().copied().map(ip).collect());
    tracker.ready().await;
    (tracker, hops)
}

fn now(hops: &watch::Receiver<Arc<NextHops>>, target: &str) -> Result<NextHop, NextHopError> {
    hops.borrow().0.get(&ip(target)).cloned().unwrap()
}

/// Waits until the target's next hop is as described.
async fn until(
    hops: &mut watch::Receiver<Arc<NextHops>>,
    target: &str,
    limit: Duration,
    described: impl Fn(&Result<NextHop, NextHopError>) -> bool,
) -> Result<NextHop, NextHopError> {
    let waited = timeout(
        limit,
        hops.wait_for(|hops| hops.0.get(&ip(target)).is_some_and(&described)),
    )
    .await
    .map(|found| found.unwrap().0[&ip(target)].clone());
    match waited {
        Ok(found) => found,
        Err(_) => panic!("{target} is still {:?}", now(hops, target)),
    }
}

fn via(hop: &Result<NextHop, NextHopError>, mac: [u8; 6]) -> bool {
    hop.as_ref().is_ok_and(|hop| hop.mac == mac)
}

#[test]
fn a_backend_on_the_link_is_resolved_for_ipv4_and_ipv6() {
    let net = net();
    net.balancer.block_on(async || {
        let started = Instant::now();
        let (_tracker, hops) = track(&["10.0.0.11", "2001:db8:1::11"]).await;
        assert!(
            started.elapsed() < Duration::from_millis(500),
            "took {:?}",
            started.elapsed()
        );
        let first = now(&hops, "10.0.0.11").unwrap();
        assert_eq!(
            (first.source_mac, first.mac, first.mtu),
            (BALANCER[0], BACKEND[0], 1500)
        );
        let second = now(&hops, "2001:db8:1::11").unwrap();
        assert_eq!((second.source_mac, second.mac), (BALANCER[1], BACKEND[1]));
        assert_ne!(first.ifindex, second.ifindex);
    });
}

#[test]
fn a_backend_behind_a_gateway_gets_the_gateways_address_and_the_routes_mtu() {
    let net = net();
    net.balancer
        .ip("route add 192.0.2.0/24 via 10.0.1.11 mtu 1400")
        .unwrap();
    net.balancer
        .ip("route add 198.51.100.0/24 via inet6 2001:db8:0::11")
        .unwrap();
    net.balancer.ip("route add 203.0.113.0/24 via 10.0.0.99").unwrap();
    net.balancer.ip("route add 2001:db8:9::/48 via 2001:db8:1::11").unwrap();
    net.balancer.block_on(async || {
        let targets = ["192.0.2.7", "198.51.100.7", "203.0.113.7", "2001:db8:9::7"];
        let (_tracker, hops) = track(&targets).await;
        let hop = now(&hops, "192.0.2.7").unwrap();
        assert_eq!((hop.source_mac, hop.mac, hop.mtu), (BALANCER[1], BACKEND[1], 1400));
        assert_eq!(now(&hops, "198.51.100.7").unwrap().mac, BACKEND[0]);
        assert_eq!(now(&hops, "2001:db8:9::7").unwrap().mac, BACKEND[1]);
        assert_eq!(
            now(&hops, "203.0.113.7").unwrap_err().to_string(),
            "no answer to ARP for gateway 10.0.0.99 on eth0 (the way to 203.0.113.7)"
        );
    });
}

#[test]
fn what_cannot_be_reached_says_why() {
    let net = net();
    net.balancer.ip("route add blackhole 172.16.0.0/12").unwrap();
    net.balancer.block_on(async || {
        let targets = [
            "10.0.0.1",
            "127.0.0.1",
            "2001:db8:0::1",
            "10.0.0.255",
            "192.0.2.9",
            "2001:db8:9::9",
            "172.16.1.1",
        ];
        let (_tracker, hops) = track(&targets).await;
        let says = |target| now(&hops, target).unwrap_err().to_string();
        assert!(says("10.0.0.1").starts_with("10.0.0.1 is an address of this machine, and LVX only sends"));
        assert!(says("127.0.0.1").starts_with("127.0.0.1 is an address of this machine, and LVX only sends"));
        assert!(says("2001:db8:0::1").starts_with("2001:db8::1 is an address of this machine, and LVX only sends"));
        assert_eq!(
            says("10.0.0.255"),
            "10.0.0.255 is a broadcast, multicast or anycast address; a backend needs a unicast address"
        );
        assert_eq!(says("192.0.2.9"), "no route to 192.0.2.9: Network is unreachable");
        assert_eq!(
            says("2001:db8:9::9"),
            "no route to 2001:db8:9::9: Network is unreachable"
        );
        assert!(matches!(now(&hops, "172.16.1.1"), Err(NextHopError::NoRoute { .. })));
    });
}

#[test]
fn a_backend_that_does_not_answer_says_so_and_is_found_when_it_comes() {
    let net = net();
    let backend = &net.backends[0];
    net.balancer.block_on(async move || {
        let (_tracker, mut hops) = track(&["10.0.0.12", "2001:db8::12"]).await;
        assert_eq!(
            now(&hops, "10.0.0.12").unwrap_err().to_string(),
            "no answer to ARP for 10.0.0.12 on eth0"
        );
        assert_eq!(
            now(&hops, "2001:db8::12").unwrap_err().to_string(),
            "no answer to neighbour discovery for 2001:db8::12 on eth0"
        );
        // Past the kernel's own three attempts, so that it is our asking that finds it.
        sleep(Duration::from_secs(4)).await;
        backend.ip("addr add 10.0.0.12/24 dev eth0").unwrap();
        backend.ip("addr add 2001:db8::12/64 dev eth0 nodad").unwrap();
        until(&mut hops, "10.0.0.12", Duration::from_secs(3), |hop| {
            via(hop, BACKEND[0])
        })
        .await
        .unwrap();
        until(&mut hops, "2001:db8::12", Duration::from_secs(3), |hop| {
            via(hop, BACKEND[0])
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_changed_ethernet_address_that_shows_itself_is_followed_at_once() {
    const CHANGED: [u8; 6] = [2, 0, 0, 0, 9, 9];
    let net = net();
    let backend = &net.backends[0];
    net.balancer.block_on(async move || {
        let (_tracker, mut hops) = track(&["10.0.0.11"]).await;
        assert!(via(&now(&hops, "10.0.0.11"), BACKEND[0]));
        backend.sysctl(&[("ipv4/conf/eth0/arp_notify", "1")]).unwrap();
        // arp_notify announces the change; the kernel accepts it for an entry older than a second (locktime).
        sleep(Duration::from_millis(1200)).await;
        backend.ip(&format!("link set eth0 address {}", text(CHANGED))).unwrap();
        until(&mut hops, "10.0.0.11", Duration::from_secs(2), |hop| via(hop, CHANGED))
            .await
            .unwrap();
    });
}

#[test]
fn a_silently_changed_ethernet_address_is_found_although_the_kernel_sends_nothing_to_the_backend() {
    const CHANGED: [u8; 6] = [2, 0, 0, 0, 9, 9];
    let net = net();
    let backend = &net.backends[0];
    // The kernel's own timers, shortened: 15-45 s, 5 s and 1 s by default.
    net.balancer
        .sysctl(&[
            ("ipv4/neigh/eth0/base_reachable_time_ms", "1000"),
            ("ipv4/neigh/eth0/delay_first_probe_time", "1"),
            ("ipv4/neigh/eth0/retrans_time_ms", "100"),
        ])
        .unwrap();
    net.balancer.block_on(async move || {
        let (_tracker, mut hops) = track(&["10.0.0.11"]).await;
        assert!(via(&now(&hops, "10.0.0.11"), BACKEND[0]));
        // Long enough for everything that follows the first answer to have ended.
        sleep(Duration::from_secs(5)).await;
        backend.ip(&format!("link set eth0 address {}", text(CHANGED))).unwrap();
        until(&mut hops, "10.0.0.11", Duration::from_secs(16), |hop| via(hop, CHANGED))
            .await
            .unwrap();
    });
}

#[test]
fn a_backend_that_is_gone_from_the_link_is_reported_at_once_and_found_again() {
    let net = net();
    let (balancer, backend) = (&net.balancer, &net.backends[0]);
    net.balancer.block_on(async move || {
        let (_tracker, mut hops) = track(&["10.0.0.11"]).await;
        backend.ip("addr del 10.0.0.11/24 dev eth0").unwrap();
        // What the kernel says when its probes were not answered.
        balancer.ip("neigh change 10.0.0.11 dev eth0 nud failed").unwrap();
        let gone = until(&mut hops, "10.0.0.11", Duration::from_millis(500), Result::is_err).await;
        assert_eq!(gone.unwrap_err().to_string(), "no answer to ARP for 10.0.0.11 on eth0");
        backend.ip("addr add 10.0.0.11/24 dev eth0").unwrap();
        until(&mut hops, "10.0.0.11", Duration::from_secs(3), Result::is_ok)
            .await
            .unwrap();
    });
}

#[test]
fn a_neighbour_that_the_kernel_merely_forgot_is_not_reported_missing() {
    let net = net();
    let balancer = &net.balancer;
    net.balancer.block_on(async move || {
        let (_tracker, mut hops) = track(&["10.0.0.11", "2001:db8::11"]).await;
        hops.borrow_and_update();
        balancer.ip("neigh flush all").unwrap();
        balancer.ip6("neigh flush all").unwrap();
        assert!(
            timeout(Duration::from_millis(1500), hops.changed()).await.is_err(),
            "{:?}",
            hops.borrow()
        );
        let shown = balancer.run("ip", ["neigh", "show", "10.0.0.11"]).unwrap();
        assert!(shown.contains("lladdr"), "{shown}");
    });
}

#[test]
fn an_interface_that_goes_down_is_reported_and_recovers() {
    let net = net();
    let (balancer, backend) = (&net.balancer, &net.backends[0]);
    net.balancer.block_on(async move || {
        let (_tracker, mut hops) = track(&["10.0.0.11", "10.0.1.11"]).await;
        backend.ip("link set eth0 down").unwrap();
        let unplugged = until(&mut hops, "10.0.0.11", PATIENCE, Result::is_err).await;
        assert_eq!(
            unplugged.unwrap_err().to_string(),
            "eth0, which leads to 10.0.0.11, has no carrier"
        );
        assert!(now(&hops, "10.0.1.11").is_ok());
        backend.ip("link set eth0 up").unwrap();
        until(&mut hops, "10.0.0.11", PATIENCE, |hop| via(hop, BACKEND[0]))
            .await
            .unwrap();

        balancer.ip("link set eth0 down").unwrap();
        // Its routes go with it: whichever the kernel says first, it is an error.
        until(&mut hops, "10.0.0.11", PATIENCE, Result::is_err)
            .await
            .unwrap_err();
        balancer.ip("link set eth0 up").unwrap();
        until(&mut hops, "10.0.0.11", PATIENCE, |hop| via(hop, BACKEND[0]))
            .await
            .unwrap();

        balancer.ip("link del eth0").unwrap();
        until(&mut hops, "10.0.0.11", PATIENCE, Result::is_err)
            .await
            .unwrap_err();
        assert!(now(&hops, "10.0.1.11").is_ok());
    });
}

#[test]
fn a_changed_route_switches_the_interface_and_nothing_else_is_reported_in_between() {
    let net = net();
    net.balancer.ip("route add 192.0.2.0/24 via 10.0.0.11").unwrap();
    net.balancer.ip("route add 2001:db8:9::/48 via 2001:db8::11").unwrap();
    let balancer = &net.balancer;
    net.balancer.block_on(async move || {
        let (_tracker, mut hops) = track(&["192.0.2.7", "2001:db8:9::7"]).await;
        for (target, change) in [
            ("192.0.2.7", "route replace 192.0.2.0/24 via 10.0.1.11"),
            ("2001:db8:9::7", "route replace 2001:db8:9::/48 via 2001:db8:1::11"),
        ] {
            assert!(via(&now(&hops, target), BACKEND[0]));
            balancer.ip(change).unwrap();
            let hop = until(&mut hops, target, PATIENCE, |hop| !via(hop, BACKEND[0]))
                .await
                .unwrap();
            assert_eq!((hop.source_mac, hop.mac), (BALANCER[1], BACKEND[1]));
        }
        // A policy rule, and a table of its own.
        balancer.ip("route add 192.0.2.0/24 via 10.0.0.11 table 100").unwrap();
        balancer.ip("rule add to 192.0.2.0/24 lookup 100").unwrap();
        until(&mut hops, "192.0.2.7", PATIENCE, |hop| via(hop, BACKEND[0]))
            .await
            .unwrap();
        balancer.ip("rule del to 192.0.2.0/24 lookup 100").unwrap();
        until(&mut hops, "192.0.2.7", PATIENCE, |hop| via(hop, BACKEND[1]))
            .await
            .unwrap();
        // The target becomes an address of this machine.
        balancer.ip("addr add 192.0.2.7/32 dev lo").unwrap();
        until(&mut hops, "192.0.2.7", PATIENCE, |hop| {
            matches!(hop, Err(NextHopError::Local { .. }))
        })
        .await
        .unwrap_err();
    });
}

#[test]
fn a_changed_nexthop_object_is_followed() {
    let net = net();
    net.balancer.ip("nexthop add id 7 via 10.0.0.11 dev eth0").unwrap();
    net.balancer.ip("route add 192.0.2.0/24 nhid 7").unwrap();
    let balancer = &net.balancer;
    net.balancer.block_on(async move || {
        let (_tracker, mut hops) = track(&["192.0.2.7"]).await;
        assert!(via(&now(&hops, "192.0.2.7"), BACKEND[0]));
        // Without this the kernel announces the routes that use the object, too.
        balancer.sysctl(&[("ipv4/nexthop_compat_mode", "0")]).unwrap();
        balancer.ip("nexthop replace id 7 via 10.0.1.11 dev eth1").unwrap();
        until(&mut hops, "192.0.2.7", PATIENCE, |hop| via(hop, BACKEND[1]))
            .await
            .unwrap();
    });
}

#[test]
fn of_a_route_with_two_routers_the_one_that_lives_is_used() {
    let net = net();
    net.balancer
        .ip("route add 192.0.2.0/24 nexthop via 10.0.0.11 nexthop via 10.0.1.11")
        .unwrap();
    net.balancer
        .ip6("route add 2001:db8:99::/64 nexthop via 2001:db8:0::11 nexthop via 2001:db8:1::11")
        .unwrap();
    let (balancer, backend) = (&net.balancer, &net.backends[0]);
    let v4: Vec<String> = (1..=16).map(|host| format!("192.0.2.{host}")).collect();
    let v6: Vec<String> = (1..=16).map(|host| format!("2001:db8:99::{host}")).collect();
    net.balancer.block_on(async move || {
        let targets: Vec<&str> = v4.iter().chain(&v6).map(String::as_str).collect();
        let (_tracker, mut hops) = track(&targets).await;
        let by =
            |hops: &watch::Receiver<Arc<NextHops>>, mac| targets.iter().filter(|it| via(&now(hops, it), mac)).count();
        // The kernel spreads them: each router has some, in both families.
        for family in [&v4, &v6] {
            for mac in BACKEND {
                assert!(family.iter().any(|it| via(&now(&hops, it), mac)));
            }
        }
        let before = by(&hops, BACKEND[0]);
        backend.ip("addr flush dev eth0").unwrap();
        for (family, router) in [("-4", "10.0.0.11"), ("-6", "2001:db8::11")] {
            // What the kernel says when its probes were not answered.
            let arguments = [family, "neigh", "change", router, "dev", "eth0", "nud", "failed"];
            balancer.run("ip", arguments).unwrap();
        }
        for target in &targets {
            until(&mut hops, target, PATIENCE, |hop| via(hop, BACKEND[1]))
                .await
                .unwrap();
        }
        backend.ip("addr add 10.0.0.11/24 dev eth0").unwrap();
        backend.ip("addr add 2001:db8:0::11/64 dev eth0 nodad").unwrap();
        let back = timeout(
            PATIENCE,
            hops.wait_for(|hops| {
                let back = targets.iter().filter(|it| via(&hops.0[&ip(it)], BACKEND[0]));
                back.count() == before
            }),
        );
        assert!(
            back.await.is_ok(),
            "the router that has come back has what the kernel gives it"
        );
    });
}

#[test]
fn lost_events_are_made_good_by_a_dump() {
    let net = net();
    net.balancer.ip("route add 192.0.2.0/24 via 10.0.0.11").unwrap();
    let balancer = &net.balancer;
    net.balancer.block_on(async move || {
        let (_tracker, mut hops) = track(&["192.0.2.7"]).await;
        // This blocks the only thread, and with it the tracker, while more is announced than its socket holds.
        let routes: String = (0..20_000)
            .map(|number| {
                format!(
                    "route add 172.{}.{}.1/32 dev eth0\n",
                    16 + number / 256 / 256,
                    number / 256 % 256
                )
                .replace(".1/32", &format!(".{}/32", number % 256))
            })
            .collect();
        balancer.ip(&routes).unwrap();
        balancer.ip("route replace 192.0.2.0/24 via 10.0.1.11").unwrap();
        until(&mut hops, "192.0.2.7", PATIENCE, |hop| via(hop, BACKEND[1]))
            .await
            .unwrap();
    });
}

#[test]
fn targets_can_be_changed_and_only_they_are_published() {
    let net = net();
    net.balancer.block_on(async || {
        let (tracker, hops) = track(&["10.0.0.11", "10.0.1.11"]).await;
        tracker.set_targets(["10.0.1.11", "2001:db8::11"].map(ip).into());
        tracker.ready().await;
        let targets: BTreeSet<_> = hops.borrow().0.keys().copied().collect();
        assert_eq!(targets, ["10.0.1.11", "2001:db8::11"].map(ip).into());
        assert!(hops.borrow().0.values().all(Result::is_ok), "{:?}", hops.borrow());
        tracker.set_targets(BTreeSet::new());
        tracker.ready().await;
        assert!(hops.borrow().0.is_empty());
    });
}

#[test]
fn thousands_of_targets_are_ready_at_once_and_follow_a_change_together() {
    let net = net();
    net.balancer.ip("route add 10.64.0.0/16 via 10.0.0.11").unwrap();
    let balancer = &net.balancer;
    net.balancer.block_on(async move || {
        let targets: BTreeSet<_> = (0..5000_u16)
            .map(|number| [10, 64, number.to_be_bytes()[0], number.to_be_bytes()[1]].into())
            .collect();
        let tracker = NextHopTracker::start().await.unwrap();
        let mut hops = tracker.subscribe();
        let started = Instant::now();
        tracker.set_targets(targets);
        tracker.ready().await;
        println!("5000 targets after {:?}", started.elapsed());
        assert_eq!(hops.borrow().0.len(), 5000);
        assert!(hops.borrow().0.values().all(|hop| via(hop, BACKEND[0])));
        let started = Instant::now();
        balancer.ip("route replace 10.64.0.0/16 via 10.0.1.11").unwrap();
        let all = |hops: &Arc<NextHops>| hops.0.values().all(|hop| via(hop, BACKEND[1]));
        timeout(PATIENCE, hops.wait_for(all)).await.unwrap().unwrap();
        println!("changed after {:?}", started.elapsed());
    });
}
