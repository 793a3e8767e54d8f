//! Links, found and followed.

use std::sync::Arc;

use lvx_netlink::{LinkTable, Links};
use tokio::time::timeout;

use crate::lab::{BALANCER, PATIENCE, net};

#[test]
fn links_are_found_by_name_and_followed() {
    let net = net();
    let balancer = &net.balancer;
    net.balancer.block_on(async move || {
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
        balancer.ip("link set eth0 mtu 1400").unwrap();
        balancer.ip("link set eth1 down").unwrap();
        balancer.ip("link set eth1 name uplink").unwrap();
        let seen = |table: &Arc<LinkTable>| {
            table.find("eth0").is_ok_and(|link| link.mtu == 1400)
                && table.find("uplink").is_ok_and(|link| !link.up && !link.admin_up)
        };
        timeout(PATIENCE, changes.wait_for(seen)).await.unwrap().unwrap();
        balancer.ip("link del uplink").unwrap();
        timeout(PATIENCE, changes.wait_for(|table| table.find("uplink").is_err()))
            .await
            .unwrap()
            .unwrap();
    });
}
