//! Balancers side by side: LVX in one lab, and in another, in which no XDP program is attached, what else balances
//! TCP. All have the same three backends.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result};
use lvx_tests::{
    Arms, Lab, Namespace,
    process::{self, Running, wait_until},
    topology::{VIP_DR, VIP_NAT},
};

use crate::{Programs, daemon::Daemon};

/// The port of the stream that is measured in bytes: to one backend.
pub const STREAM: u16 = 5201;
/// The addresses at which the others balance.
const HAPROXY: &str = "10.0.0.111";
const NGINX: &str = "10.0.0.112";
const NFTABLES: &str = "10.0.0.113";
/// Where Debian's nginx has its modules.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// The two labs.
pub struct Labs {
    ours: Lab,
    theirs: Lab,
}

impl Labs {
    /// Builds both.
    pub fn new() -> Result<Self> {
        let (ours, theirs) = (Lab::new(Arms::Two)?, Lab::new(Arms::Two)?);
        for lab in [&ours, &theirs] {
            let hosts = lab.backends.iter().map(|backend| &backend.namespace);
            for host in hosts.chain([&lab.client, &lab.balancer]) {
                // Many connections in a short time.
                host.sysctl(&[
                    ("ipv4/ip_local_port_range", "1024 65535"),
                    ("ipv4/tcp_max_syn_backlog", "8192"),
                ])?;
            }
        }
        Ok(Self { ours, theirs })
    }
}

/// A balancer in front of the backends, or none.
pub struct Target<'a> {
    /// What balances.
    pub name: &'static str,
    /// Where requests come from.
    pub client: &'a Namespace,
    /// Where they go to.
    pub address: String,
}

/// Everything that balances, running.
pub struct Rivals<'a> {
    /// What is measured, LVX first.
    pub targets: Vec<Target<'a>>,
    _daemon: Daemon<'a>,
    _running: Vec<Running>,
}

impl<'a> Rivals<'a> {
    /// Starts all.
    pub fn start(labs: &'a Labs, programs: &Programs) -> Result<Self> {
        let daemon = lvx(&labs.ours, &programs.lvx)?;
        let balancer = &labs.theirs.balancer;
        balancer.ip(&format!(
            "addr add {HAPROXY}/32 dev eth0\naddr add {NGINX}/32 dev eth0\naddr add {NFTABLES}/32 dev eth0\n"
        ))?;
        let directory = labs.theirs.directory();
        let mut running = vec![haproxy(&labs.theirs, directory)?, nginx(&labs.theirs, directory)?];
        nftables(&labs.theirs)?;
        for lab in [&labs.ours, &labs.theirs] {
            let mut server = lab.backends[0].namespace.command("iperf3");
            server.args(["-s", "-p", &STREAM.to_string()]).stdout(Stdio::null());
            running.push(Running::start(&mut server)?);
        }
        let ours = |name, address: String| Target {
            name,
            client: &labs.ours.client,
            address,
        };
        let theirs = |name, address: &str| Target {
            name,
            client: &labs.theirs.client,
            address: address.to_owned(),
        };
        let targets = vec![
            ours("LVX, DR", VIP_DR.0.to_string()),
            ours("LVX, NAT", VIP_NAT.0.to_string()),
            theirs("nftables, DNAT", NFTABLES),
            theirs("HAProxy, TCP mode", HAPROXY),
            theirs("nginx, stream", NGINX),
            Target {
                name: "routed to one backend, not balanced",
                client: &labs.theirs.client,
                address: labs.theirs.backends[0].v4.to_string(),
            },
        ];
        for target in &targets {
            let url = format!("http://{}/", target.address);
            wait_until(&format!("{} answers", target.name), Duration::from_secs(20), || {
                Ok(target.client.run("curl", ["-sf", "-m", "2", &url]).is_ok())
            })?;
        }
        Ok(Self {
            targets,
            _daemon: daemon,
            _running: running,
        })
    }
}

/// LVX with a service for each forwarding method.
fn lvx<'a>(lab: &'a Lab, program: &Path) -> Result<Daemon<'a>> {
    let mut daemon = Daemon::new(&lab.balancer, program, &lab.id, lab.arms.interfaces())?;
    daemon.start()?;
    for (vip, forward) in [(VIP_DR.0, "dr"), (VIP_NAT.0, "nat")] {
        for (port, backends) in [(80, lab.backends.len()), (STREAM, 1)] {
            let service = format!("tcp://{vip}:{port}");
            daemon.lvx(&["service", "add", &service, "--forward", forward, "--scheduler", "rr"])?;
            for backend in &lab.backends[..backends] {
                daemon.lvx(&["backend", "add", &service, &backend.v4.to_string()])?;
            }
        }
    }
    daemon.wait_until_up()?;
    Ok(daemon)
}

/// HAProxy, which passes bytes from one connection to another.
fn haproxy(lab: &Lab, directory: &Path) -> Result<Running> {
    let servers: String = lab
        .backends
        .iter()
        .map(|backend| format!("  server {} {}:80\n", backend.name, backend.v4))
        .collect();
    let configuration = format!(
        "global\n  maxconn 4000\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         listen web\n  bind {HAPROXY}:80\n  balance roundrobin\n{servers}\
         listen stream\n  bind {HAPROXY}:{STREAM}\n  server b1 {}:{STREAM}\n",
        lab.backends[0].v4
    );
    let file = directory.join("haproxy.cfg");
    fs::write(&file, configuration)?;
    let mut command = lab.balancer.command("haproxy");
    command.arg("-f").arg(&file).args(["-db", "-q"]);
    Running::start(command.stdout(Stdio::null()))
}

/// nginx, which does the same.
fn nginx(lab: &Lab, directory: &Path) -> Result<Running> {
    let servers: String = lab
        .backends
        .iter()
        .map(|backend| format!("    server {}:80;\n", backend.v4))
        .collect();
    let load = match Path::new(STREAM_MODULE).exists() {
        true => format!("load_module {STREAM_MODULE};\n"),
        // Built in, as in nginx's own packages.
        false => String::new(),
    };
    let configuration = format!(
        "{load}daemon off;\nuser root;\nworker_processes auto;\npid stream.pid;\n\
         events {{ worker_connections 4000; }}\n\
         stream {{\n\
           upstream web {{\n{servers}  }}\n\
           server {{ listen {NGINX}:80 backlog=4096; proxy_pass web; }}\n\
           server {{ listen {NGINX}:{STREAM}; proxy_pass {}:{STREAM}; }}\n\
         }}\n",
        lab.backends[0].v4
    );
    let prefix = directory.join("stream");
    fs::create_dir(&prefix)?;
    fs::write(prefix.join("nginx.conf"), configuration)?;
    let log = fs::File::create(prefix.join("stderr"))?;
    let mut command = lab.balancer.command("nginx");
    command
        .arg("-p")
        .arg(&prefix)
        .args(["-c", "nginx.conf", "-e", "stderr"]);
    Running::start(command.stdout(Stdio::null()).stderr(log))
}

/// A table of nftables: every new connection to the next backend.
fn nftables(lab: &Lab) -> Result<()> {
    let backends: Vec<String> = lab
        .backends
        .iter()
        .enumerate()
        .map(|(number, backend)| format!("{number} : {}", backend.v4))
        .collect();
    let rules = format!(
        "table ip nat {{\n\
           chain prerouting {{\n\
             type nat hook prerouting priority dstnat; policy accept;\n\
             ip daddr {NFTABLES} tcp dport 80 dnat to numgen inc mod {} map {{ {} }}\n\
             ip daddr {NFTABLES} tcp dport {STREAM} dnat to {}\n\
           }}\n\
         }}\n",
        backends.len(),
        backends.join(", "),
        lab.backends[0].v4
    );
    process::feed(lab.balancer.command("nft").args(["-f", "-"]), rules.as_bytes()).context("nftables' rules")?;
    Ok(())
}
