//! What the kernel fails to transmit after the program has forwarded it is counted, and told with the reason.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use lvx_tests::{
    Balancer, Lab, Options,
    datagram::{Client, Echo},
    process::wait_until,
    topology::VIP_NAT,
};
use serde_json::Value;

/// Longer than anything here takes, on a loaded machine too.
const LIMIT: Duration = Duration::from_secs(60);
/// An answer that has not come by then will not come.
const PATIENCE: Duration = Duration::from_millis(200);
/// A datagram that fills the packets of the clients' network all but 20 bytes.
const LONG: [u8; 1452] = [7; 1452];
/// How many are sent.
const SENT: u64 = 10;

/// The service, with its first backend under NAT.
fn serve(lab: &Lab, lvx: &Balancer<'_>) -> Result<(SocketAddr, Echo)> {
    let service = SocketAddr::new(VIP_NAT.0.into(), 5300);
    let backend = &lab.backends[0];
    let echo = Echo::start(backend, SocketAddr::new(backend.v4.into(), 5300))?;
    lvx.serve(
        &format!("udp://{service}"),
        "nat",
        "rr",
        [backend.v4.to_string().as_str()],
    )?;
    Ok((service, echo))
}

/// Sends datagrams of this many bytes: how many are answered.
fn ask(lab: &Lab, service: SocketAddr, size: usize) -> Result<u64> {
    let client = Client::of(&lab.client, service)?;
    let mut answered = 0;
    for _ in 0..SENT {
        answered += u64::from(client.ask(&LONG[..size], PATIENCE)?.is_some());
    }
    Ok(answered)
}

/// Packets that were counted as lost, whatever the reason and interface.
fn lost(lvx: &Balancer<'_>) -> Result<Vec<(String, String, u64)>> {
    let stats = lvx.json(["stats"])?;
    let mut lost = Vec::new();
    for interface in stats["interfaces"].as_array().context("no interfaces")? {
        for count in interface["verdicts"].as_array().context("no verdicts")? {
            let verdict = count["verdict"].as_str().context("no verdict")?;
            let packets = count["packets"].as_u64().context("no count")?;
            if verdict.starts_with("lost_") && packets > 0 {
                let name = interface["name"].as_str().context("no name")?;
                lost.push((name.to_owned(), verdict.to_owned(), packets));
            }
        }
    }
    Ok(lost)
}

/// Waits until status tells of losses, and returns them.
fn told(lvx: &Balancer<'_>) -> Result<Value> {
    let mut losses = Value::Null;
    wait_until("the loss is told", LIMIT, || {
        losses = lvx.json(["status"])?["losses"].clone();
        Ok(losses[0]["packets"] == SENT)
    })?;
    Ok(losses)
}

fn in_mode(mode: &str) -> Options {
    Options {
        mode: Some(mode.to_owned()),
        ..Options::default()
    }
}

fn too_long_for_the_way_out(mode: &str) -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start_with(&lab, in_mode(mode))?;
    let (service, _echo) = serve(&lab, &lvx)?;
    assert_eq!(ask(&lab, service, LONG.len())?, SENT);
    assert_eq!(lost(&lvx)?, []);
    assert_eq!(lvx.json(["status"])?["losses_uncounted"], Value::Null);

    lab.balancer.ip("link set eth1 mtu 1400\n")?;
    assert_eq!(ask(&lab, service, LONG.len())?, 0);
    assert_eq!(lost(&lvx)?, [("eth1".to_owned(), "lost_too_long".to_owned(), SENT)]);
    let losses = told(&lvx)?;
    assert_eq!(losses[0]["interface"], "eth1", "{losses}");
    assert_eq!(losses[0]["verdict"], "lost_too_long", "{losses}");
    let words = "longer than the MTU of eth1, which is 1400";
    assert!(losses[0]["reason"].to_string().contains(words), "{losses}");
    let status = lvx.lvx(["status"])?;
    assert!(status.contains("eth1: 10 packets lost within 5 minutes"), "{status}");
    assert!(status.contains(words), "{status}");
    wait_until("it is logged", LIMIT, || Ok(lvx.log().contains(words)))?;
    assert_eq!(ask(&lab, service, 1000)?, SENT, "shorter ones go on");
    assert_eq!(lost(&lvx)?.len(), 1);
    Ok(())
}

#[test]
fn packets_that_are_too_long_for_the_way_out_are_counted_and_told_native() -> Result<()> {
    too_long_for_the_way_out("native")
}

#[test]
fn packets_that_are_too_long_for_the_way_out_are_counted_and_told_generic() -> Result<()> {
    too_long_for_the_way_out("generic")
}

/// Has the other end of the balancer's `eth1` take no packet of 1,480 bytes: its driver, to which they are handed, drops them.
fn narrow_the_other_end(lab: &Lab) -> Result<()> {
    lab.switch().ip("link set lb.eth1 mtu 1400\n")
}

#[test]
fn packets_that_a_driver_does_not_take_are_counted_and_told() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start_with(&lab, in_mode("native"))?;
    let (service, _echo) = serve(&lab, &lvx)?;
    assert_eq!(ask(&lab, service, LONG.len())?, SENT);
    narrow_the_other_end(&lab)?;
    assert_eq!(ask(&lab, service, LONG.len())?, 0);
    assert_eq!(lost(&lvx)?, [("eth1".to_owned(), "lost_ring_full".to_owned(), SENT)]);
    let losses = told(&lvx)?;
    assert!(losses[0]["reason"].to_string().contains("eth1 took fewer"), "{losses}");
    Ok(())
}

#[test]
fn losses_of_another_balancer_in_another_namespace_are_not_counted_here() -> Result<()> {
    let (here, there) = (Lab::two_armed()?, Lab::two_armed()?);
    let lvx = Balancer::start_with(&here, in_mode("native"))?;
    let other = Balancer::start_with(&there, in_mode("native"))?;
    let index = |lvx: &Balancer<'_>| Ok::<_, anyhow::Error>(lvx.json(["status"])?["interfaces"][1]["ifindex"].clone());
    assert_eq!(index(&lvx)?, index(&other)?, "the namespace alone tells them apart");
    let (service, _echo) = serve(&here, &lvx)?;
    let (_, _other_echo) = serve(&there, &other)?;
    // By a driver, and by the kernel before it.
    narrow_the_other_end(&there)?;
    assert_eq!(ask(&there, service, LONG.len())?, 0);
    there.balancer.ip("link set eth1 mtu 1400\n")?;
    assert_eq!(ask(&there, service, LONG.len())?, 0);
    let counted = [("lost_too_long", SENT), ("lost_ring_full", SENT)];
    let counted = counted.map(|(verdict, packets)| ("eth1".to_owned(), verdict.to_owned(), packets));
    assert_eq!(lost(&other)?, counted);
    assert_eq!(ask(&here, service, LONG.len())?, SENT);
    assert_eq!(lost(&lvx)?, []);
    Ok(())
}

#[test]
fn losses_are_counted_on_over_an_upgrade_and_watched_by_nobody_after_the_end() -> Result<()> {
    let lab = Lab::two_armed()?;
    let mut lvx = Balancer::start_with(&lab, in_mode("native"))?;
    let (service, _echo) = serve(&lab, &lvx)?;
    lab.balancer.ip("link set eth1 mtu 1400\n")?;
    assert_eq!(ask(&lab, service, LONG.len())?, 0);
    let counted = |packets| [("eth1".to_owned(), "lost_too_long".to_owned(), packets)];
    assert_eq!(lost(&lvx)?, counted(SENT));
    lvx.kill()?;
    assert_eq!(ask(&lab, service, LONG.len())?, 0, "nobody counts while no daemon runs");
    lvx.run()?;
    assert_eq!(lost(&lvx)?, counted(SENT));
    assert_eq!(ask(&lab, service, LONG.len())?, 0);
    assert_eq!(lost(&lvx)?, counted(2 * SENT));
    Ok(())
}
