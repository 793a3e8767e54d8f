//! Commands as they are typed, against a daemon that has everything but a kernel.

#![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

mod connections;
mod fields;

use clap::CommandFactory as _;
use hyper::Method;
use serde_json::Value;

use super::{
    args::{self, Cli},
    ask,
    client::Client,
    one_line,
    output::Output,
    usage,
};
use lvx_server::test_daemon::TestDaemon;

async fn lvx(daemon: &TestDaemon, line: &str) -> Result<String, String> {
    let words = ["lvx"].into_iter().chain(line.split_whitespace());
    lvx_words(daemon, words).await
}

async fn lvx_words(daemon: &TestDaemon, words: impl IntoIterator<Item = &str>) -> Result<String, String> {
    let words = words.into_iter().map(Into::into);
    let cli = args::parse(words).map_err(|error| format!("usage: {error}"))?;
    let mut out = Vec::new();
    let mut output = Output::new(&mut out, cli.output, false);
    let client = Client::new(Some(daemon.socket()));
    ask(cli.command, &client, &mut output)
        .await
        .map_err(|error| one_line(&error))?;
    Ok(String::from_utf8(out).unwrap())
}

async fn json(daemon: &TestDaemon, line: &str) -> Value {
    let text = lvx(daemon, &format!("{line} -o json")).await.unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn with_web() -> TestDaemon {
    let daemon = TestDaemon::start(9);
    for line in [
        "service add tcp://10.0.0.100:80 --forward nat --scheduler wrr",
        "backend add tcp://10.0.0.100:80 10.0.0.11 --weight 2",
        "backend add tcp://10.0.0.100:80 10.0.0.12:8080",
        "service add udp://[2001:db8::1]:53",
    ] {
        lvx(&daemon, line).await.unwrap();
    }
    daemon
}

#[test]
fn wrong_usage_is_one_line_that_names_the_fault_and_whose_help_says_more() {
    for (line, expected) in [
        (
            "service remove x",
            "unrecognized subcommand 'remove'; see `lvx service --help`",
        ),
        ("service add --quickly", "unexpected argument '--quickly' found"),
        (
            "backend add tcp://10.0.0.100:80",
            "<BACKEND>; see `lvx backend add --help`",
        ),
        (
            "service add tcp://10.0.0.100:80 --scheduler x",
            "invalid value 'x' for '--scheduler",
        ),
        ("service set tcp://10.0.0.100:80", "`lvx service set --help`"),
    ] {
        let words = ["lvx"].into_iter().chain(line.split_whitespace()).map(Into::into);
        let said = usage(&args::parse(words).unwrap_err().to_string());
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        assert!(
            !said.contains('\n') && said.ends_with("--help`") && !said.contains("error:"),
            "{said:?}"
        );
    }
}

#[tokio::test]
async fn a_document_with_a_byte_order_mark_is_read() {
    let daemon = TestDaemon::start(9);
    let file = daemon.path().join("services");
    for text in [
        "{\"service\": [{\"address\": \"tcp://10.0.0.100:80\"}]}",
        "[[service]]\naddress = \"tcp://10.0.0.101:80\"\n",
    ] {
        std::fs::write(&file, format!("\u{feff}{text}")).unwrap();
        lvx(&daemon, &format!("apply {}", file.display())).await.unwrap();
        let added = daemon.recording.last().services().keys().next().unwrap().to_string();
        assert!(text.contains(&added), "{added}");
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_with_the_limit() {
    let daemon = TestDaemon::start(9);
    let client = Client::new(Some(daemon.socket()));
    let body = vec![b' '; lvx_api::BODY_LIMIT + 1].into();
    let refused = client.request(Method::POST, "/v1/apply", body).await.unwrap_err();
    assert!(refused.to_string().contains("larger than the 16 MiB"), "{refused}");
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[tokio::test]
async fn lists_and_status_are_tables() {
    let daemon = with_web().await;
    assert_eq!(
        lvx(&daemon, "service list").await.unwrap(),
        "SERVICE                 FORWARD  SCHEDULER  BACKENDS\n\
         tcp://10.0.0.100:80     nat      wrr               2\n\
         udp://[2001:db8::1]:53  dr       mh                0\n"
    );
    assert_eq!(
        lvx(&daemon, "backend list tcp://10.0.0.100:80").await.unwrap(),
        "SERVICE              BACKEND         WEIGHT  FORWARD  DRAIN\n\
         tcp://10.0.0.100:80  10.0.0.11            2  nat      no\n\
         tcp://10.0.0.100:80  10.0.0.12:8080       1  nat      no\n"
    );
    lvx(&daemon, "backend drain tcp://10.0.0.100:80 10.0.0.11")
        .await
        .unwrap();
    let status = lvx(&daemon, "status").await.unwrap();
    for part in [
        "lvx 0.0.0, pid 7, up 1h 1m",
        "IPv4 3 of 100",
        "generic  up    the driver has no XDP",
        "10.0.0.11:80    0 of 2  nat      drained       2         1  asked to drain",
        "10.0.0.12:8080       1  nat      up            2         1\n",
    ] {
        assert!(status.contains(part), "no {part:?} in\n{status}");
    }
    let show = lvx(&daemon, "service show tcp://10.0.0.100:80").await.unwrap();
    assert!(
        show.contains("scheduler  wrr") && show.contains("10.0.0.11            2  nat      yes"),
        "{show}"
    );
    assert!(lvx(&daemon, "stats").await.unwrap().contains("(all)"));
    let conns = lvx(&daemon, "conns --backend 10.0.0.12 --limit 5").await.unwrap();
    assert_eq!(conns.lines().count(), 2, "{conns}");
}

#[tokio::test]
async fn health_is_asked_for_by_options_and_shown_as_a_table() {
    let daemon = with_web().await;
    lvx(
        &daemon,
        "service set tcp://10.0.0.100:80 --health http --health-path /well --health-interval 500ms --health-fall 5",
    )
    .await
    .unwrap();
    let show = lvx(&daemon, "service show tcp://10.0.0.100:80").await.unwrap();
    assert!(
        show.contains("health     http every 500ms, timeout 500ms, rise 2, fall 5"),
        "{show}"
    );
    let export = lvx(&daemon, "export").await.unwrap();
    assert!(export.contains("path = \"/well\""), "{export}");
    let table = lvx(&daemon, "health").await.unwrap();
    for part in [
        "10.0.0.11:80",
        "down",
        "12s",
        "tcp",
        "180us",
        "2.4ms",
        "3/40",
        "tcp: connection refused",
    ] {
        assert!(table.contains(part), "no {part:?} in\n{table}");
    }
    let details = lvx(&daemon, "health tcp://10.0.0.100:80").await.unwrap();
    for part in [
        "healthy weights 3, quorum 1",
        "tcp says down",
        "connection refused",
        "12s ago  up -> down",
    ] {
        assert!(details.contains(part), "no {part:?} in\n{details}");
    }
    assert_eq!(
        json(&daemon, "health").await["services"][0]["backends"][0]["state"],
        "down"
    );
    let unknown = lvx(&daemon, "health tcp://10.0.0.99:80").await.unwrap_err();
    assert!(unknown.contains("does not exist"), "{unknown}");
    let wrong = lvx(&daemon, "service set tcp://10.0.0.100:80 --health tcp --health-path /")
        .await
        .unwrap_err();
    assert!(wrong.contains("health check tcp: has no field `path`"), "{wrong}");
    lvx(&daemon, "service set tcp://10.0.0.100:80 --health none")
        .await
        .unwrap();
    assert!(!lvx(&daemon, "export").await.unwrap().contains("health"));
    lvx(&daemon, "backend set tcp://10.0.0.100:80 10.0.0.11 --disabled true")
        .await
        .unwrap();
    assert!(lvx(&daemon, "export").await.unwrap().contains("disabled = true"));
}

#[tokio::test]
async fn every_answer_can_be_json() {
    let daemon = with_web().await;
    assert_eq!(json(&daemon, "service list").await[0]["address"], "tcp://10.0.0.100:80");
    assert_eq!(
        json(&daemon, "backend list tcp://10.0.0.100:80").await[1]["address"],
        "10.0.0.12:8080"
    );
    assert_eq!(json(&daemon, "backend list").await[0]["weight"], 2);
    assert_eq!(
        json(&daemon, "status").await["services"][0]["backends"][0]["state"],
        "up"
    );
    assert_eq!(json(&daemon, "stats").await["services"][0]["packets_in"], 12);
    assert_eq!(
        json(&daemon, "stats --rate 1").await["per_second"]["services"][0]["packets_in"],
        0
    );
    assert_eq!(json(&daemon, "conns --limit 1").await["state"], "established");
    assert_eq!(json(&daemon, "export").await["service"][0]["scheduler"], "wrr");
    assert_eq!(
        json(&daemon, "service set udp://[2001:db8::1]:53 --forward nat").await["forward"],
        "nat"
    );
    assert_eq!(
        json(&daemon, "backend del tcp://10.0.0.100:80 10.0.0.11").await["address"],
        "10.0.0.11"
    );
}

#[tokio::test]
async fn what_the_daemon_refuses_is_told_in_its_words() {
    let daemon = with_web().await;
    let web = "tcp://10.0.0.100:80";
    let cases = [
        (format!("service add {web}"), "exists already: use `lvx service set`"),
        (
            "service del tcp://10.0.0.9:80".into(),
            "does not exist: `lvx service list`",
        ),
        ("service show tcp://10.0.0.9:80".into(), "does not exist"),
        (format!("service set {web} --forward dr"), "dr cannot rewrite ports"),
        (format!("service set {web} --mh-slots 1000"), "must be a prime"),
        ("service add tcp://255.255.255.255:80".into(), "the broadcast address"),
        (format!("backend add {web} 10.0.0.11"), "exists already in service"),
        (
            format!("backend add {web} 10.0.0.13 --weight 70000"),
            "weight 70000 of backend 10.0.0.13 is out of range",
        ),
        (
            format!("backend add {web} 10.0.0.13 --weight -1"),
            "weight -1 of backend 10.0.0.13 is out of range",
        ),
        (format!("backend set {web} 10.0.0.11 --weight 65536"), "0 to 65535"),
        (format!("backend add {web} 2001:db8::9"), "one address family"),
        (format!("backend add {web} 127.0.0.1"), "a loopback address"),
        (format!("backend add {web} 10.0.0.100:8080"), "is the VIP"),
        (format!("backend del {web} 10.0.0.13"), "does not exist in service"),
        (
            format!("service set {web} --hash source"),
            "scheduler wrr does not hash the client",
        ),
        (
            format!("service set {web} --netmask 24"),
            "means nothing without persistence",
        ),
        (
            format!("service set {web} --persistence 300s --netmask 64"),
            "must be 1 to 32 for IPv4",
        ),
        (
            format!("service set {web} --one-packet"),
            "one-packet scheduling is for UDP",
        ),
        (
            format!("backend set {web} 10.0.0.11 -x 10 -y 10"),
            "lower 10 must be less than upper 10",
        ),
        (format!("backend set {web} 10.0.0.11 -y 10"), "give --upper too"),
        (format!("backend drain {web} 10.0.0.13"), "does not exist in service"),
        ("backend list tcp://10.0.0.9:80".into(), "does not exist"),
    ];
    let before = daemon.recording.last();
    for (line, part) in cases {
        let message = lvx(&daemon, &line).await.unwrap_err();
        assert!(message.contains(part), "lvx {line}: {message:?} does not say {part:?}");
    }
    assert_eq!(daemon.recording.last(), before);
}

#[tokio::test]
async fn what_cannot_be_typed_is_a_usage_error() {
    let daemon = with_web().await;
    for line in [
        "service add 10.0.0.100:80",
        "service add tcp://10.0.0.100:0",
        "service add tcp://10.0.0.100:80 --scheduler lblc",
        "service add tcp://10.0.0.100:80 --forward tunnel",
        "service add tcp://10.0.0.100:80 --hash port",
        "service add tcp://10.0.0.100:80 --persistence soon",
        "service add tcp://10.0.0.100:80 --netmask 255.0.255.0",
        "service add tcp://10.0.0.100:80 --timeout 15m",
        "service add tcp://10.0.0.100:80 --timeout icmp=15m",
        "service add tcp://10.0.0.100:80 --on-loss reset",
        "service add tcp://10.0.0.100:80 --overload queue",
        "backend add tcp://10.0.0.100:80 10.0.0.14 -x -1",
        "service set tcp://10.0.0.100:80",
        "backend add tcp://10.0.0.100:80 web1",
        "backend set tcp://10.0.0.100:80 10.0.0.11",
        "status -o yaml",
        "frobnicate",
    ] {
        let message = lvx(&daemon, line).await.unwrap_err();
        assert!(message.starts_with("usage: "), "lvx {line}: {message}");
    }
    let message = lvx(&daemon, "service add tcp://10.0.0.1:80 --scheduler lblc")
        .await
        .unwrap_err();
    assert!(message.contains("mh, rr, wrr"), "{message}");
}

#[tokio::test]
async fn apply_shows_the_difference_and_makes_it_only_without_dry_run() {
    let daemon = with_web().await;
    let file = daemon.path().join("services.toml");
    std::fs::write(
        &file,
        "[[service]]\naddress = \"tcp://10.0.0.100:80\"\nforward = \"nat\"\nscheduler = \"rr\"\n\
         [[service.backend]]\naddress = \"10.0.0.11\"\nweight = 5\n",
    )
    .unwrap();
    let expected = "~ service tcp://10.0.0.100:80 scheduler: wrr -> rr\n\
                    ~ backend 10.0.0.11 of tcp://10.0.0.100:80 weight: 2 -> 5\n\
                    - backend 10.0.0.12:8080 of tcp://10.0.0.100:80\n\
                    - service udp://[2001:db8::1]:53\n";
    let before = daemon.recording.last();
    let apply = format!("apply {}", file.display());
    let dry = lvx(&daemon, &format!("{apply} --dry-run")).await.unwrap();
    assert_eq!(dry, format!("{expected}4 changes to make; nothing was changed\n"));
    assert_eq!(daemon.recording.last(), before);
    assert_eq!(
        json(&daemon, &format!("{apply} --dry-run")).await["changes"][3]["change"],
        "remove_service"
    );
    assert_eq!(
        lvx(&daemon, &apply).await.unwrap(),
        format!("{expected}4 changes made\n")
    );
    assert_eq!(lvx(&daemon, &apply).await.unwrap(), "no difference\n");
}

#[tokio::test]
async fn an_export_applied_is_no_difference() {
    let daemon = with_web().await;
    for (form, name) in [("table", "services.toml"), ("json", "services.json")] {
        let text = lvx(&daemon, &format!("export -o {form}")).await.unwrap();
        let file = daemon.path().join(name);
        std::fs::write(&file, text).unwrap();
        assert_eq!(
            lvx(&daemon, &format!("apply {}", file.display())).await.unwrap(),
            "no difference\n"
        );
    }
}

#[tokio::test]
async fn a_wrong_file_is_named_with_its_line_and_changes_nothing() {
    let daemon = with_web().await;
    let before = daemon.recording.last();
    let file = daemon.path().join("services.toml");
    let service = "[[service]]\naddress = \"tcp://10.0.0.100:80\"\n";
    let cases = [
        (
            format!("{service}forwrad = \"dr\"\n"),
            "services.toml:3: unknown field `forwrad`",
        ),
        (
            format!("{service}[[service.backend]]\naddress = \"10.0.0.300\"\n"),
            "services.toml:4: `10.0.0.300` is not",
        ),
        (
            format!("{service}[[service.backend]]\naddress = \"224.0.0.1\"\n"),
            "services.toml: backend 224.0.0.1",
        ),
        (
            format!("{service}{service}"),
            "services.toml: service tcp://10.0.0.100:80 is there twice",
        ),
        (String::new(), "services.toml: no service in it"),
    ];
    for (text, part) in cases {
        std::fs::write(&file, text).unwrap();
        let message = lvx(&daemon, &format!("apply {}", file.display())).await.unwrap_err();
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    let message = lvx(&daemon, "apply /nonexistent/services.toml").await.unwrap_err();
    assert!(
        message.starts_with("cannot read /nonexistent/services.toml"),
        "{message}"
    );
    assert_eq!(daemon.recording.last(), before);
}

#[tokio::test]
async fn without_a_daemon_the_way_to_start_it_is_told() {
    let daemon = TestDaemon::start(0);
    let socket = daemon.path().join("nobody.sock");
    let mut output = Output::new(Vec::new(), args::Form::Table, false);
    let command = args::parse(["lvx", "status"].map(Into::into)).unwrap().command;
    let message = ask(command, &Client::new(Some(socket.clone())), &mut output)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        format!(
            "no daemon answers at {} (No such file or directory): start it with `lvx run --interface IF`",
            socket.display()
        )
    );
}
