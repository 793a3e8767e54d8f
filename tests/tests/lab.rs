//! The lab itself: without a balancer its hosts reach each other, and what passes between them is as on a real wire.

use std::{fs, time::Duration};

use anyhow::Result;
use lvx_tests::{
    Lab,
    client::{self, Download, Stream},
    leftovers, netns,
    wire::{self, Capture, Direction},
};

fn every_host_is_reached(lab: &Lab) -> Result<()> {
    for backend in &lab.backends {
        for host in [
            backend.v4.to_string(),
            format!("[{}]", backend.v6),
            format!("{}:8080", backend.v4),
        ] {
            let answers = client::requests(&lab.client, &host, 3)?;
            assert_eq!(answers, [(backend.name.clone(), 3)].into());
        }
    }
    lab.client.run("ping", ["-c", "1", "-W", "2", "10.0.0.2"])?;
    lab.client.run("ping", ["-c", "1", "-W", "2", "fd00::2"])?;
    Ok(())
}

#[test]
fn in_a_one_armed_lab_the_client_reaches_every_host() -> Result<()> {
    every_host_is_reached(&Lab::one_armed()?)
}

#[test]
fn in_a_two_armed_lab_the_client_reaches_every_host() -> Result<()> {
    every_host_is_reached(&Lab::two_armed()?)
}

#[test]
fn frames_have_full_checksums_and_fit_into_the_mtu() -> Result<()> {
    let lab = Lab::two_armed()?;
    let capture = Capture::start(&lab.balancer, "eth0", Direction::Both, "", lab.directory(), "wire")?;
    for host in [lab.backends[0].v4.to_string(), format!("[{}]", lab.backends[0].v6)] {
        let url = format!("http://{host}/data/1m.bin");
        let body = client::download(&lab.client, &url, lab.directory(), "1m")?;
        assert!(body == lab.body("1m.bin")?);
    }
    let frames = capture.stop()?;
    assert!(wire::check(&frames)?.tcp > 1400);
    assert_eq!(frames.iter().map(Vec::len).max(), Some(1514));
    Ok(())
}

#[test]
fn a_stream_and_a_slow_download_pass_the_bare_lab_without_loss() -> Result<()> {
    let lab = Lab::one_armed()?;
    let backend = &lab.backends[2];
    let address = backend.v4.to_string();
    let _server = client::iperf_server(&backend.namespace, &address)?;
    let url = format!("http://{address}/slow/1m.bin");
    let download = Download::start(&lab.client, &url, lab.directory(), "slow")?;
    assert_eq!(download.backend()?, "b3");
    let stream = Stream::start(&lab.client, &address, 3, lab.directory())?;
    let result = stream.finish(Duration::from_secs(20))?;
    assert_eq!(result.lost, 0, "{result:?}");
    assert!(result.sent > 1_000, "{result:?}");
    assert!(download.finish(Duration::from_secs(20))? == lab.body("1m.bin")?);
    Ok(())
}

#[test]
fn a_lab_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::one_armed()?;
    let (id, directory) = (lab.id.clone(), lab.directory().to_owned());
    drop(lab);
    assert!(!directory.exists());
    for place in [netns::DIRECTORY, leftovers::BPFFS] {
        for entry in fs::read_dir(place)? {
            let name = entry?.file_name().into_string().unwrap_or_default();
            assert!(!name.starts_with(&format!("{id}-")), "{place}/{name}");
        }
    }
    Ok(())
}
