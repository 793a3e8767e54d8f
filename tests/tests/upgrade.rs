//! A new build takes over from the old one under load: no packet is lost, no flow is moved, and counters go on, whatever
//! changed in the layouts. One that cannot leaves everything as it was.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lvx_tests::{
    Balancer, Lab, Namespace, Options, balancer,
    client::{self, Download, Stream},
    load::{self, Held, Outcome},
    topology::{VIP_DR, VIP_NAT},
};
use serde_json::Value;

/// Connections that are held open to each VIP.
const HELD: usize = 20;
/// How long a client waits between two new connections: with four clients, some 200 begin every second.
const PAUSE: Duration = Duration::from_millis(18);
/// How long the UDP streams last, seconds: longer than all that a test does meanwhile.
const STREAM: u32 = 25;
/// Longer than 1 MiB takes at nginx's slow rate on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// The VIPs: what each is called in a URL, and how its services forward.
fn vips() -> [(SocketAddr, &'static str); 4] {
    [
        ((VIP_DR.0, 80).into(), "dr"),
        ((VIP_DR.1, 80).into(), "dr"),
        ((VIP_NAT.0, 80).into(), "nat"),
        ((VIP_NAT.1, 80).into(), "nat"),
    ]
}

/// Serves all VIPs: HTTP by all backends in turn, so that a flow that is forgotten meets another one; iperf3 by the first.
fn serve(lab: &Lab, lvx: &Balancer<'_>) -> Result<()> {
    for (vip, forward) in vips() {
        let address = |backend: &lvx_tests::topology::Backend| match vip {
            SocketAddr::V4(_) => backend.v4.to_string(),
            SocketAddr::V6(_) => backend.v6.to_string(),
        };
        let all: Vec<String> = lab.backends.iter().map(address).collect();
        lvx.serve(&format!("tcp://{vip}"), forward, "rr", all.iter().map(String::as_str))?;
        for protocol in ["tcp", "udp"] {
            let service = format!("{protocol}://{}", SocketAddr::new(vip.ip(), 5201));
            lvx.serve(&service, forward, "rr", [all[0].as_str()])?;
        }
    }
    Ok(())
}

/// Packets, bytes and connections of every service, in and out, in the order of `lvx stats`.
fn counted(lvx: &Balancer<'_>) -> Result<Vec<u64>> {
    let stats = lvx.json(["stats"])?;
    let services = stats["services"].as_array().context("no services")?;
    let fields = ["packets_in", "bytes_in", "packets_out", "bytes_out", "connections"];
    Ok(services
        .iter()
        .flat_map(|service| fields.map(|field| service[field].as_u64()))
        .map(|count| count.unwrap_or(u64::MAX))
        .collect())
}

/// How many datagrams a host's sockets had no room for (`RcvbufErrors` of `/proc/net/snmp` and `snmp6`).
fn overflowed(host: &Namespace) -> Result<u64> {
    let v4 = host.run("cat", ["/proc/net/snmp"])?;
    let mut udp = v4
        .lines()
        .filter(|line| line.starts_with("Udp: "))
        .map(str::split_whitespace);
    let (names, values) = (udp.next().context("no names")?, udp.next().context("no values")?);
    let v4 = names.zip(values).find(|(name, _)| *name == "RcvbufErrors");
    let v6 = host.run("cat", ["/proc/net/snmp6"])?;
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    Ok(v4.context("no RcvbufErrors")?.1.parse::<u64>()? + v6.context("no Udp6RcvbufErrors")?.trim().parse::<u64>()?)
}

/// How many packets were dropped.
fn dropped(lvx: &Balancer<'_>) -> Result<u64> {
    let stats = lvx.json(["stats"])?;
    let interfaces = stats["interfaces"].as_array().context("no interfaces")?;
    let verdicts = interfaces
        .iter()
        .filter_map(|interface| interface["verdicts"].as_array())
        .flatten();
    Ok(verdicts
        .filter(|verdict| {
            verdict["verdict"]
                .as_str()
                .is_some_and(|name| name.starts_with("dropped"))
        })
        .filter_map(|verdict| verdict["packets"].as_u64())
        .sum())
}

/// Has downloads, UDP streams, held connections and 200 new connections a second go to all VIPs while `change` happens.
fn under_load<'lab>(
    lab: &'lab Lab,
    lvx: &mut Balancer<'lab>,
    change: impl FnOnce(&mut Balancer<'lab>) -> Result<()>,
) -> Result<()> {
    let backend = &lab.backends[0];
    let servers = [
        VIP_DR.0.to_string(),
        VIP_DR.1.to_string(),
        backend.v4.to_string(),
        backend.v6.to_string(),
    ];
    let _servers = servers
        .iter()
        .map(|address| client::iperf_server(&backend.namespace, address))
        .collect::<Result<Vec<_>>>()?;
    let mut held = Vec::new();
    let (mut streams, mut downloads) = (Vec::new(), Vec::new());
    for (number, (vip, _)) in vips().into_iter().enumerate() {
        let directory = lab.directory().join(format!("client{number}"));
        fs::create_dir(&directory)?;
        held.extend(Held::open_many(&lab.client, vip, HELD)?);
        streams.push(Stream::start(&lab.client, &vip.ip().to_string(), STREAM, &directory)?);
        let download = Download::start(
            &lab.client,
            &format!("http://{vip}/slow/1m.bin"),
            &directory,
            "download",
        )?;
        downloads.push((download.backend()?, download));
    }
    let stop = AtomicBool::new(false);
    let (changed, outcomes) = thread::scope(|scope| -> Result<_> {
        let clients: Vec<_> = vips()
            .into_iter()
            .map(|(vip, _)| {
                let stop = &stop;
                scope.spawn(move || load::until_stopped(&lab.client, vip, 1, stop, |_, _| thread::sleep(PAUSE)))
            })
            .collect();
        thread::sleep(Duration::from_secs(1));
        let changed = change(lvx);
        thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        let outcomes: Vec<Outcome> = clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<_>>()?;
        Ok((changed, outcomes))
    })?;
    changed?;
    assert_eq!(dropped(lvx)?, 0);
    for outcome in outcomes {
        assert_eq!(outcome.failed, 0, "{outcome:?}");
        assert!(outcome.answered() > 50, "{outcome:?}");
    }
    for each in &mut held {
        let before = each.backend.clone();
        assert_eq!(each.ask()?, before, "a connection that was held open");
    }
    for (name, download) in downloads {
        let body = download
            .finish(LIMIT)
            .with_context(|| format!("a download from {name}"))?;
        assert!(body == lab.body("1m.bin")?, "a download from {name} has changed");
    }
    let mut lost = 0;
    for stream in streams {
        let result = stream.finish(LIMIT)?;
        assert!(result.sent > 10_000, "{result:?}");
        lost += result.lost;
    }
    // What a server on a busy machine did not read in time was not lost on the way.
    assert_eq!(
        lost.saturating_sub(overflowed(&backend.namespace)?),
        0,
        "{lost} datagrams"
    );
    Ok(())
}

/// Counters have gone on from what they were.
fn assert_goes_on(before: &[u64], after: &[u64]) {
    assert_eq!(before.len(), after.len());
    assert!(before.iter().all(|count| *count != u64::MAX), "{before:?}");
    let goes_on = before.iter().zip(after).all(|(before, after)| before <= after);
    assert!(goes_on, "{before:?} {after:?}");
}

/// Kills the daemon and starts it again as `prepare` says.
fn replaced(prepare: impl FnOnce(&mut Balancer<'_>) -> Result<()>) -> Result<()> {
    let lab = Lab::two_armed()?;
    let mut lvx = Balancer::start(&lab)?;
    serve(&lab, &lvx)?;
    under_load(&lab, &mut lvx, |lvx| {
        let before = counted(lvx)?;
        lvx.kill()?;
        prepare(lvx)?;
        lvx.run()?;
        assert_goes_on(&before, &counted(lvx)?);
        Ok(())
    })?;
    let generations = fs::read_dir(lvx.pins())?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("generation_"));
    assert_eq!(generations.count(), 1, "the old dataplane's pins are gone");
    Ok(())
}

#[test]
fn another_layout_of_the_configuration_costs_no_packet_and_moves_no_flow() -> Result<()> {
    replaced(|lvx| {
        lvx.upgrade(balancer::variant("other-configuration")?);
        Ok(())
    })
}

#[test]
fn another_layout_of_flows_and_counters_costs_no_packet_and_moves_no_flow() -> Result<()> {
    replaced(|lvx| {
        lvx.upgrade(balancer::variant("other-flows")?);
        Ok(())
    })
}

#[test]
fn other_sizes_cost_no_packet_and_move_no_flow() -> Result<()> {
    replaced(|lvx| {
        let settings = lvx.state_directory().with_extension("toml");
        fs::write(
            &settings,
            "flows_v4 = 50_000\nflows_v6 = 2_000_000\nmax_services = 100\nmax_backends = 500\n",
        )?;
        lvx.reconfigure(vec!["--config".to_owned(), settings.display().to_string()]);
        Ok(())
    })
}

#[test]
fn a_pin_that_was_removed_costs_no_packet_and_moves_no_flow() -> Result<()> {
    replaced(|lvx| {
        let generation = lvx.pins().join("generation_1");
        for pin in ["FLOWS_V4", "CLIENTS_V6", "program_lvx_tell"] {
            fs::remove_file(generation.join(pin))?;
        }
        Ok(())
    })
}

/// Starts a daemon that must fail while the old one's dataplane forwards, then the old one again.
fn in_vain(why: &str, command: impl FnOnce(&Balancer<'_>) -> Result<std::process::Command>) -> Result<()> {
    let lab = Lab::two_armed()?;
    let mut lvx = Balancer::start(&lab)?;
    serve(&lab, &lvx)?;
    under_load(&lab, &mut lvx, |lvx| {
        let before = counted(lvx)?;
        lvx.kill()?;
        let output = lvx.run_in_vain(&mut command(lvx)?)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "{said}");
        let pins: Vec<String> = fs::read_dir(lvx.pins())?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with("generation_"))
            .collect();
        assert_eq!(pins, ["generation_1"]);
        lvx.run()?;
        assert_goes_on(&before, &counted(lvx)?);
        Ok(())
    })
}

/// A copy of the program whose XDP programs no kernel takes: they end in an instruction that there is not.
fn that_does_not_load(program: &Path, directory: &Path) -> Result<PathBuf> {
    // An ELF object for BPF (machine 247), little-endian.
    const OBJECT: &[u8] = b"\x7fELF\x02\x01\x01";
    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = fs::read(program)?;
    let is_object = |place: &usize| bytes[*place..].starts_with(OBJECT) && bytes[*place + 18..*place + 20] == [247, 0];
    let objects: Vec<usize> = (0..bytes.len() - 64).filter(is_object).collect();
    ensure!(!objects.is_empty(), "{} has no XDP program in it", program.display());
    for object in objects {
        // Its code comes before its table of sections.
        let sections = u64::from_le_bytes(bytes[object + 40..object + 48].try_into()?) as usize;
        for instruction in bytes[object..object + sections].chunks_exact_mut(8) {
            if instruction == EXIT {
                instruction[0] = 0xff;
            }
        }
    }
    let broken = directory.join("lvx-that-does-not-load");
    fs::write(&broken, bytes)?;
    fs::set_permissions(&broken, fs::metadata(program)?.permissions())?;
    Ok(broken)
}

#[test]
fn a_build_whose_program_does_not_load_leaves_the_old_dataplane_forwarding() -> Result<()> {
    in_vain("does not load the XDP program", |lvx| {
        let broken = that_does_not_load(lvx.program(), lvx.state_directory().parent().context("no directory")?)?;
        let good = lvx.run_command();
        let mut command = std::process::Command::new(good.get_program());
        command.args(good.get_args().map(|argument| match argument == lvx.program() {
            true => broken.as_os_str(),
            false => argument,
        }));
        Ok(command)
    })
}

#[test]
fn a_build_whose_maps_have_no_memory_leaves_the_old_dataplane_forwarding() -> Result<()> {
    let group = MemoryLimit::new(120 << 20)?;
    in_vain("does not load the XDP program", |lvx| {
        let settings = lvx.state_directory().with_extension("toml");
        fs::write(&settings, "flows_v4 = 30_000_000\n")?;
        let good = lvx.run_command();
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(group.processes())
            .arg(good.get_program())
            .args(good.get_args())
            .arg("--config")
            .arg(settings);
        Ok(command)
    })
}

/// A control group whose processes, and what they make the kernel allocate, have so much memory only; of version 1 or 2.
struct MemoryLimit {
    path: PathBuf,
}

impl MemoryLimit {
    fn new(bytes: u64) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let (root, setting) = match root.join("memory").is_dir() {
            true => (root.join("memory"), "memory.limit_in_bytes"),
            false => (root.to_owned(), "memory.max"),
        };
        let path = root.join(format!("lvx-test-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let group = Self { path };
        fs::write(group.path.join(setting), bytes.to_string())?;
        Ok(group)
    }

    fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// The interfaces of the balancer, each with the mode that its program runs in.
fn modes(lvx: &Balancer<'_>) -> Result<Vec<(String, String)>> {
    let status = lvx.json(["status"])?;
    let interfaces = status["interfaces"].as_array().context("no interfaces")?;
    let text = |interface: &Value, field: &str| interface[field].as_str().unwrap_or_default().to_owned();
    Ok(interfaces
        .iter()
        .map(|interface| (text(interface, "name"), text(interface, "mode")))
        .collect())
}

#[test]
fn an_xdp_mode_that_an_interface_does_not_take_leaves_all_interfaces_as_they_were() -> Result<()> {
    let lab = Lab::one_armed()?;
    // A bridge takes no program in its driver.
    lab.balancer.ip("link add br9 type bridge\nlink set br9 up\n")?;
    let options = Options {
        interfaces: vec!["eth0".to_owned(), "br9".to_owned()],
        ..Options::default()
    };
    let mut lvx = Balancer::start_with(&lab, options)?;
    let before = modes(&lvx)?;
    assert_eq!(
        (&*before[0].1, &*before[1].1),
        ("generic", "generic"),
        "one that cannot decides for all"
    );
    let backend = lab.backends[0].v4.to_string();
    lvx.serve("tcp://10.0.0.101:80", "nat", "rr", [backend.as_str()])?;
    let address = SocketAddr::new(VIP_NAT.0.into(), 80);
    let mut held = Held::open(&lab.client, address)?;
    lvx.kill()?;
    lvx.set_mode("native");
    let output = lvx.run_in_vain(&mut lvx.run_command())?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot attach to br9 in native mode"), "{said}");
    held.ask()?;
    client::requests(&lab.client, "10.0.0.101", 20)?;
    let links = lab.balancer.run("ip", ["-details", "link", "show", "dev", "br9"])?;
    assert!(links.contains("xdpgeneric"), "{links}");
    lvx.set_mode("auto");
    lvx.run()?;
    assert_eq!(modes(&lvx)?, before);
    held.ask()?;
    Ok(())
}

#[test]
fn another_xdp_mode_is_that_of_the_next_daemon_and_flows_go_on() -> Result<()> {
    let lab = Lab::one_armed()?;
    let mut lvx = Balancer::start(&lab)?;
    let backends: Vec<String> = lab.backends.iter().map(|backend| backend.v4.to_string()).collect();
    lvx.serve("tcp://10.0.0.101:80", "nat", "rr", backends.iter().map(String::as_str))?;
    let mut held = Held::open_many(&lab.client, SocketAddr::new(VIP_NAT.0.into(), 80), HELD)?;
    for mode in ["generic", "native", "auto"] {
        lvx.kill()?;
        lvx.set_mode(mode);
        lvx.run()?;
        let expected = if mode == "generic" { "generic" } else { "native" };
        assert_eq!(modes(&lvx)?, [("eth0".to_owned(), expected.to_owned())]);
        for each in &mut held {
            let before = each.backend.clone();
            assert_eq!(each.ask()?, before, "{mode}");
        }
    }
    Ok(())
}

/// What `lvx stats` says is used by these tests as it is documented.
#[test]
fn stats_have_what_the_tests_compare() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve(
        "tcp://10.0.0.101:80",
        "nat",
        "rr",
        [lab.backends[0].v4.to_string().as_str()],
    )?;
    client::requests(&lab.client, "10.0.0.101", 3)?;
    let stats: Value = lvx.json(["stats"])?;
    assert!(
        counted(&lvx)?.iter().all(|count| *count != u64::MAX && *count > 0),
        "{stats}"
    );
    Ok(())
}
