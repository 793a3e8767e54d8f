//! Every scheduler end to end, with IPVS's meaning: who gets connections that stay open, when others come and go.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use lvx_tests::{
    Balancer, Lab,
    load::{self, Held},
    topology::{VIP_DR, VIP_NAT},
};

/// How long the counts of connections may take until they are right.
const COUNTED: Duration = Duration::from_millis(1200);

/// The two ways over IPv4, and one over IPv6.
fn ways() -> [(SocketAddr, &'static str); 3] {
    [
        (SocketAddr::new(VIP_DR.0.into(), 80), "dr"),
        (SocketAddr::new(VIP_NAT.0.into(), 80), "nat"),
        (SocketAddr::new(VIP_NAT.1.into(), 80), "nat"),
    ]
}

/// Adds `tcp://VIP:80` with all backends and these weights.
fn serve(
    lab: &Lab,
    lvx: &Balancer<'_>,
    vip: SocketAddr,
    forward: &str,
    scheduler: &str,
    weights: [u16; 3],
) -> Result<()> {
    let service = format!("tcp://{vip}");
    lvx.serve(&service, forward, scheduler, [])?;
    for (backend, weight) in lab.backends.iter().zip(weights) {
        let address = if vip.is_ipv4() {
            backend.v4.to_string()
        } else {
            backend.v6.to_string()
        };
        lvx.lvx(["backend", "add", &service, &address, "--weight", &weight.to_string()])?;
    }
    Ok(())
}

/// How many of the connections each of the three backends has.
fn shares(held: &[Held]) -> [usize; 3] {
    let spread = load::spread(held);
    ["b1", "b2", "b3"].map(|name| spread.get(name).copied().unwrap_or(0))
}

/// Opens connections one after the other: schedulers count each as it begins.
fn open_slowly(lab: &Lab, vip: SocketAddr, count: usize, held: &mut Vec<Held>) -> Result<()> {
    for _ in 0..count {
        held.push(Held::open(&lab.client, vip)?);
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Runs a scheduler every way, each in the same lab.
fn every_way(
    scheduler: &str,
    weights: [u16; 3],
    check: impl Fn(&Lab, &Balancer<'_>, SocketAddr) -> Result<()>,
) -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    for (vip, forward) in ways() {
        serve(&lab, &lvx, vip, forward, scheduler, weights)?;
        check(&lab, &lvx, vip)?;
    }
    Ok(())
}

#[test]
fn lc_gives_a_connection_to_the_backend_with_the_fewest() -> Result<()> {
    every_way("lc", [1, 9, 1], |lab, _, vip| {
        let mut held = Vec::new();
        open_slowly(lab, vip, 6, &mut held)?;
        assert_eq!(shares(&held), [2, 2, 2], "{vip}: weights do not matter");
        held.retain(|each| each.backend != "b2");
        thread::sleep(COUNTED);
        open_slowly(lab, vip, 2, &mut held)?;
        assert_eq!(shares(&held), [2, 2, 2], "{vip}: whose ended are made up for");
        Ok(())
    })
}

#[test]
fn wlc_gives_each_backend_connections_by_its_weight() -> Result<()> {
    every_way("wlc", [1, 2, 3], |lab, _, vip| {
        let mut held = Vec::new();
        open_slowly(lab, vip, 12, &mut held)?;
        assert_eq!(shares(&held), [2, 4, 6], "{vip}");
        Ok(())
    })
}

#[test]
fn sed_gives_a_connection_to_the_backend_that_will_have_the_least_to_do() -> Result<()> {
    every_way("sed", [1, 2, 3], |lab, _, vip| {
        let mut held = Vec::new();
        // (active + 1) / weight: of 6, first b3 (1/3), then b2 or b3 (1/2, 2/3): 1, 2, 3 at the end.
        open_slowly(lab, vip, 6, &mut held)?;
        assert_eq!(held[0].backend, "b3", "{vip}: the heaviest is the first");
        assert_eq!(shares(&held), [1, 2, 3], "{vip}");
        Ok(())
    })
}

#[test]
fn nq_gives_an_idle_backend_a_connection_whatever_its_weight() -> Result<()> {
    every_way("nq", [1, 1, 100], |lab, _, vip| {
        let mut held = Vec::new();
        open_slowly(lab, vip, 3, &mut held)?;
        assert_eq!(shares(&held), [1, 1, 1], "{vip}: none waits while one is idle");
        open_slowly(lab, vip, 3, &mut held)?;
        assert_eq!(shares(&held), [1, 1, 4], "{vip}: then by the shortest delay");
        Ok(())
    })
}

/// Gives the client further addresses and returns all it has.
fn clients(lab: &Lab, vip: SocketAddr) -> Result<Vec<IpAddr>> {
    let mut all: Vec<IpAddr> = Vec::new();
    for number in 20..44 {
        let (address, length) = if vip.is_ipv4() {
            (format!("10.0.0.{number}"), 24)
        } else {
            (format!("fd00::{number}"), 64)
        };
        // It may be there from the way before.
        let _ = lab.client.ip(&format!(
            "addr add {address}/{length} dev eth0 {}\n",
            if length == 64 { "nodad" } else { "" }
        ));
        all.push(address.parse()?);
    }
    Ok(all)
}

/// In a one-armed lab, answers under NAT must come back through the balancer: so for the client's further addresses.
fn answers_through_the_balancer(lab: &Lab) -> Result<()> {
    for backend in &lab.backends {
        backend
            .namespace
            .ip(&format!("rule add from {} to 10.0.0.0/26 lookup 100\n", backend.v4))?;
        backend
            .namespace
            .ip6(&format!("rule add from {} to fd00::/120 lookup 100\n", backend.v6))?;
    }
    Ok(())
}

#[test]
fn sh_sends_a_client_to_one_backend_and_clients_to_all() -> Result<()> {
    let lab = Lab::one_armed()?;
    answers_through_the_balancer(&lab)?;
    let lvx = Balancer::start(&lab)?;
    for (vip, forward) in ways() {
        serve(&lab, &lvx, vip, forward, "sh", [1, 1, 1])?;
        let mut all = Vec::new();
        for client in clients(&lab, vip)? {
            let mut own = (0..4)
                .map(|_| Held::open_from(&lab.client, client, vip))
                .collect::<Result<Vec<_>>>()?;
            assert_eq!(load::spread(&own).len(), 1, "{vip}: client {client}");
            all.append(&mut own);
        }
        assert_eq!(load::spread(&all).len(), 3, "{vip}: {:?}", load::spread(&all));
        // With the port, a client is many.
        lvx.lvx(["service", "set", &format!("tcp://{vip}"), "--hash", "source-port"])?;
        let many = Held::open_many(&lab.client, vip, 40)?;
        assert_eq!(load::spread(&many).len(), 3, "{vip}: {:?}", load::spread(&many));
    }
    Ok(())
}

#[test]
fn mh_by_the_clients_address_sends_a_client_to_one_backend() -> Result<()> {
    every_way("mh", [1, 1, 1], |lab, lvx, vip| {
        let many = Held::open_many(&lab.client, vip, 40)?;
        ensure!(
            load::spread(&many).len() == 3,
            "{vip}: by port {:?}",
            load::spread(&many)
        );
        lvx.lvx(["service", "set", &format!("tcp://{vip}"), "--hash", "source"])?;
        let many = Held::open_many(&lab.client, vip, 20)?;
        ensure!(
            load::spread(&many).len() == 1,
            "{vip}: by address {:?}",
            load::spread(&many)
        );
        Ok(())
    })
}

#[test]
fn dh_sends_all_clients_of_a_service_to_one_backend() -> Result<()> {
    let lab = Lab::one_armed()?;
    answers_through_the_balancer(&lab)?;
    let lvx = Balancer::start(&lab)?;
    for (vip, forward) in ways() {
        serve(&lab, &lvx, vip, forward, "dh", [1, 1, 1])?;
        let held = clients(&lab, vip)?
            .into_iter()
            .map(|client| Held::open_from(&lab.client, client, vip))
            .collect::<Result<Vec<_>>>()?;
        assert_eq!(load::spread(&held).len(), 1, "{vip}: {:?}", load::spread(&held));
    }
    Ok(())
}

#[test]
fn fo_sends_all_to_the_heaviest_backend_that_takes_new_connections() -> Result<()> {
    every_way("fo", [1, 3, 2], |lab, lvx, vip| {
        assert_eq!(shares(&Held::open_many(&lab.client, vip, 6)?), [0, 6, 0], "{vip}");
        let service = format!("tcp://{vip}");
        let address = |number: usize| {
            let backend = &lab.backends[number];
            if vip.is_ipv4() {
                backend.v4.to_string()
            } else {
                backend.v6.to_string()
            }
        };
        lvx.lvx(["backend", "drain", &service, &address(1)])?;
        assert_eq!(shares(&Held::open_many(&lab.client, vip, 6)?), [0, 0, 6], "{vip}");
        lvx.lvx(["backend", "set", &service, &address(2), "--weight", "0"])?;
        assert_eq!(shares(&Held::open_many(&lab.client, vip, 6)?), [6, 0, 0], "{vip}");
        lvx.lvx(["backend", "drain", &service, &address(1), "--undo"])?;
        assert_eq!(shares(&Held::open_many(&lab.client, vip, 6)?), [0, 6, 0], "{vip}");
        Ok(())
    })
}

#[test]
fn ovf_fills_the_heaviest_backend_and_overflows_to_the_next() -> Result<()> {
    every_way("ovf", [2, 3, 1], |lab, _, vip| {
        let mut held = Vec::new();
        // As in IPVS, a backend is full with one more than its weight.
        open_slowly(lab, vip, 4, &mut held)?;
        assert_eq!(shares(&held), [0, 4, 0], "{vip}");
        open_slowly(lab, vip, 3, &mut held)?;
        assert_eq!(shares(&held), [3, 4, 0], "{vip}");
        open_slowly(lab, vip, 2, &mut held)?;
        assert_eq!(shares(&held), [3, 4, 2], "{vip}");
        Ok(())
    })
}

#[test]
fn p2c_spreads_connections_nearly_evenly() -> Result<()> {
    every_way("p2c", [1, 1, 1], |lab, _, vip| {
        let mut held = Vec::new();
        for _ in 0..6 {
            for _ in 0..10 {
                held.push(Held::open(&lab.client, vip)?);
                thread::sleep(Duration::from_millis(20));
            }
            thread::sleep(COUNTED);
        }
        let shares = shares(&held);
        println!("{vip}: {shares:?}");
        ensure!(
            shares.iter().all(|share| (12..=28).contains(share)),
            "{vip}: {shares:?}"
        );
        Ok(())
    })
}

#[test]
fn changing_the_scheduler_or_the_weights_breaks_no_connection() -> Result<()> {
    every_way("rr", [1, 1, 1], |lab, lvx, vip| {
        let service = format!("tcp://{vip}");
        let mut held = Held::open_many(&lab.client, vip, 9)?;
        for scheduler in [
            "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "fo", "ovf", "p2c", "mh", "rr",
        ] {
            lvx.lvx(["service", "set", &service, "--scheduler", scheduler])?;
            let weight = (scheduler.len() * 7).to_string();
            let first = if vip.is_ipv4() {
                lab.backends[0].v4.to_string()
            } else {
                lab.backends[0].v6.to_string()
            };
            lvx.lvx(["backend", "set", &service, &first, "--weight", &weight])?;
            for each in &mut held {
                let before = each.backend.clone();
                assert_eq!(each.ask()?, before, "{vip} {scheduler}");
            }
            Held::open(&lab.client, vip)?;
        }
        Ok(())
    })
}

#[test]
fn a_backend_of_weight_0_gets_nothing_from_any_scheduler() -> Result<()> {
    // Heavy enough that `ovf` does not find all full, when it drops.
    every_way("rr", [100, 0, 100], |lab, lvx, vip| {
        for scheduler in [
            "rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "fo", "ovf", "p2c", "mh",
        ] {
            lvx.lvx(["service", "set", &format!("tcp://{vip}"), "--scheduler", scheduler])?;
            let held = Held::open_many(&lab.client, vip, 12)?;
            assert_eq!(shares(&held)[1], 0, "{vip} {scheduler}");
        }
        Ok(())
    })
}
