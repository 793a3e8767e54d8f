//! Every field of a service and of a backend is a flag that changes it.
//!
//! The fields are asked of the model itself: a reader that is given a field that does not exist answers with all those that do.

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use lvx_model::{Backend, Service};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{json, lvx, lvx_words};
use crate::args::Cli;
use lvx_server::test_daemon::TestDaemon;

/// The path to a field: its name, after those of the tables that it is in.
type Path = Vec<String>;

/// Every field that is no table, at any depth; a list of tables counts as a table.
fn fields<T: DeserializeOwned>() -> Vec<Path> {
    let mut found = Vec::new();
    walk::<T>(&[], &mut found);
    assert!(!found.is_empty());
    found
}

fn walk<T: DeserializeOwned>(table: &[String], found: &mut Vec<Path>) {
    for name in names::<T>(table).unwrap() {
        let path = [table, &[name]].concat();
        if names::<T>(&path).is_some() {
            walk::<T>(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The names of a table's fields; none if what is there is no table.
fn names<T: DeserializeOwned>(table: &[String]) -> Option<Vec<String>> {
    let within = |last: Value| table.iter().rev().fold(last, |inner, name| json!({ name: inner }));
    [within(json!({"?": 0})), within(json!([{"?": 0}]))]
        .into_iter()
        .find_map(|asked| {
            let refusal = serde_json::from_value::<T>(asked).err()?.to_string();
            let (_, known) = refusal.split_once("unknown field `?`, expected ")?;
            Some(known.split('`').skip(1).step_by(2).map(str::to_owned).collect())
        })
}

fn flag(path: &[String]) -> String {
    path.join("-").replace('_', "-")
}

/// The flags of a command, by all their long names.
fn flags(command: &[&str]) -> BTreeSet<String> {
    let mut cli = Cli::command();
    let command = command
        .iter()
        .fold(&mut cli, |of, name| of.find_subcommand_mut(name).unwrap());
    let flags = command
        .get_arguments()
        .filter_map(clap::Arg::get_long_and_visible_aliases);
    flags.flatten().map(str::to_owned).collect()
}

fn service_fields() -> Vec<Path> {
    // The address is what names a service; backends have commands of their own.
    let mut own = fields::<Service>();
    own.retain(|path| path != &["address"] && path[0] != "backend");
    own
}

fn backend_fields() -> Vec<Path> {
    // Address and port are what names a backend.
    let mut own = fields::<Backend>();
    own.retain(|path| path != &["address"] && path != &["port"]);
    own
}

#[test]
fn every_field_of_the_model_has_its_flag() {
    let of_service = service_fields();
    for part in [
        "forward",
        "mh_slots",
        "timeouts-syn",
        "availability-quorum",
        "health-type",
        "health-load_floor",
    ] {
        assert!(
            of_service.iter().any(|path| path.join("-") == part),
            "the walk misses {part}"
        );
    }
    assert_eq!(names::<Service>(&["backend".into()]), names::<Backend>(&[]));
    for (fields, command) in [(of_service, "service"), (backend_fields(), "backend")] {
        for verb in ["add", "set"] {
            let flags = flags(&[command, verb]);
            for path in &fields {
                let flag = flag(path);
                assert!(flags.contains(&flag), "lvx {command} {verb} has no --{flag}");
                // The name alone is enough where nothing else is called so.
                if path[0] == "availability" {
                    let flag = path[1].replace('_', "-");
                    assert!(flags.contains(&flag), "lvx {command} {verb} has no --{flag}");
                }
            }
        }
    }
    assert!(flags(&["backend", "add"]).contains("port"));
}

/// What a field is set to; not its default.
fn value(path: &[String]) -> &'static str {
    match path.join(".").as_str() {
        "forward" => "nat",
        "scheduler" => "wlc",
        "mh_slots" => "251",
        "hash" => "source",
        "persistence" => "1h",
        "netmask" => "24",
        "mark" => "7",
        "on_loss" | "overload" | "on_none" => "drop",
        "one_packet"
        | "drain"
        | "disabled"
        | "sorry"
        | "availability.fail_open"
        | "health.tls"
        | "health.nagios"
        | "health.weight_from_status" => "true",
        "weight" => "5",
        "upper" => "1000",
        "lower" => "500",
        "availability.combine" => "any",
        "availability.hold_out_max" => "10m",
        "availability.slow_start" | "availability.hold_out" => "20s",
        "availability.quorum" | "health.rise" | "health.fall" => "5",
        "availability.quorum_hysteresis" => "1",
        "health.type" => "tcp",
        "health.interval" | "health.delay_before_retry" => "7s",
        "health.timeout" => "500ms",
        "health.jitter" | "health.load_limit" | "health.load_floor" => "20",
        "health.port" => "8080",
        "health.source" => "10.0.0.9",
        "health.to" => "address",
        "health.send_hex" | "health.expect_hex" => "0aff",
        "health.send" | "health.expect" | "health.expect_regex" | "health.body" | "health.body_regex" => "two words",
        "health.method" => "HEAD",
        "health.path" => "/well",
        "health.status" => "200-299,304",
        "health.drain_status" => "503",
        "health.host" | "health.sni" | "health.name" => "a.example",
        "health.verify" | "health.share" => "false",
        "health.ca" => "/etc/ssl/own.pem",
        "health.record" => "AAAA",
        "health.rcode" => "nxdomain",
        "health.answer" => "192.0.2.1",
        "health.grpc_service" => "web",
        "health.command" => "/bin/check -H 'two words'",
        "health.close" => "rst",
        "health.load_field" => "/system/load",
        "health.load_full" => "0.5",
        timeouts if timeouts.starts_with("timeouts.") => "90s",
        other => panic!("say what this test sets {other} to"),
    }
}

/// What must be so for a field to be of meaning.
fn condition(path: &[String]) -> &'static str {
    match path.join(".").as_str() {
        "netmask" | "mark" => "--persistence 5m",
        "availability.quorum_hysteresis" => "--quorum 3",
        "lower" => "--upper 2000",
        _ => "",
    }
}

/// Probes of every type, one of which has a field.
const PROBES: [&str; 9] = [
    "icmp",
    "tcp",
    "udp --health-send x",
    "agent --health-port 9777",
    "http --health-load-field /load",
    "https",
    "dns --health-name example.org",
    "grpc",
    "exec --health-command /bin/true",
];

/// What a field is; null if it is not there.
fn at(tree: &Value, path: &[String]) -> Value {
    let found = path.iter().try_fold(tree, |tree, name| match tree {
        Value::Array(list) => list.first()?.get(name),
        tree => tree.get(name),
    });
    found.cloned().unwrap_or_default()
}

/// The same without a field, and without a table that has nothing else.
fn without(tree: &Value, path: &[String]) -> Value {
    let mut rest = tree.clone();
    let [name, inner @ ..] = path else { return rest };
    let table = match &mut rest {
        Value::Array(list) => &mut list[0],
        other => other,
    };
    if let Some(table) = table.as_object_mut() {
        let left = table
            .get(name)
            .filter(|_| !inner.is_empty())
            .map(|of| without(of, inner));
        match left.filter(|left| left.as_object().is_none_or(|left| !left.is_empty())) {
            Some(left) => table.insert(name.clone(), left),
            None => table.remove(name),
        };
    }
    rest
}

fn typed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(words) => shlex::try_join(words.iter().map(|word| word.as_str().unwrap())).unwrap(),
        other => other.to_string(),
    }
}

/// A service or backend as it is set up for one field.
struct Subject<'a> {
    daemon: &'a TestDaemon,
    /// `service set tcp://10.0.0.100:80`.
    set: String,
    is_backend: bool,
}

impl Subject<'_> {
    async fn tree(&self) -> Value {
        let service = self.set.split(' ').nth(2).unwrap();
        let mut tree = json(self.daemon, &format!("service show {service}")).await;
        if self.is_backend {
            return tree["backend"][0].take();
        }
        tree
    }

    async fn set(&self, flag: &str, value: &str) -> Result<String, String> {
        let words = ["lvx"].into_iter().chain(self.set.split(' ')).chain([flag, value]);
        lvx_words(self.daemon, words).await
    }

    /// Sets a field, if what it is set up for has it: whether it has.
    async fn try_field(&self, path: &[String], plain: &Value) -> bool {
        let (flag, value) = (format!("--{}", flag(path)), value(path));
        let before = self.tree().await;
        match self.set(&flag, value).await {
            Err(refusal) if refusal.contains("has no field") || refusal.contains("without TLS") => return false,
            outcome => outcome.unwrap_or_else(|refusal| panic!("{flag} {value}: {refusal}")),
        };
        let after = self.tree().await;
        assert_ne!(at(&before, path), at(&after, path), "{flag} {value} changed nothing");
        assert_eq!(typed(&at(&after, path)), value, "{flag}");
        assert_eq!(
            without(&before, path),
            without(&after, path),
            "{flag} changed other fields"
        );
        match self.set(&flag, "default").await {
            // What a type cannot do without has no default.
            Err(refusal) => assert!(refusal.contains(" needs "), "{flag} default: {refusal}"),
            Ok(_) => assert_eq!(at(&self.tree().await, path), at(plain, path), "{flag} default"),
        }
        true
    }
}

async fn check(daemon: &TestDaemon, path: &[String], is_backend: bool) {
    let service = if path == ["one_packet"] {
        "udp://10.0.0.100:53"
    } else {
        "tcp://10.0.0.100:80"
    };
    lvx(daemon, &format!("service add {service}")).await.unwrap();
    lvx(daemon, &format!("backend add {service} 10.0.0.11")).await.unwrap();
    let set = if is_backend {
        format!("backend set {service} 10.0.0.11")
    } else {
        format!("service set {service}")
    };
    let subject = Subject {
        daemon,
        set,
        is_backend,
    };
    let plain = subject.tree().await;
    let conditions = if path[0] == "health" {
        PROBES.map(|probe| format!("--health {probe}")).to_vec()
    } else {
        vec![condition(path).to_owned()]
    };
    for condition in conditions {
        if !condition.is_empty() {
            lvx(daemon, &format!("{} {condition}", subject.set)).await.unwrap();
        }
        if subject.try_field(path, &plain).await {
            lvx(daemon, &format!("service del {service}")).await.unwrap();
            return;
        }
    }
    panic!("no probe has --{}", flag(path));
}

#[tokio::test]
async fn every_flag_of_a_service_changes_its_field_and_no_other_and_default_undoes_it() {
    let daemon = TestDaemon::start(2);
    for path in service_fields() {
        check(&daemon, &path, false).await;
    }
}

#[tokio::test]
async fn every_flag_of_a_backend_changes_its_field_and_no_other_and_default_undoes_it() {
    let daemon = TestDaemon::start(2);
    for path in backend_fields() {
        check(&daemon, &path, true).await;
    }
}

#[tokio::test]
async fn truth_is_typed_in_any_form() {
    let daemon = TestDaemon::start(2);
    let service = "tcp://10.0.0.100:80";
    lvx(&daemon, &format!("service add --fail-open {service}"))
        .await
        .unwrap();
    lvx(&daemon, &format!("backend add --sorry true {service} 10.0.0.11"))
        .await
        .unwrap();
    let sorry = async || {
        let backends = json(&daemon, "backend list").await;
        backends[0].get("sorry").is_some()
    };
    assert!(sorry().await);
    let set = format!("backend set {service} 10.0.0.11");
    for (typed, expected) in [
        ("--sorry=false", false),
        ("--sorry", true),
        ("--sorry false", false),
        ("--sorry=true", true),
        ("--sorry default", false),
    ] {
        lvx(&daemon, &format!("{set} {typed}")).await.unwrap();
        assert_eq!(sorry().await, expected, "{typed}");
    }
    let message = lvx(&daemon, &format!("{set} --sorry=maybe")).await.unwrap_err();
    assert!(message.starts_with("usage: "), "{message}");
}

#[tokio::test]
async fn a_service_and_a_backend_are_added_with_all_that_can_be_set() {
    let daemon = TestDaemon::start(2);
    let service = "tcp://10.0.0.100:80";
    lvx(
        &daemon,
        &format!(
            "service add {service} --forward nat --timeouts-fin 1m30s --quorum 2 --availability-slow-start 1h30m \
             --health http --health-status 200 --health-jitter 0"
        ),
    )
    .await
    .unwrap();
    lvx(
        &daemon,
        &format!("backend add {service} 10.0.0.11 --port 8080 --drain --health none"),
    )
    .await
    .unwrap();
    let shown = json(&daemon, &format!("service show {service}")).await;
    let expected = json!({
        "address": service,
        "forward": "nat",
        "scheduler": "mh",
        "timeouts": {"fin": "90s"},
        "availability": {"quorum": 2, "slow_start": "90m"},
        "health": [{"type": "http", "status": "200", "jitter": 0}],
        "backend": [{"address": "10.0.0.11:8080", "weight": 1, "drain": true, "health": []}],
    });
    assert_eq!(shown, expected);
    let two_ports = lvx(&daemon, &format!("backend add {service} 10.0.0.12:80 --port 8080")).await;
    assert!(two_ports.unwrap_err().contains("has a second port 8080"));
    for line in [
        "service add tcp://10.0.0.100:81 --health-path /".to_owned(),
        format!("backend add {service} 10.0.0.13 --health-path /"),
        format!("backend set {service} 10.0.0.11:8080"),
        format!("backend set {service} 10.0.0.11:8080 --health none --health-path /"),
        format!("service set {service} --health default --health-path /"),
    ] {
        let message = lvx(&daemon, &line).await.unwrap_err();
        assert!(message.starts_with("usage: "), "lvx {line}: {message}");
        let hint = ["such as --health http", "such as --forward nat", "leave out the other"];
        assert!(hint.iter().any(|hint| message.contains(hint)), "{message}");
    }
}
