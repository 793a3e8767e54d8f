//! Interfaces for which there is no slot: the message names them, and says why and what to do.

use lvx_test_kit::network::mac;
use xdp_common::{
    hash,
    layout::{INTERFACES_PER_BUCKET, MAX_INTERFACES},
};

use crate::{balancer::Balancer, network};

#[test]
fn an_interface_whose_index_finds_its_place_taken_is_told_beside_which_others_it_cannot_be() {
    let mut balancer = Balancer::on(crate::balancer::sizes(), lvx_dataplane::Node::default());
    let same = |ifindex: &u32| hash::interface(*ifindex) == hash::interface(1_000);
    let indices: Vec<u32> = (1_000..).filter(same).take(INTERFACES_PER_BUCKET + 1).collect();
    for (number, ifindex) in indices.iter().enumerate() {
        network::add(*ifindex, &format!("same{number}"), "bridge", mac(*ifindex % 200));
    }
    let (last, first) = indices.split_last().unwrap();
    for ifindex in first {
        balancer.tables.interface(*ifindex).unwrap();
    }
    let message = balancer.tables.interface(*last).unwrap_err().to_string();
    assert_eq!(
        message,
        format!(
            "the index of same4, {last}, cannot be used beside those of same0, same1, same2, same3: their place in a table is the \
             same; give it another index: make the interface again, or move it to another network namespace and back"
        )
    );
    // As it says: under another index it can.
    network::add(last + 1, "again", "bridge", mac(7));
    balancer.tables.interface(last + 1).unwrap();
}

#[test]
fn an_interface_too_many_is_named_and_how_many_there_can_be() {
    let mut balancer = Balancer::on(crate::balancer::sizes(), lvx_dataplane::Node::default());
    let mut refused = Vec::new();
    for ifindex in 1_000..1_000 + MAX_INTERFACES {
        network::add(ifindex, &format!("many{ifindex}"), "bridge", mac(7));
        refused.extend(balancer.tables.interface(ifindex).err());
    }
    // Three are there from the beginning.
    assert_eq!(refused.len(), 4);
    assert_eq!(
        refused[0].to_string(),
        "many1060 is one too many: packets go through at most 63 interfaces, those that lead to backends included"
    );
}
