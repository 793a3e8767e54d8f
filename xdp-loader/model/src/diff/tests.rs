//! What is told of differences.

#![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

use super::*;
use crate::document::{Document, Format};

fn desired(text: &str) -> Desired {
    Desired::from_document(Document::parse(text, Format::Toml, "test").unwrap()).unwrap()
}

fn old() -> Desired {
    desired(
        r#"
        [[service]]
        address = "tcp://10.0.0.100:80"
        backend = [{ address = "10.0.0.11" }, { address = "10.0.0.12" }, { address = "10.0.0.13", drain = true }]
        [[service]]
        address = "udp://10.0.0.100:53"
        backend = [{ address = "10.0.0.11" }]
        "#,
    )
}

fn new() -> Desired {
    desired(
        r#"
        [[service]]
        address = "tcp://10.0.0.100:80"
        forward = "nat"
        scheduler = "wrr"
        backend = [
            { address = "10.0.0.11", weight = 2, forward = "dr" }, { address = "10.0.0.12" },
            { address = "10.0.0.12:8080", weight = 3 },
        ]
        [[service]]
        address = "tcp://[2001:db8::1]:443"
        backend = [{ address = "2001:db8::2", drain = true }]
        "#,
    )
}

#[test]
fn every_kind_of_difference_is_told_in_a_line() {
    let lines: Vec<_> = diff(&old(), &new()).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "~ service tcp://10.0.0.100:80 forward: dr -> nat scheduler: mh -> wrr",
            "~ backend 10.0.0.11 of tcp://10.0.0.100:80 weight: 1 -> 2 forward: (the service's) -> dr",
            "+ backend 10.0.0.12:8080 of tcp://10.0.0.100:80 weight=3",
            "- backend 10.0.0.13 of tcp://10.0.0.100:80",
            "+ service tcp://[2001:db8::1]:443 forward=dr scheduler=mh",
            "+ backend 2001:db8::2 of tcp://[2001:db8::1]:443 weight=1 drain=true",
            "- service udp://10.0.0.100:53 and its backend",
        ]
    );
}

#[test]
fn a_change_of_health_is_told_in_the_words_of_documents() {
    let plain = "[[service]]\naddress = \"tcp://10.0.0.100:80\"\nbackend = [{ address = \"10.0.0.11\" }]\n";
    let probed = "[[service]]\naddress = \"tcp://10.0.0.100:80\"\navailability = { quorum = 2 }\n\
                  health = { type = \"tcp\", rise = 1 }\nbackend = [{ address = \"10.0.0.11\", sorry = true }]\n";
    let lines = |old, new| -> Vec<String> {
        diff(&desired(old), &desired(new))
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(
        lines(plain, probed),
        [
            "~ service tcp://10.0.0.100:80 health: [] -> [{\"rise\":1,\"type\":\"tcp\"}] availability: {} -> {\"quorum\":2}",
            "~ backend 10.0.0.11 of tcp://10.0.0.100:80 sorry: false -> true",
        ]
    );
    assert_eq!(
        lines("service = []", probed)[0],
        "+ service tcp://10.0.0.100:80 forward=dr scheduler=mh health=tcp"
    );
}

#[test]
fn what_is_kept_of_connections_is_told_of_old_services_and_new() {
    let plain = "[[service]]\naddress = \"tcp://10.0.0.100:80\"\nbackend = [{ address = \"10.0.0.11\" }]\n";
    let kept = "[[service]]\naddress = \"tcp://10.0.0.100:80\"\npersistence = \"5m\"\nnetmask = 24\nhash = \"source\"\n\
                on_loss = \"drop\"\ntimeouts = { udp = \"30s\" }\nbackend = [{ address = \"10.0.0.11\", upper = 9 }]\n";
    let lines = |old, new| -> Vec<String> {
        let changes = diff(&desired(old), &desired(new));
        changes.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        lines(plain, kept),
        [
            "~ service tcp://10.0.0.100:80 hash: (none) -> source persistence: (none) -> 5m netmask: 32 -> 24 \
             on_loss: reschedule -> drop timeouts: {} -> {\"udp\":\"30s\"}",
            "~ backend 10.0.0.11 of tcp://10.0.0.100:80 upper: 0 -> 9",
        ]
    );
    assert_eq!(
        lines("service = []", kept),
        [
            "+ service tcp://10.0.0.100:80 forward=dr scheduler=mh hash=source netmask=24 on_loss=drop persistence=5m \
             timeouts={\"udp\":\"30s\"}",
            "+ backend 10.0.0.11 of tcp://10.0.0.100:80 weight=1 upper=9",
        ]
    );
}

#[test]
fn equal_states_have_no_difference() {
    assert_eq!(diff(&new(), &new()), []);
    assert_eq!(diff(&Desired::default(), &Desired::default()), []);
}

#[test]
fn a_difference_and_its_reverse_are_as_long_in_services() {
    let services = |changes: Vec<Change>| {
        changes
            .into_iter()
            .filter(|change| matches!(change, Change::ChangeService { .. }))
            .count()
    };
    assert_eq!(services(diff(&old(), &new())), services(diff(&new(), &old())));
}

#[test]
fn a_difference_survives_json() {
    let changes = diff(&old(), &new());
    let text = serde_json::to_string(&changes).unwrap();
    assert!(
        text.contains(r#"{"change":"change_backend","service":"tcp://10.0.0.100:80""#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Vec<Change>>(&text).unwrap(), changes);
}
