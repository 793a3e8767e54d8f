//! Connections that have begun stay with their backend when others come and go.

use std::{thread, time::Duration};

use anyhow::Result;
use lvx_tests::{
    Balancer, Lab,
    client::Download,
    topology::{VIP_DR, VIP_NAT},
};

const DOWNLOADS: usize = 50;

/// Longer than 1 MiB takes at nginx's slow rate on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Starts the downloads and waits until each has begun; each with the name of its backend.
fn begin(lab: &Lab, vip: &str) -> Result<Vec<(String, Download)>> {
    let url = format!("http://{vip}/slow/1m.bin");
    let downloads = (0..DOWNLOADS)
        .map(|number| Download::start(&lab.client, &url, lab.directory(), &format!("download{number}")))
        .collect::<Result<Vec<_>>>()?;
    downloads
        .into_iter()
        .map(|download| Ok((download.backend()?, download)))
        .collect()
}

/// Serves `vip` by the first `count` backends.
fn serve<'lab>(lab: &'lab Lab, vip: &str, forward: &str, count: usize) -> Result<Balancer<'lab>> {
    let lvx = Balancer::start(lab)?;
    let backends: Vec<_> = lab.backends[..count].iter().map(|b| b.v4.to_string()).collect();
    lvx.serve(
        &format!("tcp://{vip}:80"),
        forward,
        "mh",
        backends.iter().map(String::as_str),
    )?;
    Ok(lvx)
}

fn removing_a_backend_harms_no_other(vip: &str, forward: &str) -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = serve(&lab, vip, forward, 3)?;
    let downloads = begin(&lab, vip)?;
    let gone = lab.backends[2].v4.to_string();
    lvx.lvx(["backend", "del", &format!("tcp://{vip}:80"), &gone])?;
    let body = lab.body("1m.bin")?;
    let (orphans, others): (Vec<_>, Vec<_>) = downloads.into_iter().partition(|(name, _)| name == "b3");
    assert!(!orphans.is_empty() && others.len() > DOWNLOADS / 3);
    for (name, download) in others {
        assert!(download.finish(LIMIT)? == body, "a download from {name} has changed");
    }
    Ok(())
}

fn adding_a_backend_harms_none(vip: &str, forward: &str) -> Result<()> {
    let lab = Lab::two_armed()?;
    let lvx = serve(&lab, vip, forward, 2)?;
    let downloads = begin(&lab, vip)?;
    let new = lab.backends[2].v4.to_string();
    lvx.lvx(["backend", "add", &format!("tcp://{vip}:80"), &new])?;
    // And once more while all run: the table changes twice.
    thread::sleep(Duration::from_millis(500));
    lvx.lvx(["backend", "set", &format!("tcp://{vip}:80"), &new, "--weight", "5"])?;
    let body = lab.body("1m.bin")?;
    for (name, download) in downloads {
        assert!(download.finish(LIMIT)? == body, "a download from {name} has changed");
    }
    Ok(())
}

#[test]
fn removing_a_backend_under_dr_leaves_the_downloads_from_others_intact() -> Result<()> {
    removing_a_backend_harms_no_other(&VIP_DR.0.to_string(), "dr")
}

#[test]
fn removing_a_backend_under_nat_leaves_the_downloads_from_others_intact() -> Result<()> {
    removing_a_backend_harms_no_other(&VIP_NAT.0.to_string(), "nat")
}

#[test]
fn adding_a_backend_under_dr_leaves_all_downloads_intact() -> Result<()> {
    adding_a_backend_harms_none(&VIP_DR.0.to_string(), "dr")
}

#[test]
fn adding_a_backend_under_nat_leaves_all_downloads_intact() -> Result<()> {
    adding_a_backend_harms_none(&VIP_NAT.0.to_string(), "nat")
}
