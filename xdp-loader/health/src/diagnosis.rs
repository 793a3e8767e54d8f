//! What it means that a probe of the VIP at a backend fails (asked in other ways, the backend tells more), or that it
//! answers for the VIP whoever asks.

use std::net::IpAddr;

use super::probe::{Outcome, Probe, Report, Target};

/// Why the VIP is not answered for, if asking the backend's own address tells. `target` is that address.
pub(super) async fn of_vip(probe: &Probe, target: &Target, failure: &Report) -> Option<String> {
    let (vip, backend) = (target.service.ip, target.backend);
    let silent = failure
        .reason
        .as_deref()
        .is_none_or(|reason| reason.starts_with("no answer"));
    let words = failure.reason.as_deref().unwrap_or("no answer");
    let own = probe.run(target).await;
    if own.outcome == Outcome::Unknown {
        return None;
    }
    if own.outcome != Outcome::Down {
        let length = if vip.is_ipv4() { 32 } else { 128 };
        return Some(if silent {
            format!(
                "DR black hole: {backend} answers at its own address and not for the VIP {vip}; on that backend: \
                 ip address add {vip}/{length} dev lo"
            )
        } else {
            format!(
                "{backend} answers at its own address, but at the VIP {vip}: {words}; does the server listen there?"
            )
        });
    }
    if !silent {
        return None;
    }
    let ping = Probe::echo(probe.timeout());
    (ping.run(target).await.outcome == Outcome::Up).then(|| {
        format!(
            "{words} at the VIP {vip}; the host {backend} answers ping: is the server running, and {vip} on its loopback?"
        )
    })
}

/// What it means that a backend answers ARP or neighbour discovery for the VIP.
pub(super) fn of_claim(vip: IpAddr) -> String {
    match vip {
        IpAddr::V4(_) => format!(
            "answers ARP for the VIP {vip}, so that clients reach it past the balancer; on that backend: sysctl -w \
             net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
        ),
        IpAddr::V6(_) => format!(
            "answers neighbour discovery for the VIP {vip}, so that clients reach it past the balancer; on that \
             backend: give {vip}/128 to lo, and to no other interface"
        ),
    }
}
