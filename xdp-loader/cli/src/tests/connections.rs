//! What is kept of connections, drained, counted and flushed, as it is typed.

use super::{json, lvx, with_web};

#[tokio::test]
async fn what_lvs_keeps_for_connections_is_asked_for_by_options() {
    let daemon = with_web().await;
    lvx(
        &daemon,
        "service add tcp://10.0.0.100:443 --scheduler sh --hash source-port --persistence 300s --netmask 255.255.255.0 \
         --mark 7 --on-loss drop --overload sorry --on-none drop --timeout established=1h --timeout fin=10s",
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
        "overload = \"sorry\"\non_none = \"drop\"\n",
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
        "on none    drop",
        "timeout    fin 10s",
        "UPPER",
    ] {
        assert!(show.contains(part), "no {part:?} in\n{show}");
    }
    for line in [
        "service set tcp://10.0.0.100:443 --scheduler wlc --persistence 0s --on-loss reschedule --overload next --on-none reject \
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
        "on_none",
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
    let drained = json(&daemon, &format!("backend drain {web} 10.0.0.11")).await;
    assert!(drained["unseen"].is_null(), "both directions are seen under nat");
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
async fn under_dr_a_drain_says_that_only_the_clients_packets_are_seen() {
    const UNSEEN: &str =
        "under dr only the clients' packets are seen: the backend may still send on connections that count as over";
    let daemon = with_web().await;
    let web = "tcp://10.0.0.100:80";
    // Under dr a backend has the service's port.
    lvx(&daemon, &format!("backend del {web} 10.0.0.12:8080"))
        .await
        .unwrap();
    lvx(&daemon, &format!("backend add {web} 10.0.0.12")).await.unwrap();
    lvx(&daemon, &format!("service set {web} --forward dr")).await.unwrap();
    assert_eq!(
        lvx(&daemon, &format!("backend drain {web} 10.0.0.11")).await.unwrap(),
        format!("draining backend 10.0.0.11 of {web}: 1 connection remains; {UNSEEN}\n")
    );
    let status = lvx(&daemon, "status").await.unwrap();
    assert!(status.contains(&format!("asked to drain; {UNSEEN}")), "{status}");
    let list = lvx(&daemon, "backend list").await.unwrap();
    assert!(
        list.ends_with(&format!("\nbackend 10.0.0.11 of {web} drains: {UNSEEN}\n")),
        "{list}"
    );
    let status = json(&daemon, "status").await;
    let backends = &status["services"][0]["backends"];
    assert_eq!(
        (&backends[0]["unseen"], backends[1]["unseen"].is_null()),
        (&UNSEEN.into(), true)
    );
    let drained = json(&daemon, &format!("backend drain {web} 10.0.0.11")).await;
    assert_eq!((&drained["remaining"], &drained["unseen"]), (&1.into(), &UNSEEN.into()));

    lvx(&daemon, "conns flush --backend 10.0.0.11").await.unwrap();
    assert_eq!(
        lvx(&daemon, &format!("backend del {web} 10.0.0.11 --drain"))
            .await
            .unwrap(),
        format!("removed backend 10.0.0.11 of {web}; {UNSEEN}\n")
    );
}
