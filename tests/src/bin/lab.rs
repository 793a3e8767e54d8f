//! What `cargo xtask run` shows: the lab with the balancer in its middle, a service each for direct routing and NAT over
//! IPv4 and IPv6, requests through them, and who answered.
//!
//! ```text
//! lab [--hold] [-- ARGUMENTS OF lvx run]
//! ```

use std::{
    env,
    net::IpAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use lvx_tests::{
    Balancer, Lab, Options,
    client::{self, Answers},
    topology::{Backend, VIP_DR, VIP_NAT},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Requests through each service. The chance that Maglev leaves one of three backends out is below 1 to 10^10.
const REQUESTS: usize = 60;

/// A service of the demonstration.
struct Service {
    forward: &'static str,
    vip: IpAddr,
}

impl Service {
    fn all() -> [Self; 4] {
        [
            ("dr", VIP_DR.0.into()),
            ("nat", VIP_NAT.0.into()),
            ("dr", VIP_DR.1.into()),
            ("nat", VIP_NAT.1.into()),
        ]
        .map(|(forward, vip)| Self { forward, vip })
    }

    /// The VIP as it is written in a URL.
    fn host(&self) -> String {
        match self.vip {
            IpAddr::V4(vip) => vip.to_string(),
            IpAddr::V6(vip) => format!("[{vip}]"),
        }
    }

    fn address(&self) -> String {
        format!("tcp://{}:80", self.host())
    }

    /// The backend as it is given to `lvx backend add`.
    fn backend(&self, backend: &Backend) -> String {
        if self.vip.is_ipv6() {
            backend.v6.to_string()
        } else {
            backend.v4.to_string()
        }
    }
}

fn main() -> ExitCode {
    let mut hold = false;
    let mut arguments = env::args().skip(1);
    let mut further = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--hold" => hold = true,
            "--" => further.extend(arguments.by_ref()),
            _ => {
                eprintln!("usage: lab [--hold] [-- ARGUMENTS OF lvx run]");
                return ExitCode::from(2);
            }
        }
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    match demonstrate(hold, further, &interrupted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupted.load(Ordering::Relaxed) => {
            println!("Interrupted. The lab is gone.");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that the lab makes ends with this function, however it ends.
fn demonstrate(hold: bool, further: Vec<String>, interrupted: &Arc<AtomicBool>) -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(interrupted))?;
    }
    let go_on = || {
        ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    };

    println!("Building the lab: a client, the balancer, a switch, three backends with nginx");
    let lab = Lab::one_armed()?;
    go_on()?;
    println!("Starting lvx on the balancer's eth0");
    let balancer = Balancer::start_with(
        &lab,
        Options {
            further,
            ..Options::default()
        },
    )?;

    let mut rows = Vec::new();
    for service in Service::all() {
        go_on()?;
        let backends: Vec<_> = lab.backends.iter().map(|b| service.backend(b)).collect();
        balancer.serve(
            &service.address(),
            service.forward,
            "mh",
            backends.iter().map(String::as_str),
        )?;
        let answers = client::requests(&lab.client, &service.host(), REQUESTS)
            .with_context(|| format!("through {}", service.address()))?;
        rows.extend(report(&lab, &service, &answers)?);
    }
    println!();
    print_table(
        &[["SERVICE", "FORWARD", "BACKEND", "NAME", "ANSWERED"].map(String::from)],
        &rows,
    );
    println!(
        "\n{} requests sent, {} answered",
        REQUESTS * 4,
        rows.iter()
            .filter_map(|row| row[4].parse::<usize>().ok())
            .sum::<usize>()
    );
    if hold {
        print_commands(&lab, &balancer);
        while !interrupted.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
        }
        println!("\nTaking the lab down");
    }
    Ok(())
}

/// A row of the table for each backend; it is an error if one has answered nothing.
fn report(lab: &Lab, service: &Service, answers: &Answers) -> Result<Vec<[String; 5]>> {
    let mut rows = Vec::new();
    for backend in &lab.backends {
        let count = answers.get(&backend.name).copied().unwrap_or(0);
        if count == 0 {
            bail!(
                "{} has answered none of {REQUESTS} requests to {}: {answers:?}",
                backend.name,
                service.address()
            );
        }
        rows.push([
            service.address(),
            service.forward.to_owned(),
            service.backend(backend),
            backend.name.clone(),
            count.to_string(),
        ]);
    }
    Ok(rows)
}

fn print_table(head: &[[String; 5]], rows: &[[String; 5]]) {
    let mut widths = [0; 5];
    for row in head.iter().chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    for row in head.iter().chain(rows) {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

fn print_commands(lab: &Lab, balancer: &Balancer<'_>) {
    let client = lab.client.path();
    let client = client.display();
    let lvx = format!(
        "nsenter --net={} {} --socket {}",
        lab.balancer.path().display(),
        balancer.program().display(),
        balancer.socket().display()
    );
    println!(
        "
The lab stays until Ctrl-C. As root, in another terminal:

  # requests
  nsenter --net={client} curl http://{dr4}/
  nsenter --net={client} curl http://{nat4}/
  nsenter --net={client} curl 'http://[{dr6}]/'
  nsenter --net={client} curl 'http://[{nat6}]/'

  # the balancer
  lvx='{lvx}'
  $lvx status
  $lvx stats
  $lvx conns
  $lvx backend drain tcp://{dr4}:80 {b1}
  $lvx backend set tcp://{nat4}:80 {b1} --weight 3
  $lvx service add tcp://{nat4}:8080 --forward nat --scheduler wrr
  $lvx export",
        dr4 = VIP_DR.0,
        nat4 = VIP_NAT.0,
        dr6 = VIP_DR.1,
        nat6 = VIP_NAT.1,
        b1 = lab.backends[0].v4,
    );
    println!("\n  # a host from inside");
    for host in lab
        .backends
        .iter()
        .map(|b| &b.namespace)
        .chain([&lab.client, &lab.balancer])
    {
        println!("  nsenter --net={} bash", host.path().display());
    }
}
