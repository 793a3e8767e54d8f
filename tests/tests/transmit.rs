//! What the kernel fails to transmit after the program has forwarded it is counted, and told with the reason.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

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
/// An upload of 200 kB that takes longer does not pass.
const UPLOAD: Duration = Duration::from_secs(5);
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

/// Has the hosts on both sides of the balancer leave checksums and segmentation to others, as virtual interfaces do unless they are
/// told not to.
fn leave_work_to_others(lab: &Lab) -> Result<()> {
    let client = (&lab.client, "eth0");
    for (host, interface) in [client, (lab.switch(), "lb.eth0"), (lab.switch(), "lb.eth1")] {
        host.offload(interface, &["tx", "on", "tso", "on", "gso", "on"])?;
        host.ip(&format!("link set {interface} gro_max_size 65536\n"))?;
    }
    Ok(())
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

/// What `lvx status` notes of the balancer's first interface.
fn note(lvx: &Balancer<'_>) -> Result<String> {
    Ok(lvx.json(["status"])?["interfaces"][0]["note"].to_string())
}

/// A server that answers uploads with one byte once it has all of them. Dropping it ends it.
struct Uploads {
    service: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Uploads {
    /// Starts one on the first backend, behind a service under NAT.
    fn start(lab: &Lab, lvx: &Balancer<'_>) -> Result<Self> {
        let (backend, service) = (&lab.backends[0], SocketAddr::new(VIP_NAT.0.into(), 9000));
        let listener = backend.namespace.inside(|| TcpListener::bind((backend.v4, 9000)))??;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    // What is not whole is not answered.
                    Ok((stream, _)) => drop(answer(stream)),
                    Err(_) => thread::sleep(Duration::from_millis(20)),
                }
            }
        });
        lvx.serve(
            &format!("tcp://{service}"),
            "nat",
            "rr",
            [backend.v4.to_string().as_str()],
        )?;
        Ok(Self {
            service,
            stop,
            thread: Some(thread),
        })
    }

    /// Whether 200 kB are answered.
    fn pass(&self, lab: &Lab) -> Result<bool> {
        let upload = || -> io::Result<()> {
            let mut stream = TcpStream::connect_timeout(&self.service, UPLOAD)?;
            stream.set_read_timeout(Some(UPLOAD))?;
            stream.set_write_timeout(Some(UPLOAD))?;
            stream.write_all(&[7; 200_000])?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_exact(&mut [0])
        };
        Ok(lab.client.inside(upload)?.is_ok())
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(UPLOAD))?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    stream.write_all(&[1])
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn offloads_are_noted_and_all_passes_once_they_are_off(mode: &str) -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start_with(&lab, in_mode(mode))?;
    let uploads = Uploads::start(&lab, &lvx)?;
    assert!(uploads.pass(&lab)?);
    assert_eq!(note(&lvx)?, "null", "with full checksums there is nothing to say");

    leave_work_to_others(&lab)?;
    assert!(!uploads.pass(&lab)?, "it has to be said");
    let words = "lb.eth0, its other end, has checksum offload on";
    wait_until("the note is there", LIMIT, || Ok(note(&lvx)?.contains(words)))?;
    let said = note(&lvx)?;
    assert!(said.contains("ethtool -K lb.eth0 tx off"), "{said}");
    assert!(lvx.log().contains(words), "{}", lvx.log());

    for other_end in ["lb.eth0", "lb.eth1"] {
        lab.switch().offload(other_end, &["tx", "off"])?;
    }
    wait_until("the note is gone", LIMIT, || Ok(note(&lvx)? == "null"))?;
    assert!(uploads.pass(&lab)?, "the way out is the right one");
    Ok(())
}

#[test]
fn an_other_end_that_leaves_its_work_to_others_is_noted_native() -> Result<()> {
    offloads_are_noted_and_all_passes_once_they_are_off("native")
}

#[test]
fn an_other_end_that_leaves_its_work_to_others_is_noted_generic() -> Result<()> {
    offloads_are_noted_and_all_passes_once_they_are_off("generic")
}

#[test]
fn gro_of_an_interface_in_generic_mode_is_noted_while_it_merges() -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = Balancer::start_with(&lab, in_mode("generic"))?;
    lab.balancer.offload("eth0", &["gro", "on"])?;
    let is_noted = || Ok(note(&lvx)?.contains("ethtool -K eth0 gro off"));
    lab.balancer.ip("link set eth0 gro_max_size 65536\n")?;
    wait_until("the note is there", LIMIT, is_noted)?;
    lab.balancer.ip("link set eth0 gro_max_size 1500\n")?;
    wait_until("nothing is merged", LIMIT, || Ok(!is_noted()?))?;
    lab.balancer.ip("link set eth0 gro_max_size 65536\n")?;
    wait_until("the note is there again", LIMIT, is_noted)?;
    lab.balancer.offload("eth0", &["gro", "off"])?;
    wait_until("GRO is off", LIMIT, || Ok(!is_noted()?))
}
