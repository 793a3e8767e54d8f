//! VIPs, added, owned and removed.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lvx_netlink::{Links, Places, VipState, Vips, Wish};
use lvx_test_kit::Namespace;
use tokio::time::sleep;

use crate::lab::{PATIENCE, ip, net};

/// What `ip` says about the addresses of an interface.
fn addresses(namespace: &Namespace, interface: &str) -> String {
    namespace.run("ip", ["address", "show", "dev", interface]).unwrap()
}

/// These addresses, all on one interface.
pub fn wish(addresses: &[&str], ifindex: u32) -> Wish {
    Wish {
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        places: Places {
            interfaces: vec![ifindex],
            otherwise: Some(ifindex),
        },
    }
}

#[test]
fn vips_are_added_and_removed_and_what_was_there_before_stays() {
    let net = net();
    let balancer = &net.balancer;
    net.balancer.ip("addr add 10.0.0.101/24 dev eth1").unwrap();
    net.balancer.block_on(async move || {
        let links = Links::follow().await.unwrap();
        let eth0 = links.find("eth0").unwrap().index;
        let vips = Vips::start().await.unwrap();
        let eth1 = links.find("eth1").unwrap().index;
        let want = wish(&["10.0.0.100", "10.0.0.101", "2001:db8::100", "2001:db8::1"], eth0);
        vips.ensure(want.clone()).await.unwrap();
        let states = vips.states();
        let state = |address: &str| *states[&ip(address)].as_ref().unwrap();
        assert_eq!(state("10.0.0.100"), VipState::Added { ifindex: eth0 });
        assert_eq!(state("2001:db8::100"), VipState::Added { ifindex: eth0 });
        assert_eq!(state("10.0.0.101"), VipState::AlreadyThere { ifindex: eth1 });
        let there = state("2001:db8::1");
        assert!(matches!(there, VipState::AlreadyThere { .. }), "{there:?}");
        let shown = addresses(balancer, "eth0");
        assert!(shown.contains("inet 10.0.0.100/32"), "{shown}");
        assert!(shown.contains("inet6 2001:db8::100/128"), "{shown}");
        assert!(shown.contains("deprecated") && !shown.contains("tentative"), "{shown}");
        assert!(!shown.contains("10.0.0.101"), "{shown}");

        // The same again changes nothing; less removes only ours.
        vips.ensure(want).await.unwrap();
        let again = vips.states();
        assert!(matches!(again[&ip("10.0.0.100")], Ok(VipState::Added { .. })));
        vips.ensure(wish(&["2001:db8::100", "10.0.0.101"], eth0)).await.unwrap();
        assert!(!addresses(balancer, "eth0").contains("10.0.0.100"));
        assert_eq!(vips.owned().await.unwrap(), BTreeSet::from([ip("2001:db8::100")]));
        vips.remove_all().await.unwrap();
        assert!(vips.owned().await.unwrap().is_empty());
        let (first, second) = (addresses(balancer, "eth0"), addresses(balancer, "eth1"));
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
    net.balancer.block_on(async || {
        let links = Links::follow().await.unwrap();
        let (eth0, eth1) = (links.find("eth0").unwrap().index, links.find("eth1").unwrap().index);
        let addresses = ["10.0.0.100", "2001:db8::100"];
        let want = BTreeSet::from(addresses.map(ip));
        let vips = Vips::start().await.unwrap();
        vips.ensure(wish(&addresses, eth0)).await.unwrap();
        drop(vips);

        let vips = Vips::start().await.unwrap();
        assert_eq!(vips.owned().await.unwrap(), want);
        // Another interface is chosen: they move.
        vips.ensure(wish(&addresses, eth1)).await.unwrap();
        let states = vips.states();
        assert!(
            states
                .values()
                .all(|state| matches!(state, Ok(VipState::Added { ifindex }) if *ifindex == eth1)),
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
    let balancer = &net.balancer;
    net.balancer.block_on(async move || {
        let links = Links::follow().await.unwrap();
        let eth0 = links.find("eth0").unwrap().index;
        let vips = Vips::start().await.unwrap();
        let addresses = ["10.0.0.100", "2001:db8::100"];
        let want = BTreeSet::from(addresses.map(ip));
        vips.ensure(wish(&addresses, eth0)).await.unwrap();
        balancer.ip("addr del 10.0.0.100/32 dev eth0").unwrap();
        // The kernel removes the IPv6 addresses.
        balancer.ip("link set eth0 down").unwrap();
        balancer.ip("link set eth0 up").unwrap();
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
    net.balancer.sysctl(&[("ipv6/conf/eth0/disable_ipv6", "1")]).unwrap();
    net.balancer.block_on(async || {
        let links = Links::follow().await.unwrap();
        let eth0 = links.find("eth0").unwrap().index;
        let vips = Vips::start().await.unwrap();
        vips.ensure(wish(&["10.0.0.100", "2001:db8::100"], eth0)).await.unwrap();
        let states = vips.states();
        assert!(matches!(states[&ip("10.0.0.100")], Ok(VipState::Added { .. })));
        let refused = states[&ip("2001:db8::100")].as_ref().unwrap_err().to_string();
        assert!(refused.starts_with("cannot add 2001:db8::100 to eth0: "), "{refused}");
        assert!(refused.contains("disable_ipv6"), "{refused}");
        vips.remove_all().await.unwrap();
    });
}

#[test]
fn a_vip_moves_with_its_network() {
    let net = net();
    let balancer = &net.balancer;
    net.balancer.block_on(async move || {
        let links = Links::follow().await.unwrap();
        let (eth0, eth1) = (links.find("eth0").unwrap().index, links.find("eth1").unwrap().index);
        let vips = Vips::start().await.unwrap();
        vips.ensure(Wish {
            places: Places {
                interfaces: vec![eth0, eth1],
                otherwise: Some(eth0),
            },
            ..wish(&["10.0.1.100", "2001:db8:1::100", "192.0.2.1"], eth0)
        })
        .await
        .unwrap();
        let shown = addresses(balancer, "eth1");
        assert!(
            shown.contains("10.0.1.100/32") && shown.contains("2001:db8:1::100/128"),
            "{shown}"
        );
        assert!(addresses(balancer, "eth0").contains("192.0.2.1/32"));
        balancer.ip("addr del 10.0.1.1/24 dev eth1").unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !addresses(balancer, "eth0").contains("10.0.1.100/32") {
            assert!(Instant::now() < deadline, "{}", addresses(balancer, "eth0"));
            sleep(Duration::from_millis(50)).await;
        }
        vips.remove_all().await.unwrap();
    });
}

#[test]
fn a_vip_that_another_host_has_is_not_added() {
    let net = net();
    net.backends[0]
        .ip("addr add 10.0.0.100/32 dev eth0
addr add 2001:db8::100/128 dev eth0 nodad")
        .unwrap();
    net.balancer.block_on(async || {
        let links = Links::follow().await.unwrap();
        let eth0 = links.find("eth0").unwrap().index;
        let vips = Vips::start().await.unwrap();
        vips.ensure(wish(&["10.0.0.100", "2001:db8::100", "10.0.0.101"], eth0))
            .await
            .unwrap();
        let states = vips.states();
        for address in ["10.0.0.100", "2001:db8::100"] {
            let said = states[&ip(address)].as_ref().unwrap_err().to_string();
            let by = format!("another host, 02:00:00:00:02:00, answers for {address} on eth0");
            assert!(said.starts_with(&by), "{said}");
        }
        assert_eq!(vips.owned().await.unwrap(), BTreeSet::from([ip("10.0.0.101")]));
        vips.remove_all().await.unwrap();
    });
}
