//! The kernel's packet generator (`Documentation/networking/pktgen.rst`), which has files of its own in each network
//! namespace.

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use lvx_tests::{Namespace, process};

use crate::frames::{Frames, PORT};

/// Its files, as a process inside the namespace sees them.
const FILES: &str = "/proc/thread-self/net/pktgen";

/// Sends frames of 64 bytes out of an interface: what each took, ns. A frame of pktgen's 60 bytes has 4 more on a wire.
///
/// None if they were not received where they were sent, each at once, but in batches by the kernel's thread for what is
/// left over (`ksoftirqd`), which takes half the time and may happen to any balancer.
pub fn send(namespace: &Namespace, interface: &str, mac: &str, frames: Frames<'_>) -> Result<Option<f64>> {
    if !Path::new("/proc/net/pktgen").exists() {
        // Where it is built in, there is no module.
        process::finish(Command::new("modprobe").arg("pktgen")).context("this kernel has no pktgen")?;
    }
    let first: Ipv4Addr = frames.from.parse()?;
    let last = Ipv4Addr::from_bits(first.to_bits() + frames.flows - 1);
    let cpu = 0;
    let mut settings = vec![
        format!("count {}", frames.packets),
        "clone_skb 0".to_owned(),
        "delay 0".to_owned(),
        "pkt_size 60".to_owned(),
        format!("dst_mac {mac}"),
        format!("dst {}", frames.to),
        format!("src_min {first}"),
        format!("src_max {last}"),
        "udp_src_min 1024".to_owned(),
        "udp_src_max 1024".to_owned(),
        format!("udp_dst_min {PORT}"),
        format!("udp_dst_max {PORT}"),
    ];
    if !frames.in_turn {
        settings.push("flag IPSRC_RND".to_owned());
    }
    namespace.inside(|| {
        let write = |file: &str, text: &str| -> Result<()> {
            // Some of the files take the last byte for the end of a line, whatever it is.
            fs::write(Path::new(FILES).join(file), format!("{text}\n"))
                .with_context(|| format!("pktgen: {file}: {text}"))
        };
        let thread = format!("kpktgend_{cpu}");
        write(&thread, "rem_device_all")?;
        write(&thread, &format!("add_device {interface}"))?;
        for setting in &settings {
            write(interface, setting)?;
        }
        // Returns when all is sent.
        write("pgctrl", "start")?;
        let said = fs::read_to_string(Path::new(FILES).join(interface))?;
        write(&thread, "rem_device_all")?;
        let Some((sending, waiting)) = microseconds(&said) else {
            bail!("pktgen does not say how long it took: {said}");
        };
        let cost = (sending + waiting) * 1e3 / f64::from(frames.packets);
        Ok((waiting < sending / 50.0).then_some(cost))
    })?
}

/// How long it sent and how long it waited, in a result:
/// "Result: OK: 12345(c12000+d345) usec, 1000 (60byte,0frags)".
fn microseconds(said: &str) -> Option<(f64, f64)> {
    let result = said.split("Result: OK: ").nth(1)?;
    let (_, times) = result.split_once("(c")?;
    let (sending, waiting) = times.split_once(')')?.0.split_once("+d")?;
    Some((sending.parse().ok()?, waiting.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_found_in_what_pktgen_says() {
        let said = "Current:\n     flows: 0\nResult: OK: 12345(c12000+d345) usec, 1000 (60byte,0frags)\n  81004pps";
        assert_eq!(microseconds(said), Some((12_000.0, 345.0)));
        assert_eq!(microseconds("Result: Idle"), None);
    }
}
