//! Commands as they are typed, against a daemon that has everything but a kernel.

#![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

use clap::{CommandFactory as _, Parser as _};
use serde_json::Value;

use super::{args::Cli, ask, client::Client, one_line, output::Output};
use crate::test_daemon::TestDaemon;

async fn lvx(daemon: &TestDaemon, line: &str) -> Result<String, String> {
    let words = ["lvx"].into_iter().chain(line.split_whitespace());
    let cli = Cli::try_parse_from(words).map_err(|error| format!("usage: {error}"))?;
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
        "10.0.0.11:80         2  nat      drained       2         1  asked to drain",
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
        "quorum 3 of 1",
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
async fn what_lvs_keeps_for_connections_is_asked_for_by_options() {
    let daemon = with_web().await;
    lvx(
        &daemon,
        "service add tcp://10.0.0.100:443 --scheduler sh --hash source-port --persistence 300s --netmask 255.255.255.0 \
         --mark 7 --on-loss drop --overload sorry --timeout established=1h --timeout fin=10s",
    )
    .await
    .unwrap();
    lvx(&daemon, "backend add tcp://10.0.0.100:443 10.0.0.11 -x 100 -y 80")
        .await
        .unwrap();
    lvx(&daemon, "backend add tcp://10.0.0.100:443 10.0.0.12 --sorry")
        .await
        .unwrap();
    let export = lvx(&daemon, "export").await.unwrap();
    for part in [
        "scheduler = \"sh\"\nhash = \"source-port\"\npersistence = \"5m\"\nnetmask = 24\nmark = 7\non_loss = \"drop\"\n",
        "overload = \"sorry\"\n",
        "[service.timeouts]\nestablished = \"1h\"\nfin = \"10s\"\n",
        "upper = 100\nlower = 80\n",
        "sorry = true\n",
    ] {
        assert!(export.contains(part), "no {part:?} in\n{export}");
    }
    let show = lvx(&daemon, "service show tcp://10.0.0.100:443").await.unwrap();
    for part in [
        "persistent 5m, netmask 24",
        "mark       7",
        "on loss    drop",
        "timeout    fin 10s",
        "UPPER",
    ] {
        assert!(show.contains(part), "no {part:?} in\n{show}");
    }
    for line in [
        "service set tcp://10.0.0.100:443 --scheduler wlc --persistence 0s --on-loss reschedule --overload next \
         --timeout established=default --timeout fin=default",
        "backend set tcp://10.0.0.100:443 10.0.0.11 -x 0 -y 0",
        "backend set tcp://10.0.0.100:443 10.0.0.12 --sorry=false",
        "service add udp://10.0.0.100:53 --one-packet",
        "service set udp://10.0.0.100:53 --one-packet=false",
    ] {
        lvx(&daemon, line).await.unwrap();
    }
    let export = lvx(&daemon, "export").await.unwrap();
    for part in [
        "hash",
        "persistence",
        "netmask",
        "mark",
        "on_loss",
        "overload",
        "timeouts",
        "upper",
        "sorry",
        "one_packet",
    ] {
        assert!(!export.contains(part), "{part:?} in\n{export}");
    }
}

#[tokio::test]
async fn a_backend_that_drains_shows_what_it_has_left_and_is_waited_for() {
    let daemon = with_web().await;
    let web = "tcp://10.0.0.100:80";
    assert_eq!(
        lvx(&daemon, &format!("backend drain {web} 10.0.0.11")).await.unwrap(),
        format!("draining backend 10.0.0.11 of {web}: 1 connection remains\n")
    );
    assert_eq!(
        json(&daemon, &format!("backend drain {web} 10.0.0.11")).await["remaining"],
        1
    );
    let message = lvx(&daemon, &format!("backend drain {web} 10.0.0.11 --wait --timeout 0s"))
        .await
        .unwrap_err();
    assert!(
        message.contains("still draining after 0s: 1 connection remains"),
        "{message}"
    );
    let message = lvx(&daemon, &format!("backend del {web} 10.0.0.11 --drain --timeout 10ms"))
        .await
        .unwrap_err();
    assert!(
        message.contains("was not removed: it is still draining after 10ms"),
        "{message}"
    );
    let list = json(&daemon, "backend list").await;
    assert_eq!(
        (&list[0]["address"], &list[0]["drain"]),
        (&"10.0.0.11".into(), &true.into())
    );
    let resumed = lvx(&daemon, &format!("backend drain {web} 10.0.0.11 --undo"))
        .await
        .unwrap();
    assert!(resumed.starts_with("resumed backend 10.0.0.11"), "{resumed}");

    lvx(&daemon, "conns flush --backend 10.0.0.11").await.unwrap();
    assert_eq!(
        lvx(&daemon, &format!("backend drain {web} 10.0.0.11 --wait"))
            .await
            .unwrap(),
        format!("drained backend 10.0.0.11 of {web}: no connections remain\n")
    );
    assert_eq!(
        lvx(&daemon, &format!("backend del {web} 10.0.0.11 --drain"))
            .await
            .unwrap(),
        format!("removed backend 10.0.0.11 of {web}\n")
    );
    assert_eq!(
        lvx(&daemon, &format!("backend del {web} 10.0.0.12:8080"))
            .await
            .unwrap(),
        format!("removed backend 10.0.0.12:8080 of {web}, which had 1 connection: --drain would have waited for it\n")
    );
    for line in ["--undo --wait", "--timeout 5s"] {
        let message = lvx(&daemon, &format!("backend drain {web} 10.0.0.12:8080 {line}"))
            .await
            .unwrap_err();
        assert!(message.starts_with("usage: "), "{line}: {message}");
    }
}

#[tokio::test]
async fn connections_are_counted_and_flushed_by_the_filters_that_show_them() {
    let daemon = with_web().await;
    let count = async |filter: &str| lvx(&daemon, &format!("conns --count {filter}")).await.unwrap();
    assert_eq!(count("").await, "2\n");
    assert_eq!(count("--client 192.0.2.0/24 --state established").await, "2\n");
    assert_eq!(count("--client 192.0.3.0/24").await, "0\n");
    assert_eq!(count("--state udp").await, "0\n");
    assert_eq!(count("--service tcp://10.0.0.100:80 --limit 1").await, "1\n");
    assert_eq!(json(&daemon, "conns --count").await["established"], 2);

    let refused = lvx(&daemon, "conns flush").await.unwrap_err();
    assert!(refused.contains("nothing says which connections"), "{refused}");
    let refused = lvx(&daemon, "conns flush --all --limit 1").await.unwrap_err();
    assert!(refused.contains("leave out one of the two"), "{refused}");
    assert_eq!(count("").await, "2\n");
    let flush = lvx(&daemon, "conns flush --client 192.0.2.1 --backend 10.0.0.12").await;
    assert_eq!(flush.unwrap(), "flushed 1 connection\n");
    assert_eq!(json(&daemon, "conns flush --all").await["flushed"], 1);
    assert_eq!(count("").await, "0\n");
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
    let mut output = Output::new(Vec::new(), super::args::Form::Table, false);
    let command = Cli::try_parse_from(["lvx", "status"]).unwrap().command;
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
