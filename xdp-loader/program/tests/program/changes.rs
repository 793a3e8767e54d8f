//! Changes of the configuration as packets see them: whole, at once, and as many as there is room for.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use lvx_dataplane::{Error, Sizes};
use lvx_model::{Forward, Scheduler, health::HealthView};
use lvx_test_kit::{
    frame::{Frame, SYN, socket, tcp},
    network::{INSIDE, OUTSIDE, backend_mac, mac},
};

use crate::{
    balancer::{Action, Balancer, sizes},
    network,
    takeover::{Pins, take_over},
};

const SERVICE: &str = "tcp://10.9.9.9:80";

/// What a new client's packet may become: for one of two backends, and nothing in between.
fn either(frame: &Frame) -> [Vec<u8>; 2] {
    ["10.0.1.11:8080", "10.0.1.12:9090"].map(|real| {
        let real = socket(real);
        frame
            .clone()
            .translated_to(real)
            .macs(backend_mac(real.ip()), mac(INSIDE))
            .bytes()
    })
}

#[test]
fn a_packet_meets_all_of_a_change_or_nothing_of_it() {
    let pins = Pins::new();
    let mut changing = Balancer::with(Some(pins.path()), sizes(), network::enter());
    changing.add(SERVICE, Forward::Nat, Scheduler::Mh, &["10.0.1.11:8080"]);
    changing.apply();
    take_over(&mut changing, &pins);
    // A successor that has not taken over: its packets go on in the program of the one that changes.
    let mut forwarding = Balancer::with(Some(pins.path()), sizes(), changing.links.clone());
    let done = AtomicBool::new(false);
    let reached = thread::scope(|scope| {
        let packets = scope.spawn(|| {
            let mut reached = [0_u32; 2];
            for number in 0_u32.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let client = format!(
                    "10.7.{}.{}:{}",
                    number % 250,
                    number / 250 % 250,
                    1024 + number % 60_000
                );
                let frame = tcp(&client, "10.9.9.9:80", SYN);
                let (action, after) = forwarding.run(OUTSIDE, &frame.bytes());
                assert_eq!(action, Action::Redirect, "packet {number}");
                let backend = either(&frame).iter().position(|expected| *expected == after);
                reached[backend.unwrap_or_else(|| panic!("packet {number} became {after:02x?}"))] += 1;
            }
            reached
        });
        for _ in 0..20 {
            for (gone, come) in [
                ("10.0.1.11:8080", "10.0.1.12:9090"),
                ("10.0.1.12:9090", "10.0.1.11:8080"),
            ] {
                changing.add_backend(SERVICE, come);
                changing.del_backend(SERVICE, gone);
                changing.apply();
                changing.sweep();
            }
            if packets.is_finished() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        packets.join().unwrap()
    });
    assert!(reached.iter().all(|packets| *packets > 0), "{reached:?}");
}

/// Applies what does not fit: what there are too many of, and how many there may be.
fn full(balancer: &mut Balancer) -> (&'static str, u32) {
    let health = HealthView::default();
    match balancer
        .tables
        .apply(&balancer.desired, &balancer.hops, &health, &balancer.links)
    {
        Err(Error::Full { what, limit, .. }) => (what, limit),
        other => panic!("{other:?}"),
    }
}

#[test]
fn as_many_services_and_backends_as_there_is_room_for_are_all_reached() {
    let mut balancer = Balancer::with(None, Sizes::new(100, 400, 4096, 4096), network::enter());
    let vip = |service: usize| {
        if service.is_multiple_of(2) {
            format!("10.9.{}.{}:{}", service % 5, service, 80 + service % 3)
        } else {
            format!("[2001:db8:9::{service:x}]:{}", 80 + service % 3)
        }
    };
    let real = |service: usize, backend: usize| {
        if service.is_multiple_of(2) {
            format!("10.0.1.{}:{}", 1 + service, 8000 + backend)
        } else {
            format!("[2001:db8:1::{:x}]:{}", 1 + service, 8000 + backend)
        }
    };
    for service in 0..100_usize {
        let backends: Vec<String> = (0..4).map(|backend| real(service, backend)).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        let address = format!("tcp://{}", vip(service));
        balancer.add(&address, Forward::Nat, Scheduler::Rr, &backends);
    }
    balancer.apply();
    for service in 0..100_usize {
        for backend in 0..4 {
            let client = if service.is_multiple_of(2) {
                "10.7.0.1"
            } else {
                "2001:db8:7::1"
            };
            let client = std::net::SocketAddr::new(client.parse().unwrap(), 1024 + (service * 4 + backend) as u16);
            let request = tcp(&client.to_string(), &vip(service), SYN);
            let target = socket(&real(service, backend));
            let (to, from) = (backend_mac(target.ip()), mac(INSIDE));
            let expected = request.clone().translated_to(target).macs(to, from);
            balancer.forwards(OUTSIDE, &request, &expected, Action::Redirect);
            let answer = tcp(&target.to_string(), &client.to_string(), SYN).macs(from, to);
            let back = answer
                .clone()
                .translated_from(request.destination)
                .macs(request.from, mac(OUTSIDE));
            balancer.forwards(INSIDE, &answer, &back, Action::Redirect);
        }
    }

    // One more service, and one more backend: refused, and packets see what they saw.
    let before = balancer.desired.clone();
    balancer.add("tcp://10.9.9.9:9999", Forward::Dr, Scheduler::Rr, &[]);
    assert_eq!(full(&mut balancer), ("services", 100));
    balancer.desired = before.clone();
    balancer.add_backend(&format!("tcp://{}", vip(0)), "10.0.1.250");
    assert_eq!(full(&mut balancer), ("backends", 400));
    assert_eq!(
        balancer.run(OUTSIDE, &tcp("10.7.0.1:1024", &vip(0), SYN).bytes()).0,
        Action::Redirect
    );

    // What was refused leaves nothing behind: there is room again for what takes its place.
    balancer.desired = before;
    balancer.apply();
    balancer.sweep();
    balancer
        .desired
        .del_service(format!("tcp://{}", vip(0)).parse().unwrap())
        .unwrap();
    balancer.apply();
    balancer.sweep();
    balancer.add("tcp://10.9.9.9:9999", Forward::Dr, Scheduler::Rr, &["10.0.1.250"]);
    balancer.apply();
    assert_eq!(balancer.host(&tcp("10.7.0.1:1024", "10.9.9.9:9999", SYN)), 250);
}

#[test]
fn many_changes_in_a_row_leave_no_scheduling_table_behind() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Dr, Scheduler::Mh, &["10.0.1.11", "10.0.1.12"]);
    let change = lvx_model::ServiceChange {
        mh_slots: Some(65_537),
        ..Default::default()
    };
    balancer.desired.set_service(SERVICE.parse().unwrap(), &change).unwrap();
    let mut segments = std::collections::BTreeSet::new();
    // A segment has room for 31 such tables.
    for round in 0..50 {
        balancer.weigh(SERVICE, "10.0.1.11", 1 + round % 2);
        balancer.apply();
        segments.insert(balancer.service_entry(SERVICE).ring.segment());
    }
    assert_eq!(segments.len(), 1);
}
