//! The netlink side of the daemon against the real kernel, in network namespaces of its own. Needs root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeSet,
    fs::File,
    future::Future,
    io,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use xdp_loader::netlink::{Links, NextHop, NextHopError, NextHopTracker, NextHops, VipState, Vips};

/// The balancer's interfaces, and the backends'.
const BALANCER: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 0], [2, 0, 0, 0, 1, 1]];
const BACKEND: [[u8; 6]; 2] = [[2, 0, 0, 0, 2, 0], [2, 0, 0, 0, 2, 1]];
/// Longer than anything here may take; the kernel gives up on a neighbour after three seconds.
const PATIENCE: Duration = Duration::from_secs(10);

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A network namespace, removed when dropped.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the netlink tests need root (network namespaces): sudo -E cargo test -p xdp-loader --test netlink"
        );
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("lvxn-{}-{number}", std::process::id()));
        run(&format!("ip netns add {}", namespace.0));
        namespace.run("sysctl -q -w net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.router_solicitations=0");
        namespace.ip("link set lo up");
        namespace
    }

    fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.0));
    }

    fn run(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.0));
    }

    /// Runs the future to its end on a thread of its own inside the namespace.
    fn enter<T: Send + 'static, F: Future<Output = T>>(
        &self,
        body: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        let path = format!("/run/netns/{}", self.0);
        let thread = thread::spawn(move || {
            let namespace = File::open(path).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(body())
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing more can be done about a failure; panicking in a drop would hide the test's own.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A balancer with two interfaces, and behind each a backend: `10.0.N.11` and `2001:db8:N::11`.
struct Net {
    balancer: Arc<Namespace>,
    backends: [Arc<Namespace>; 2],
}

fn net() -> Net {
    let net = Net {
        balancer: Arc::new(Namespace::new()),
        backends: [Arc::new(Namespace::new()), Arc::new(Namespace::new())],
    };
    for (number, backend) in net.backends.iter().enumerate() {
        net.balancer.ip(&format!(
            "link add eth{number} address {} type veth peer name eth0 address {} netns {}",
            text(BALANCER[number]),
            text(BACKEND[number]),
            backend.0
        ));
        for (namespace, interface, host) in [
            (&net.balancer, format!("eth{number}"), 1),
            (backend, "eth0".to_owned(), 11),
        ] {
            namespace.ip(&format!("addr add 10.0.{number}.{host}/24 dev {interface}"));
            namespace.ip(&format!(
                "addr add 2001:db8:{number}::{host}/64 dev {interface} nodad"
            ));
            namespace.ip(&format!("link set {interface} up"));
        }
        backend.ip(&format!("route add default via 10.0.{number}.1"));
    }
    // A new veth is without a carrier, and its IPv6 addresses tentative, for up to a second.
    let deadline = Instant::now() + PATIENCE;
    let all = || [&net.balancer].into_iter().chain(&net.backends);
    while all().any(|namespace| {
        !output(&format!("ip -n {} -o link show up", namespace.0)).contains("state UP")
            || output(&format!("ip -n {} -o link show", namespace.0)).contains("NO-CARRIER")
            || !output(&format!("ip -n {} -6 -o addr show tentative", namespace.0)).is_empty()
    }) {
        assert!(Instant::now() < deadline, "the interfaces do not come up");
        thread::sleep(Duration::from_millis(20));
    }
    net
}

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
fn links_are_found_by_name_and_followed() {
    let net = net();
    let balancer = Arc::clone(&net.balancer);
    net.balancer.enter(async move || {
        let links = Links::follow().await.unwrap();
        let mut changes = links.subscribe();
        let eth0 = links.find("eth0").unwrap();
        assert_eq!(
            (eth0.mac, eth0.mtu, eth0.up, eth0.kind.as_str()),
            (Some(BALANCER[0]), 1500, true, "veth")
        );
        assert_eq!(links.get(eth0.index).unwrap(), eth0);
        assert_eq!(
            links.find("eth7").unwrap_err().to_string(),
            r#"there is no interface "eth7"; the interfaces here are: eth0, eth1, lo"#
        );
        balancer.ip("link set eth0 mtu 1400");
        balancer.ip("link set eth1 down");
        balancer.ip("link set eth1 name uplink");
        let seen = |table: &Arc<xdp_loader::netlink::LinkTable>| {
            table.find("eth0").is_ok_and(|link| link.mtu == 1400)
                && table
                    .find("uplink")
                    .is_ok_and(|link| !link.up && !link.admin_up)
        };
        timeout(PATIENCE, changes.wait_for(seen))
            .await
            .unwrap()
            .unwrap();
        balancer.ip("link del uplink");
        timeout(
            PATIENCE,
            changes.wait_for(|table| table.find("uplink").is_err()),
        )
        .await
        .unwrap()
        .unwrap();
    });
}

#[test]
fn a_backend_on_the_link_is_resolved_for_ipv4_and_ipv6() {
    let net = net();
    net.balancer.enter(async || {
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
        .ip("route add 192.0.2.0/24 via 10.0.1.11 mtu 1400");
    net.balancer
        .ip("route add 198.51.100.0/24 via inet6 2001:db8:0::11");
    net.balancer.ip("route add 203.0.113.0/24 via 10.0.0.99");
    net.balancer
        .ip("-6 route add 2001:db8:9::/48 via 2001:db8:1::11");
    net.balancer.enter(async || {
        let targets = ["192.0.2.7", "198.51.100.7", "203.0.113.7", "2001:db8:9::7"];
        let (_tracker, hops) = track(&targets).await;
        let hop = now(&hops, "192.0.2.7").unwrap();
        assert_eq!(
            (hop.source_mac, hop.mac, hop.mtu),
            (BALANCER[1], BACKEND[1], 1400)
        );
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
    net.balancer.ip("route add blackhole 172.16.0.0/12");
    net.balancer.enter(async || {
        let targets = ["10.0.0.1", "127.0.0.1", "2001:db8:0::1", "10.0.0.255", "192.0.2.9", "2001:db8:9::9", "172.16.1.1"];
        let (_tracker, hops) = track(&targets).await;
        let says = |target| now(&hops, target).unwrap_err().to_string();
        assert_eq!(says("10.0.0.1"), "10.0.0.1 is an address of this machine; a backend must be another machine");
        assert_eq!(says("127.0.0.1"), "127.0.0.1 is an address of this machine; a backend must be another machine");
        assert_eq!(says("2001:db8:0::1"), "2001:db8::1 is an address of this machine; a backend must be another machine");
        assert_eq!(
            says("10.0.0.255"),
            "10.0.0.255 is a broadcast, multicast or anycast address; a backend needs a unicast address"
        );
        assert_eq!(says("192.0.2.9"), "no route to 192.0.2.9: Network is unreachable");
        assert_eq!(says("2001:db8:9::9"), "no route to 2001:db8:9::9: Network is unreachable");
        assert!(matches!(now(&hops, "172.16.1.1"), Err(NextHopError::NoRoute { .. })));
    });
}

#[test]
fn a_backend_that_does_not_answer_says_so_and_is_found_when_it_comes() {
    let net = net();
    let backend = Arc::clone(&net.backends[0]);
    net.balancer.enter(async move || {
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
        backend.ip("addr add 10.0.0.12/24 dev eth0");
        backend.ip("addr add 2001:db8::12/64 dev eth0 nodad");
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
    let backend = Arc::clone(&net.backends[0]);
    net.balancer.enter(async move || {
        let (_tracker, mut hops) = track(&["10.0.0.11"]).await;
        assert!(via(&now(&hops, "10.0.0.11"), BACKEND[0]));
        backend.run("sysctl -q -w net.ipv4.conf.eth0.arp_notify=1");
        // arp_notify announces the change; the kernel accepts it for an entry older than a second (locktime).
        sleep(Duration::from_millis(1200)).await;
        backend.ip(&format!("link set eth0 address {}", text(CHANGED)));
        until(&mut hops, "10.0.0.11", Duration::from_secs(2), |hop| {
            via(hop, CHANGED)
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_silently_changed_ethernet_address_is_found_although_the_kernel_sends_nothing_to_the_backend() {
    const CHANGED: [u8; 6] = [2, 0, 0, 0, 9, 9];
    let net = net();
    let backend = Arc::clone(&net.backends[0]);
    // The kernel's own timers, shortened: 15-45 s, 5 s and 1 s by default.
    net.balancer.run(
        "sysctl -q -w net.ipv4.neigh.eth0.base_reachable_time_ms=1000 net.ipv4.neigh.eth0.delay_first_probe_time=1 net.ipv4.neigh.eth0.retrans_time_ms=100",
    );
    net.balancer.enter(async move || {
        let (_tracker, mut hops) = track(&["10.0.0.11"]).await;
        assert!(via(&now(&hops, "10.0.0.11"), BACKEND[0]));
        backend.ip(&format!("link set eth0 address {}", text(CHANGED)));
        until(&mut hops, "10.0.0.11", Duration::from_secs(16), |hop| {
            via(hop, CHANGED)
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_backend_that_is_gone_from_the_link_is_reported_at_once_and_found_again() {
    let net = net();
    let (balancer, backend) = (Arc::clone(&net.balancer), Arc::clone(&net.backends[0]));
    net.balancer.enter(async move || {
        let (_tracker, mut hops) = track(&["10.0.0.11"]).await;
        backend.ip("addr del 10.0.0.11/24 dev eth0");
        // What the kernel says when its probes were not answered.
        balancer.ip("neigh change 10.0.0.11 dev eth0 nud failed");
        let gone = until(
            &mut hops,
            "10.0.0.11",
            Duration::from_millis(500),
            Result::is_err,
        )
        .await;
        assert_eq!(
            gone.unwrap_err().to_string(),
            "no answer to ARP for 10.0.0.11 on eth0"
        );
        backend.ip("addr add 10.0.0.11/24 dev eth0");
        until(
            &mut hops,
            "10.0.0.11",
            Duration::from_secs(3),
            Result::is_ok,
        )
        .await
        .unwrap();
    });
}

#[test]
fn a_neighbour_that_the_kernel_merely_forgot_is_not_reported_missing() {
    let net = net();
    let balancer = Arc::clone(&net.balancer);
    net.balancer.enter(async move || {
        let (_tracker, mut hops) = track(&["10.0.0.11", "2001:db8::11"]).await;
        hops.borrow_and_update();
        balancer.ip("neigh flush all");
        balancer.ip("-6 neigh flush all");
        assert!(
            timeout(Duration::from_millis(1500), hops.changed())
                .await
                .is_err(),
            "{:?}",
            hops.borrow()
        );
        assert!(output(&format!("ip -n {} neigh show 10.0.0.11", balancer.0)).contains("lladdr"));
    });
}

#[test]
fn an_interface_that_goes_down_is_reported_and_recovers() {
    let net = net();
    let (balancer, backend) = (Arc::clone(&net.balancer), Arc::clone(&net.backends[0]));
    net.balancer.enter(async move || {
        let (_tracker, mut hops) = track(&["10.0.0.11", "10.0.1.11"]).await;
        backend.ip("link set eth0 down");
        let unplugged = until(&mut hops, "10.0.0.11", PATIENCE, Result::is_err).await;
        assert_eq!(
            unplugged.unwrap_err().to_string(),
            "eth0, which leads to 10.0.0.11, has no carrier"
        );
        assert!(now(&hops, "10.0.1.11").is_ok());
        backend.ip("link set eth0 up");
        until(&mut hops, "10.0.0.11", PATIENCE, |hop| via(hop, BACKEND[0]))
            .await
            .unwrap();

        balancer.ip("link set eth0 down");
        // Its routes go with it: whichever the kernel says first, it is an error.
        until(&mut hops, "10.0.0.11", PATIENCE, Result::is_err)
            .await
            .unwrap_err();
        balancer.ip("link set eth0 up");
        until(&mut hops, "10.0.0.11", PATIENCE, |hop| via(hop, BACKEND[0]))
            .await
            .unwrap();

        balancer.ip("link del eth0");
        until(&mut hops, "10.0.0.11", PATIENCE, Result::is_err)
            .await
            .unwrap_err();
        assert!(now(&hops, "10.0.1.11").is_ok());
    });
}

#[test]
fn a_changed_route_switches_the_interface_and_nothing_else_is_reported_in_between() {
    let net = net();
    net.balancer.ip("route add 192.0.2.0/24 via 10.0.0.11");
    net.balancer
        .ip("-6 route add 2001:db8:9::/48 via 2001:db8::11");
    let balancer = Arc::clone(&net.balancer);
    net.balancer.enter(async move || {
        let (_tracker, mut hops) = track(&["192.0.2.7", "2001:db8:9::7"]).await;
        for (target, change) in [
            ("192.0.2.7", "route replace 192.0.2.0/24 via 10.0.1.11"),
            (
                "2001:db8:9::7",
                "-6 route replace 2001:db8:9::/48 via 2001:db8:1::11",
            ),
        ] {
            assert!(via(&now(&hops, target), BACKEND[0]));
            balancer.ip(change);
            let hop = until(&mut hops, target, PATIENCE, |hop| !via(hop, BACKEND[0]))
                .await
                .unwrap();
            assert_eq!((hop.source_mac, hop.mac), (BALANCER[1], BACKEND[1]));
        }
        // A policy rule, and a table of its own.
        balancer.ip("route add 192.0.2.0/24 via 10.0.0.11 table 100");
        balancer.ip("rule add to 192.0.2.0/24 lookup 100");
        until(&mut hops, "192.0.2.7", PATIENCE, |hop| via(hop, BACKEND[0]))
            .await
            .unwrap();
        balancer.ip("rule del to 192.0.2.0/24 lookup 100");
        until(&mut hops, "192.0.2.7", PATIENCE, |hop| via(hop, BACKEND[1]))
            .await
            .unwrap();
        // The target becomes an address of this machine.
        balancer.ip("addr add 192.0.2.7/32 dev lo");
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
    net.balancer.ip("nexthop add id 7 via 10.0.0.11 dev eth0");
    net.balancer.ip("route add 192.0.2.0/24 nhid 7");
    let balancer = Arc::clone(&net.balancer);
    net.balancer.enter(async move || {
        let (_tracker, mut hops) = track(&["192.0.2.7"]).await;
        assert!(via(&now(&hops, "192.0.2.7"), BACKEND[0]));
        // Without this the kernel announces the routes that use the object, too.
        balancer.run("sysctl -q -w net.ipv4.nexthop_compat_mode=0");
        balancer.ip("nexthop replace id 7 via 10.0.1.11 dev eth1");
        until(&mut hops, "192.0.2.7", PATIENCE, |hop| via(hop, BACKEND[1]))
            .await
            .unwrap();
    });
}

#[test]
fn lost_events_are_made_good_by_a_dump() {
    let net = net();
    net.balancer.ip("route add 192.0.2.0/24 via 10.0.0.11");
    let balancer = Arc::clone(&net.balancer);
    net.balancer.enter(async move || {
        let (_tracker, mut hops) = track(&["192.0.2.7"]).await;
        // This blocks the only thread, and with it the tracker, while more is announced than its socket holds.
        let batch = tempfile::NamedTempFile::new().unwrap();
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
        std::fs::write(batch.path(), routes).unwrap();
        balancer.ip(&format!("-batch {}", batch.path().display()));
        balancer.ip("route replace 192.0.2.0/24 via 10.0.1.11");
        until(&mut hops, "192.0.2.7", PATIENCE, |hop| via(hop, BACKEND[1]))
            .await
            .unwrap();
    });
}

#[test]
fn targets_can_be_changed_and_only_they_are_published() {
    let net = net();
    net.balancer.enter(async || {
        let (tracker, hops) = track(&["10.0.0.11", "10.0.1.11"]).await;
        tracker.set_targets(["10.0.1.11", "2001:db8::11"].map(ip).into());
        tracker.ready().await;
        let targets: BTreeSet<_> = hops.borrow().0.keys().copied().collect();
        assert_eq!(targets, ["10.0.1.11", "2001:db8::11"].map(ip).into());
        assert!(
            hops.borrow().0.values().all(Result::is_ok),
            "{:?}",
            hops.borrow()
        );
        tracker.set_targets(BTreeSet::new());
        tracker.ready().await;
        assert!(hops.borrow().0.is_empty());
    });
}

/// What `ip` says about the addresses of an interface.
fn addresses(namespace: &Namespace, interface: &str) -> String {
    output(&format!(
        "ip -n {} address show dev {interface}",
        namespace.0
    ))
}

#[test]
fn vips_are_added_and_removed_and_what_was_there_before_stays() {
    let net = net();
    let balancer = Arc::clone(&net.balancer);
    net.balancer.ip("addr add 10.0.0.101/24 dev eth1");
    net.balancer.enter(async move || {
        let links = Links::follow().await.unwrap();
        let eth0 = links.find("eth0").unwrap().index;
        let vips = Vips::start().await.unwrap();
        let want =
            BTreeSet::from(["10.0.0.100", "10.0.0.101", "2001:db8::100", "2001:db8::1"].map(ip));
        let states = vips.ensure(want.clone(), eth0).await.unwrap();
        let state = |address: &str| states[&ip(address)].as_ref().unwrap().clone();
        assert_eq!(state("10.0.0.100"), VipState::Added);
        assert_eq!(state("2001:db8::100"), VipState::Added);
        assert_eq!(
            state("10.0.0.101"),
            VipState::AlreadyThere {
                interface: "eth1".to_owned()
            }
        );
        assert_eq!(
            state("2001:db8::1"),
            VipState::AlreadyThere {
                interface: "eth0".to_owned()
            }
        );
        let shown = addresses(&balancer, "eth0");
        assert!(shown.contains("inet 10.0.0.100/32"), "{shown}");
        assert!(shown.contains("inet6 2001:db8::100/128"), "{shown}");
        assert!(
            shown.contains("deprecated") && !shown.contains("tentative"),
            "{shown}"
        );
        assert!(!shown.contains("10.0.0.101"), "{shown}");

        // The same again changes nothing; less removes only ours.
        let again = vips.ensure(want, eth0).await.unwrap();
        assert_eq!(again[&ip("10.0.0.100")].as_ref().unwrap(), &VipState::Added);
        vips.ensure(
            BTreeSet::from(["2001:db8::100", "10.0.0.101"].map(ip)),
            eth0,
        )
        .await
        .unwrap();
        assert!(!addresses(&balancer, "eth0").contains("10.0.0.100"));
        assert_eq!(
            vips.owned().await.unwrap(),
            BTreeSet::from([ip("2001:db8::100")])
        );
        vips.remove_all().await.unwrap();
        assert!(vips.owned().await.unwrap().is_empty());
        let (first, second) = (addresses(&balancer, "eth0"), addresses(&balancer, "eth1"));
        assert!(
            first.contains("10.0.0.1/24") && first.contains("2001:db8::1/64"),
            "{first}"
        );
        assert!(second.contains("10.0.0.101/24"), "{second}");
    });
}

#[test]
fn whose_address_it_is_survives_the_manager() {
    let net = net();
    net.balancer.enter(async || {
        let links = Links::follow().await.unwrap();
        let (eth0, eth1) = (
            links.find("eth0").unwrap().index,
            links.find("eth1").unwrap().index,
        );
        let want = BTreeSet::from(["10.0.0.100", "2001:db8::100"].map(ip));
        let vips = Vips::start().await.unwrap();
        vips.ensure(want.clone(), eth0).await.unwrap();
        drop(vips);

        let vips = Vips::start().await.unwrap();
        assert_eq!(vips.owned().await.unwrap(), want);
        // Another interface is chosen: they move.
        let states = vips.ensure(want.clone(), eth1).await.unwrap();
        assert!(
            states
                .values()
                .all(|state| matches!(state, Ok(VipState::Added))),
            "{states:?}"
        );
        assert_eq!(vips.owned().await.unwrap(), want);
        vips.remove_all().await.unwrap();
        assert!(vips.owned().await.unwrap().is_empty());
    });
}

#[test]
fn a_vip_that_somebody_removes_is_put_back() {
    let net = net();
    let balancer = Arc::clone(&net.balancer);
    net.balancer.enter(async move || {
        let links = Links::follow().await.unwrap();
        let eth0 = links.find("eth0").unwrap().index;
        let vips = Vips::start().await.unwrap();
        let want = BTreeSet::from(["10.0.0.100", "2001:db8::100"].map(ip));
        vips.ensure(want.clone(), eth0).await.unwrap();
        balancer.ip("addr del 10.0.0.100/32 dev eth0");
        // The kernel removes the IPv6 addresses.
        balancer.ip("link set eth0 down");
        assert_eq!(vips.owned().await.unwrap(), BTreeSet::new());
        balancer.ip("link set eth0 up");
        let deadline = Instant::now() + PATIENCE;
        while vips.owned().await.unwrap() != want {
            assert!(Instant::now() < deadline, "{:?}", vips.owned().await);
            sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn a_vip_that_cannot_be_added_says_why_and_the_others_are_added() {
    let net = net();
    net.balancer
        .run("sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=1");
    net.balancer.enter(async || {
        let links = Links::follow().await.unwrap();
        let eth0 = links.find("eth0").unwrap().index;
        let vips = Vips::start().await.unwrap();
        let want = BTreeSet::from(["10.0.0.100", "2001:db8::100"].map(ip));
        let states = vips.ensure(want, eth0).await.unwrap();
        assert!(matches!(states[&ip("10.0.0.100")], Ok(VipState::Added)));
        let refused = states[&ip("2001:db8::100")]
            .as_ref()
            .unwrap_err()
            .to_string();
        assert!(
            refused.starts_with("cannot add 2001:db8::100 to eth0: "),
            "{refused}"
        );
        assert!(refused.contains("disable_ipv6"), "{refused}");
        vips.remove_all().await.unwrap();
    });
}

/// A raw socket that receives every frame in the namespace of the calling thread.
fn sniffer() -> OwnedFd {
    // SAFETY: no pointers are passed.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            i32::from(0x0003_u16.to_be()),
        )
    };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor was just created and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(Duration::from_millis(100)),
    )
    .unwrap();
    socket
}

fn receive(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut frame = vec![0; 2048];
    // SAFETY: the buffer is writable for the length given, and outlives the call.
    let length = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            frame.as_mut_ptr().cast(),
            frame.len(),
            0,
        )
    };
    frame.truncate(usize::try_from(length).ok()?);
    Some(frame)
}

#[test]
fn a_new_vip_is_announced_twice_and_again_when_the_link_comes_up() {
    let net = net();
    let (ready, start) = std::sync::mpsc::channel();
    let (first_heard, heard) = std::sync::mpsc::channel();
    let backend = Arc::clone(&net.backends[0]);
    let listener = thread::spawn(move || {
        backend.enter(async move || {
            let socket = sniffer();
            ready.send(()).unwrap();
            let arp =
                xdp_loader::netlink::announce::gratuitous_arp(BALANCER[0], [10, 0, 0, 100].into());
            let advertisement = xdp_loader::netlink::announce::unsolicited_advertisement(
                BALANCER[0],
                "2001:db8::100".parse().unwrap(),
                false,
            );
            let (mut arps, mut advertisements) = (Vec::new(), Vec::new());
            let deadline = Instant::now() + PATIENCE;
            while arps.len().min(advertisements.len()) < 4 && Instant::now() < deadline {
                if let Some(frame) = receive(&socket) {
                    if frame.starts_with(&arp) {
                        arps.push(Instant::now());
                    } else if frame == advertisement {
                        advertisements.push(Instant::now());
                    }
                    if arps.len().min(advertisements.len()) == 2 {
                        let _ = first_heard.send(());
                    }
                }
            }
            (arps, advertisements)
        })
    });
    start.recv().unwrap();
    let balancer = Arc::clone(&net.balancer);
    net.balancer.enter(async move || {
        let links = Links::follow().await.unwrap();
        let eth0 = links.find("eth0").unwrap().index;
        let vips = Vips::start().await.unwrap();
        vips.ensure(
            BTreeSet::from(["10.0.0.100", "2001:db8::100"].map(ip)),
            eth0,
        )
        .await
        .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while heard.try_recv().is_err() {
            assert!(
                Instant::now() < deadline,
                "the first two announcements were not heard"
            );
            sleep(Duration::from_millis(20)).await;
        }
        balancer.ip("link set eth0 down");
        sleep(Duration::from_millis(200)).await;
        balancer.ip("link set eth0 up");
        sleep(Duration::from_secs(2)).await;
        vips.remove_all().await.unwrap();
    });
    let (arps, advertisements) = listener.join().unwrap();
    for heard in [&arps, &advertisements] {
        assert!(
            heard.len() >= 4,
            "{} ARPs, {} advertisements",
            arps.len(),
            advertisements.len()
        );
        let between = heard[1] - heard[0];
        assert!(
            between > Duration::from_millis(800) && between < Duration::from_millis(1500),
            "{between:?}"
        );
    }
}
