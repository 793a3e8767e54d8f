//! How evenly connections are spread where no reference can say whose turn it is: two random choices, and services of
//! more backends than one choice looks at.

use std::{collections::BTreeMap, net::SocketAddr};

use lvx_dataplane::{Node, Sizes};
use lvx_model::{BackendChange, Forward, Scheduler};
use lvx_test_kit::{
    frame::{ACK, Frame, RST, SYN, Transport, socket},
    random::Random,
};

use crate::balancer::Balancer;

const SERVICE: &str = "tcp://10.9.9.9:80";
const SERVICE_V6: &str = "tcp://[2001:db8:9::9]:80";

fn names(service: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| (number / 200, 1 + number % 200))
        .map(|(network, host)| match service {
            SERVICE => format!("10.0.{network}.{host}"),
            _ => format!("2001:db8:{network}::1{host:02x}"),
        })
        .collect()
}

fn serving(service: &str, scheduler: Scheduler, backends: usize) -> Balancer {
    let mut balancer = Balancer::on(Sizes::new(4, 1024, 65_536, 65_536), Node::default());
    let names = names(service, backends);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    balancer.add(service, Forward::Dr, scheduler, &names);
    balancer.apply();
    balancer
}

/// Sends the first packets of so many connections; how many went to each backend, by network and host.
fn open(balancer: &mut Balancer, service: &str, clients: std::ops::Range<usize>) -> BTreeMap<[u8; 2], usize> {
    let mut there = BTreeMap::new();
    for number in clients {
        *there
            .entry(balancer.chosen(&packet(service, number, SYN)).unwrap())
            .or_insert(0) += 1;
    }
    there
}

fn packet(service: &str, number: usize, flags: u8) -> Frame {
    let (_, vip) = service.split_once("://").unwrap();
    let [.., high, low] = (number / 50_000).to_be_bytes();
    let client = match service {
        SERVICE => [10, 7, high, low].into(),
        _ => [0x2001, 0xdb8, 7, 0, 0, 0, 0, u16::from(low)].into(),
    };
    let client = SocketAddr::new(client, 1024 + (number % 50_000) as u16);
    Frame::new(client, socket(vip), Transport::Tcp { flags })
}

/// The most and the least connections that backends of equal weight have when two choices were made of 50 differ from
/// the mean by no more. (One random choice would leave about 24 above and below: three standard deviations.)
const ABOVE: usize = 6;
const BELOW: usize = 12;

#[test]
fn two_choices_leave_nobody_far_from_the_mean() {
    for service in [SERVICE, SERVICE_V6] {
        let mut balancer = serving(service, Scheduler::P2c, 50);
        let there = open(&mut balancer, service, 0..3000);
        assert_eq!(there.len(), 50);
        let (least, most) = (there.values().min().unwrap(), there.values().max().unwrap());
        assert!(*most <= 60 + ABOVE && *least + BELOW >= 60, "{least} to {most}");
    }
}

#[test]
fn two_choices_follow_the_weights_and_leave_out_who_has_none() {
    let mut balancer = serving(SERVICE, Scheduler::P2c, 20);
    let names = names(SERVICE, 20);
    for (number, name) in names.iter().enumerate() {
        balancer.weigh(SERVICE, name, (number % 5) as i64 * 10);
    }
    balancer.apply();
    // 4 backends of each of the weights 0, 10, 20, 30, 40: 400 in all.
    let there = open(&mut balancer, SERVICE, 0..4000);
    for (number, name) in names.iter().enumerate() {
        let share = (number % 5) * 100;
        let had = there.get(&[0, 1 + number as u8]).copied().unwrap_or(0);
        assert!(
            had.abs_diff(share) <= share / 8,
            "{name} has {had}, its share is {share}"
        );
    }
}

#[test]
fn two_choices_even_out_what_departures_have_left_uneven() {
    let mut balancer = serving(SERVICE, Scheduler::P2c, 10);
    open(&mut balancer, SERVICE, 0..1000);
    // All connections of half of the backends end.
    for number in 0..1000 {
        if balancer.host(&packet(SERVICE, number, ACK)) <= 5 {
            balancer.host(&packet(SERVICE, number, RST));
        }
    }
    let there = open(&mut balancer, SERVICE, 1000..1500);
    let of = |hosts: std::ops::RangeInclusive<u8>| -> usize { hosts.filter_map(|host| there.get(&[0, host])).sum() };
    // Both choices fall on the other half a quarter of the time.
    assert!(of(1..=5) >= 330 && of(6..=10) <= 170, "{there:?}");
}

/// Of so many members all are looked at; of one more, one window after the other.
const SCANNED: usize = 256;

#[test]
fn of_more_backends_than_one_choice_looks_at_each_is_reached_and_none_much_more_than_others() {
    for service in [SERVICE, SERVICE_V6] {
        for scheduler in [Scheduler::Lc, Scheduler::Sed, Scheduler::Nq] {
            for backends in [SCANNED, SCANNED + 1, 600] {
                let mut balancer = serving(service, scheduler, backends);
                let there = open(&mut balancer, service, 0..backends * 4);
                let most = there.values().max().unwrap();
                assert!(*most <= 5, "{scheduler} of {backends}: {most}, the mean is 4");
                assert_eq!(there.len(), backends, "{scheduler}");
            }
        }
    }
}

#[test]
fn the_only_backend_with_a_weight_is_found_among_more_than_one_choice_looks_at() {
    for scheduler in [Scheduler::Wlc, Scheduler::Fo, Scheduler::Ovf] {
        let mut balancer = serving(SERVICE, scheduler, 600);
        let names = names(SERVICE, 600);
        for name in &names[1..] {
            balancer.weigh(SERVICE, name, 0);
        }
        balancer.weigh(SERVICE, &names[0], 1000);
        balancer.apply();
        let there = open(&mut balancer, SERVICE, 0..20);
        assert_eq!(there, BTreeMap::from([([0, 1], 20)]), "{scheduler}");
    }
}

#[test]
fn the_only_backend_below_its_threshold_is_found_among_more_than_one_choice_looks_at() {
    let mut balancer = serving(SERVICE, Scheduler::Lc, 600);
    let limit = BackendChange {
        upper: Some(1),
        ..BackendChange::default()
    };
    for name in &names(SERVICE, 600)[1..] {
        balancer.set_backend(SERVICE, name, &limit);
    }
    balancer.apply();
    let there = open(&mut balancer, SERVICE, 0..1200);
    assert_eq!((there.len(), there[&[0, 1]]), (600, 601));
}

#[test]
fn failover_and_overflow_know_the_heaviest_of_more_backends_than_one_choice_looks_at() {
    let mut random = Random::new(9);
    for scheduler in [Scheduler::Fo, Scheduler::Ovf] {
        let mut balancer = serving(SERVICE, scheduler, 600);
        let names = names(SERVICE, 600);
        let mut weights: Vec<usize> = (0..600).map(|_| random.below(30)).collect();
        // Two of one weight: the first is taken first.
        (weights[450], weights[550]) = (40, 40);
        for (name, weight) in names.iter().zip(&weights) {
            balancer.weigh(SERVICE, name, *weight as i64);
        }
        balancer.apply();
        let of = |number: usize| [(number / 200) as u8, 1 + (number % 200) as u8];
        let there = open(&mut balancer, SERVICE, 0..82);
        match scheduler {
            Scheduler::Fo => assert_eq!(there, BTreeMap::from([(of(450), 82)])),
            // One more than its weight, as in IPVS.
            _ => assert_eq!(there, BTreeMap::from([(of(450), 41), (of(550), 41)])),
        }
    }
}
