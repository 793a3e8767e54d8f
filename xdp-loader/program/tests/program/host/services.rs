//! Services at random, of every kind whose choices can be foreseen.

use std::net::{IpAddr, SocketAddr};

use lvx_model::{
    BackendChange, Desired, Forward, HashBy, OnLoss, OnNone, Overload, Period, Scheduler, ServiceChange,
    TimeoutsChange, health::HealthView,
};
use lvx_netlink::NextHops;
use lvx_test_kit::random::Random;

use crate::balancer::Balancer;

/// All but `p2c`, whose choices are random.
fn scheduler(random: &mut Random) -> Scheduler {
    let known: Vec<Scheduler> = Scheduler::ALL
        .iter()
        .copied()
        .filter(|&it| it != Scheduler::P2c)
        .collect();
    random.one(&known)
}

/// A service that is desired.
pub struct Service {
    pub name: String,
    pub vip: SocketAddr,
    pub is_tcp: bool,
    pub backends: Vec<SocketAddr>,
}

/// Desires new services, with no more than so many backends, in place of all that there were.
pub fn desire(balancer: &mut Balancer, most: u32, random: &mut Random) -> Vec<Service> {
    balancer.desired = Desired::default();
    balancer.apply();
    balancer.sweep();
    balancer.hops = NextHops::default();
    balancer.health = HealthView::default();
    (0..12)
        .map(|number| service(balancer, random, number, most >= 2000))
        .collect()
}

fn service(balancer: &mut Balancer, random: &mut Random, number: u16, may_be_large: bool) -> Service {
    let (is_tcp, is_v4) = (number.is_multiple_of(2), number % 4 < 2);
    // Two share an address; some also share backends.
    let port = 80 + number / 4;
    let vip = match is_v4 {
        true => SocketAddr::new([10, 9, 9, 9].into(), port),
        false => SocketAddr::new([0x2001, 0xdb8, 9, 0, 0, 0, 0, 9].into(), port),
    };
    let forward = random.one(&[Forward::Dr, Forward::Nat]);
    let scheduler = scheduler(random);
    let count = match random.below(10) {
        0 => 0,
        1..3 if may_be_large && number < 4 => 270 + random.below(50),
        _ => 1 + random.below(5),
    };
    let real_port = match forward {
        Forward::Dr => port,
        Forward::Nat => random.one(&[80, 8080]),
    };
    let backends: Vec<SocketAddr> = (0..count)
        .map(|host| SocketAddr::new(real(is_v4, (host % 3) as u8, (1 + host / 3) as u8), real_port))
        .collect();
    let names: Vec<String> = backends.iter().map(ToString::to_string).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let name = format!("{}://{vip}", if is_tcp { "tcp" } else { "udp" });
    balancer.add(&name, forward, scheduler, &names);
    let mut change = ServiceChange {
        overload: Some(random.one(&[Overload::Next, Overload::Sorry, Overload::Drop])),
        on_none: Some(random.one(&[OnNone::Reject, OnNone::Reject, OnNone::Drop])),
        on_loss: Some(random.one(&[OnLoss::Reschedule, OnLoss::Drop])),
        timeouts: TimeoutsChange::default(),
        ..ServiceChange::default()
    };
    if matches!(scheduler, Scheduler::Mh | Scheduler::Sh) {
        change.hash = Some(Some(random.one(&[HashBy::Source, HashBy::SourcePort])));
    }
    if random.happens(40) {
        change.persistence = Some(Period::from_millis(300_000));
        if random.happens(50) {
            change.mark = Some(if is_v4 { 1 } else { 2 });
        } else if random.happens(50) {
            let masks: [u8; 3] = if is_v4 { [32, 24, 30] } else { [128, 64, 120] };
            change.netmask = Some(Some(random.one(&masks)));
        }
    } else if !is_tcp && random.happens(30) {
        change.one_packet = Some(true);
    }
    balancer.set(&name, &change);
    Service {
        name,
        vip,
        is_tcp,
        backends,
    }
}

/// The address of a host behind a network.
fn real(is_v4: bool, network: u8, host: u8) -> IpAddr {
    match is_v4 {
        true => [10, 0, network, host].into(),
        false => [0x2001, 0xdb8, u16::from(network), 0, 0, 0, 0, u16::from(host)].into(),
    }
}

/// Gives some backends other weights and thresholds, and loses some.
pub fn change(balancer: &mut Balancer, services: &[Service], random: &mut Random) {
    for service in services {
        for backend in &service.backends {
            let there = balancer.desired.services().values().any(|it| {
                it.address.to_string() == service.name && it.backends.iter().any(|it| it.address == backend.ip())
            });
            if !there || random.happens(60) {
                continue;
            }
            let name = backend.to_string();
            let upper = random.one(&[0, 0, 1, 3, 10]);
            let change = BackendChange {
                weight: Some(random.one(&[0, 1, 1, 2, 3, 10])),
                upper: Some(upper),
                lower: Some(if upper == 10 { 4 } else { 0 }),
                sorry: Some(random.happens(10)),
                drain: Some(random.happens(5)),
                ..BackendChange::default()
            };
            balancer.set_backend(&service.name, &name, &change);
            if random.happens(10) {
                balancer.is_up(&service.name, &name, random.happens(50));
            }
            if random.happens(3) {
                balancer.lose(&backend.ip().to_string());
            }
            if random.happens(3) {
                balancer.del_backend(&service.name, &name);
            }
        }
    }
}
