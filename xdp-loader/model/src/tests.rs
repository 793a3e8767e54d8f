//! What may be desired and what is refused.

#![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

use super::*;
use crate::document::Document;

const WEB: &str = "tcp://10.0.0.100:80";

fn service(text: &str) -> ServiceAddress {
    text.parse().unwrap()
}

fn backend(text: &str) -> BackendAddress {
    text.parse().unwrap()
}

fn web(forward: Forward) -> Desired {
    let mut desired = Desired::default();
    desired
        .add_service(Service {
            forward,
            ..Service::new(service(WEB))
        })
        .unwrap();
    desired
        .add_backend(service(WEB), Backend::new(backend("10.0.0.11")))
        .unwrap();
    desired
}

/// The message of a refusal, after checking that nothing changed.
fn refused(desired: &Desired, change: impl FnOnce(&mut Desired) -> Result<(), Refusal>) -> String {
    let mut changed = desired.clone();
    let message = change(&mut changed).unwrap_err().to_string();
    assert_eq!(&changed, desired, "a refused change left a trace: {message}");
    message
}

fn refused_backend(desired: &Desired, text: &str) -> String {
    refused(desired, |desired| {
        desired.add_backend(service(WEB), Backend::new(backend(text)))
    })
}

#[test]
fn each_refusal_has_its_own_message_and_changes_nothing() {
    let dr = web(Forward::Dr);
    let other = service("tcp://10.0.0.101:80");
    let cases = [
        (
            refused(&dr, |desired| desired.add_service(Service::new(service(WEB)))),
            "exists already",
        ),
        (refused(&dr, |desired| desired.del_service(other)), "does not exist"),
        (
            refused(&dr, |desired| desired.set_service(other, &ServiceChange::default())),
            "does not exist",
        ),
        (
            refused(&dr, |desired| desired.drain(other, backend("10.0.0.11"), true)),
            "service tcp://10.0.0.101:80",
        ),
        (
            refused(&dr, |desired| desired.drain(service(WEB), backend("10.0.0.12"), true)),
            "lvx backend list",
        ),
        (
            refused(&dr, |desired| desired.del_backend(service(WEB), backend("10.0.0.12"))),
            "backend 10.0.0.12",
        ),
        (refused_backend(&dr, "10.0.0.11"), "backend 10.0.0.11 exists already"),
        (refused_backend(&dr, "10.0.0.11:80"), "exists already"),
        (refused_backend(&dr, "2001:db8::2"), "one address family"),
        (
            refused_backend(&dr, "10.0.0.12:8080"),
            "use --forward nat or the service's port 80",
        ),
        (refused_backend(&dr, "10.0.0.100"), "is the VIP of service"),
        (refused_backend(&dr, "224.0.0.1"), "multicast"),
        (refused_backend(&dr, "255.255.255.255"), "broadcast"),
        (refused_backend(&dr, "0.0.0.0"), "unspecified"),
        (refused_backend(&dr, "127.0.0.1"), "loopback"),
        (refused_backend(&dr, "fe80::1"), "link-local"),
        (
            refused_backend(&dr, "::ffff:10.0.0.12"),
            "an IPv4 address written as IPv6",
        ),
        (
            refused(&dr, |desired| {
                desired.add_service(Service::new(service("tcp://[ff02::1]:80")))
            }),
            "multicast",
        ),
    ];
    for (message, part) in cases {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn a_weight_out_of_range_is_refused() {
    let dr = web(Forward::Dr);
    for weight in [-1, 65_536] {
        let change = BackendChange {
            weight: Some(weight),
            ..BackendChange::default()
        };
        let message = refused(&dr, |desired| {
            desired.set_backend(service(WEB), backend("10.0.0.11"), &change)
        });
        assert_eq!(
            message,
            format!("weight {weight} of backend 10.0.0.11 is out of range: it must be 0 to 65535")
        );
    }
}

#[test]
fn mh_slots_that_are_no_prime_or_out_of_range_are_refused() {
    for slots in [0, 250, 241, 65_536, 131_072, 131_101] {
        let change = ServiceChange {
            mh_slots: Some(slots),
            ..ServiceChange::default()
        };
        let message = refused(&web(Forward::Dr), |desired| desired.set_service(service(WEB), &change));
        assert!(message.contains("must be a prime between 251 and 131071"), "{message}");
    }
}

#[test]
fn a_service_whose_backends_use_other_ports_cannot_be_turned_to_dr() {
    let mut nat = web(Forward::Nat);
    nat.add_backend(service(WEB), Backend::new(backend("10.0.0.12:8080")))
        .unwrap();
    let change = ServiceChange {
        forward: Some(Forward::Dr),
        ..ServiceChange::default()
    };
    let message = refused(&nat, |desired| desired.set_service(service(WEB), &change));
    assert!(message.contains("dr cannot rewrite ports"), "{message}");
}

#[test]
fn a_backend_may_use_nat_and_another_port_in_a_dr_service() {
    let mut desired = web(Forward::Dr);
    let odd = Backend {
        forward: Some(Forward::Nat),
        ..Backend::new(backend("10.0.0.12:8080"))
    };
    desired.add_backend(service(WEB), odd).unwrap();
    assert_eq!(desired.service(service(WEB)).unwrap().backends.len(), 2);
}

#[test]
fn backends_are_sorted_whatever_the_order_of_adding() {
    let mut desired = web(Forward::Nat);
    for name in ["10.0.0.9", "10.0.0.12", "10.0.0.11:8080", "10.0.0.11:79", "10.0.0.9:80"] {
        let _ = desired.add_backend(service(WEB), Backend::new(backend(name)));
    }
    let names: Vec<_> = desired
        .service(service(WEB))
        .unwrap()
        .backends
        .iter()
        .map(|each| each.name().to_string())
        .collect();
    assert_eq!(
        names,
        ["10.0.0.9", "10.0.0.11:79", "10.0.0.11", "10.0.0.11:8080", "10.0.0.12"]
    );
}

#[test]
fn the_same_vip_and_port_may_be_tcp_and_udp() {
    let mut desired = web(Forward::Dr);
    desired
        .add_service(Service::new(service("udp://10.0.0.100:80")))
        .unwrap();
    assert_eq!(desired.services().len(), 2);
}

#[test]
fn a_change_keeps_what_it_does_not_name() {
    let mut desired = web(Forward::Nat);
    let weight = BackendChange {
        weight: Some(7),
        ..BackendChange::default()
    };
    desired
        .set_backend(service(WEB), backend("10.0.0.11"), &weight)
        .unwrap();
    desired.drain(service(WEB), backend("10.0.0.11:80"), true).unwrap();
    let scheduler = ServiceChange {
        scheduler: Some(Scheduler::Wrr),
        ..ServiceChange::default()
    };
    desired.set_service(service(WEB), &scheduler).unwrap();
    let now = desired.service(service(WEB)).unwrap();
    assert_eq!((now.forward, now.scheduler), (Forward::Nat, Scheduler::Wrr));
    assert_eq!((now.backends[0].weight, now.backends[0].drain), (7, true));
    assert_eq!(now.backends[0].scheduled_weight(), 0);
}

#[test]
fn a_document_that_repeats_itself_is_refused() {
    let twice = Document {
        services: vec![Service::new(service(WEB)), Service::new(service(WEB))],
    };
    assert_eq!(Desired::from_document(twice), Err(Refusal::ServiceTwice(service(WEB))));
    let mut repeated = Service::new(service(WEB));
    repeated.backends = vec![
        Backend::new(backend("10.0.0.11")),
        Backend::new(backend("10.0.0.11:80")),
    ];
    let refusal = Desired::from_document(Document {
        services: vec![repeated],
    })
    .unwrap_err();
    assert!(matches!(refusal, Refusal::BackendTwice { .. }), "{refusal}");
}

#[test]
fn a_service_takes_65535_backends_and_no_more() {
    let mut many = Service::new(service(WEB));
    let name = |number: u32| BackendAddress {
        ip: std::net::Ipv4Addr::from(0x0a01_0000 + number).into(),
        port: None,
    };
    many.backends = (0..65_535).map(|number| Backend::new(name(number))).collect();
    let full = Desired::from_document(Document { services: vec![many] }).unwrap();
    let refusal = full
        .clone()
        .add_backend(service(WEB), Backend::new(name(65_535)))
        .unwrap_err();
    assert_eq!(refusal, Refusal::TooManyBackends { service: service(WEB) });
}

fn changed(change: &str) -> ServiceChange {
    serde_json::from_str(change).unwrap()
}

#[test]
fn what_cannot_be_kept_of_connections_is_refused_with_its_reason() {
    let dr = web(Forward::Dr);
    let cases = [
        (
            r#"{"scheduler": "rr", "hash": "source"}"#,
            "scheduler rr does not hash the client",
        ),
        (r#"{"persistence": "500ms"}"#, "it must be 1s to 31d"),
        (
            r#"{"netmask": 24}"#,
            "netmask of service tcp://10.0.0.100:80 means nothing without",
        ),
        (
            r#"{"mark": 1}"#,
            "mark of service tcp://10.0.0.100:80 means nothing without",
        ),
        (r#"{"persistence": "5m", "netmask": 33}"#, "it must be 1 to 32 for IPv4"),
        (r#"{"one_packet": true}"#, "one-packet scheduling is for UDP"),
        (r#"{"timeouts": {"syn": "0s"}}"#, "timeout syn 0s"),
    ];
    for (change, part) in cases {
        let message = refused(&dr, |desired| desired.set_service(service(WEB), &changed(change)));
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    let thresholds = [
        (
            r#"{"lower": 5}"#,
            "lower 5 of backend 10.0.0.11 means nothing without upper",
        ),
        (r#"{"upper": 5, "lower": 5}"#, "lower 5 must be less than upper 5"),
    ];
    for (change, part) in thresholds {
        let change: BackendChange = serde_json::from_str(change).unwrap();
        let message = refused(&dr, |desired| {
            desired.set_backend(service(WEB), backend("10.0.0.11"), &change)
        });
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn one_packet_scheduling_is_for_udp_without_persistence() {
    let dns = service("udp://10.0.0.100:53");
    let mut desired = web(Forward::Dr);
    desired.add_service(Service::new(dns)).unwrap();
    desired.add_backend(dns, Backend::new(backend("10.0.0.11"))).unwrap();
    desired.set_service(dns, &changed(r#"{"one_packet": true}"#)).unwrap();
    let message = refused(&desired, |desired| {
        desired.set_service(dns, &changed(r#"{"persistence": "5m"}"#))
    });
    assert!(message.contains("both one_packet and persistence"), "{message}");
    desired.set_service(dns, &changed(r#"{"forward": "nat"}"#)).unwrap();
}

#[test]
fn services_with_one_mark_have_one_persistence() {
    let secure = service("tcp://10.0.0.100:443");
    let mut desired = web(Forward::Dr);
    let marked = changed(r#"{"persistence": "5m", "netmask": 24, "mark": 1}"#);
    desired.set_service(service(WEB), &marked).unwrap();
    desired.add_service(Service::new(secure)).unwrap();
    let apart = [
        (r#"{"persistence": "6m", "netmask": 24, "mark": 1}"#, "persistence"),
        (r#"{"persistence": "5m", "mark": 1}"#, "netmask"),
    ];
    for (change, what) in apart {
        let message = refused(&desired, |desired| desired.set_service(secure, &changed(change)));
        let part = format!("share mark 1, and their {what} is not the same");
        assert!(message.contains(&part), "{message:?} does not say {part:?}");
    }
    let six = Service {
        persistence: Some("5m".parse().unwrap()),
        netmask: Some(24),
        mark: Some(1),
        ..Service::new(service("tcp://[2001:db8::1]:80"))
    };
    let message = refused(&desired, |desired| desired.add_service(six.clone()));
    assert!(message.contains("address family"), "{message}");
    desired.set_service(secure, &marked).unwrap();
    let mut document = desired.to_document();
    document.services.push(six);
    let refusal = Desired::from_document(document).unwrap_err();
    assert!(matches!(refusal, Refusal::MarkApart { mark: 1, .. }), "{refusal}");
    let message = refused(&desired, |desired| {
        desired.set_service(secure, &changed(r#"{"persistence": "7m"}"#))
    });
    assert!(message.contains("`lvx apply`"), "{message}");
    desired
        .set_service(secure, &changed(r#"{"mark": 0, "persistence": "7m"}"#))
        .unwrap();
}

#[test]
fn taking_persistence_off_takes_netmask_and_mark_with_it() {
    let mut desired = web(Forward::Dr);
    for change in [
        r#"{"persistence": "5m", "netmask": 24, "mark": 1}"#,
        r#"{"persistence": "0s"}"#,
    ] {
        desired.set_service(service(WEB), &changed(change)).unwrap();
    }
    assert_eq!(desired, web(Forward::Dr));
}

#[test]
fn a_hash_goes_when_a_scheduler_comes_that_does_not_hash() {
    let mut desired = web(Forward::Dr);
    let hash = |desired: &Desired| desired.service(service(WEB)).unwrap().hash_by();
    assert_eq!(hash(&desired), HashBy::SourcePort);
    let steps = [
        (r#"{"hash": "source"}"#, HashBy::Source),
        (r#"{"scheduler": "wlc"}"#, HashBy::SourcePort),
        (r#"{"scheduler": "sh"}"#, HashBy::Source),
        (r#"{"scheduler": "sh", "hash": "source-port"}"#, HashBy::SourcePort),
    ];
    for (change, expected) in steps {
        desired.set_service(service(WEB), &changed(change)).unwrap();
        assert_eq!(hash(&desired), expected, "{change}");
    }
}

#[test]
fn a_netmask_of_all_bits_is_none() {
    let mut desired = web(Forward::Dr);
    let change = changed(r#"{"persistence": "5m", "netmask": "255.255.255.255"}"#);
    desired.set_service(service(WEB), &change).unwrap();
    let web = desired.service(service(WEB)).unwrap();
    assert_eq!((web.netmask, web.netmask()), (None, Netmask(32)));
}

#[test]
fn null_puts_a_field_back_to_its_default_and_a_table_with_all_its_fields() {
    let plain = web(Forward::Dr);
    let mut desired = plain.clone();
    let sets = r#"{"scheduler": "sh", "mh_slots": 251, "hash": "source-port", "persistence": "5m", "netmask": 24, "mark": 1,
        "on_loss": "drop", "overload": "drop", "on_none": "drop", "timeouts": {"fin": "5s", "syn": "9s"},
        "availability": {"combine": "any", "hold_out": "20s", "quorum": 2}, "health": {"type": "icmp"}}"#;
    desired.set_service(service(WEB), &changed(sets)).unwrap();
    let one =
        changed(r#"{"availability": {"hold_out": null}, "timeouts": {"syn": null}, "netmask": null, "mark": null}"#);
    desired.set_service(service(WEB), &one).unwrap();
    let set = desired.service(service(WEB)).unwrap();
    assert_eq!(set.availability.hold_out, Period::from_millis(10_000));
    assert_eq!((set.availability.quorum, set.timeouts.syn), (2, None));
    assert_eq!(set.timeouts.fin, Some(Period::from_millis(5_000)));
    assert_eq!(
        (set.netmask, set.mark, set.hash),
        (None, None, Some(HashBy::SourcePort))
    );
    let all = changed(
        r#"{"scheduler": null, "mh_slots": null, "hash": null, "persistence": null, "on_loss": null, "overload": null, "on_none": null,
        "timeouts": null, "availability": null, "health": null}"#,
    );
    desired.set_service(service(WEB), &all).unwrap();
    assert_eq!(desired, plain);

    let change = |desired: &mut Desired, change: &str| {
        let change: BackendChange = serde_json::from_str(change).unwrap();
        desired
            .set_backend(service(WEB), backend("10.0.0.11"), &change)
            .unwrap();
    };
    let sets = r#"{"weight": 7, "forward": "nat", "drain": true, "disabled": true, "sorry": true, "upper": 9, "lower": 3,
        "health": []}"#;
    change(&mut desired, sets);
    assert_ne!(desired, plain);
    let all = r#"{"weight": null, "forward": null, "drain": null, "disabled": null, "sorry": null, "upper": null,
        "lower": null, "health": null}"#;
    change(&mut desired, all);
    assert_eq!(desired, plain);
}

#[test]
fn fields_of_the_one_probe_can_be_changed_and_of_no_other_number_of_probes() {
    let mut desired = web(Forward::Dr);
    let health = |desired: &Desired| serde_json::to_value(&desired.service(service(WEB)).unwrap().health).unwrap();
    let steps = [
        (
            r#"{"type": "http", "path": "/a", "rise": 4}"#,
            serde_json::json!([{"type": "http", "path": "/a", "rise": 4}]),
        ),
        (
            r#"{"path": "/b", "rise": null, "fall": 5}"#,
            serde_json::json!([{"type": "http", "path": "/b", "fall": 5}]),
        ),
        (r#"{"type": "tcp"}"#, serde_json::json!([{"type": "tcp"}])),
    ];
    for (change, expected) in steps {
        let change = changed(&format!(r#"{{"health": {change}}}"#));
        let text = serde_json::to_string(&change).unwrap();
        assert_eq!(changed(&text), change, "{text}");
        desired.set_service(service(WEB), &change).unwrap();
        assert_eq!(health(&desired), expected);
    }
    let port = changed(r#"{"health": {"port": 8080}}"#);
    let path = changed(r#"{"health": {"path": "/"}}"#);
    let message = refused(&desired, |desired| desired.set_service(service(WEB), &path));
    assert!(
        message.starts_with("service tcp://10.0.0.100:80: health check tcp: has no field `path`"),
        "{message}"
    );
    let own: BackendChange = serde_json::from_str(r#"{"health": {"port": 8080}}"#).unwrap();
    let message = refused(&desired, |desired| {
        desired.set_backend(service(WEB), backend("10.0.0.11"), &own)
    });
    assert!(
        message.starts_with("backend 10.0.0.11 has no health check of its own"),
        "{message}"
    );
    let two = changed(r#"{"health": [{"type": "tcp"}, {"type": "icmp"}]}"#);
    desired.set_service(service(WEB), &two).unwrap();
    let message = refused(&desired, |desired| desired.set_service(service(WEB), &port));
    assert!(message.contains("has 2 health checks: give a type too"), "{message}");
    desired
        .set_service(service(WEB), &changed(r#"{"health": []}"#))
        .unwrap();
    let message = refused(&desired, |desired| desired.set_service(service(WEB), &port));
    assert!(message.contains("give its type too"), "{message}");
    assert!(serde_json::from_str::<ServiceChange>(r#"{"health": {"paht": "/"}}"#).is_err());
}
