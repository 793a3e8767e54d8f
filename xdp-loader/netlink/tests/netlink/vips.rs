//! VIPs, added, owned and removed.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lvx_netlink::{Links, VipState, Vips};
use lvx_test_kit::Namespace;
use tokio::time::sleep;

use crate::lab::{PATIENCE, ip, net};

/// What `ip` says about the addresses of an interface.
fn addresses(namespace: &Namespace, interface: &str) -> String {
    namespace.run("ip", ["address", "show", "dev", interface]).unwrap()
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
        let want = BTreeSet::from(["10.0.0.100", "10.0.0.101", "2001:db8::100", "2001:db8::1"].map(ip));
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
        let shown = addresses(balancer, "eth0");
        assert!(shown.contains("inet 10.0.0.100/32"), "{shown}");
        assert!(shown.contains("inet6 2001:db8::100/128"), "{shown}");
        assert!(shown.contains("deprecated") && !shown.contains("tentative"), "{shown}");
        assert!(!shown.contains("10.0.0.101"), "{shown}");

        // The same again changes nothing; less removes only ours.
        let again = vips.ensure(want, eth0).await.unwrap();
        assert_eq!(again[&ip("10.0.0.100")].as_ref().unwrap(), &VipState::Added);
        vips.ensure(BTreeSet::from(["2001:db8::100", "10.0.0.101"].map(ip)), eth0)
            .await
            .unwrap();
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
        let want = BTreeSet::from(["10.0.0.100", "2001:db8::100"].map(ip));
        let vips = Vips::start().await.unwrap();
        vips.ensure(want.clone(), eth0).await.unwrap();
        drop(vips);

        let vips = Vips::start().await.unwrap();
        assert_eq!(vips.owned().await.unwrap(), want);
        // Another interface is chosen: they move.
        let states = vips.ensure(want.clone(), eth1).await.unwrap();
        assert!(
            states.values().all(|state| matches!(state, Ok(VipState::Added))),
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
        let want = BTreeSet::from(["10.0.0.100", "2001:db8::100"].map(ip));
        vips.ensure(want.clone(), eth0).await.unwrap();
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
        let want = BTreeSet::from(["10.0.0.100", "2001:db8::100"].map(ip));
        let states = vips.ensure(want, eth0).await.unwrap();
        assert!(matches!(states[&ip("10.0.0.100")], Ok(VipState::Added)));
        let refused = states[&ip("2001:db8::100")].as_ref().unwrap_err().to_string();
        assert!(refused.starts_with("cannot add 2001:db8::100 to eth0: "), "{refused}");
        assert!(refused.contains("disable_ipv6"), "{refused}");
        vips.remove_all().await.unwrap();
    });
}
