//! Thousands of frames that were damaged at random, the same in every run: nothing is passed changed, nothing is
//! forwarded with more changed than forwarding may change, and the program always ends as it should.

use std::collections::BTreeMap;

use lvx_model::{Forward, Scheduler};

use crate::{
    balancer::{Action, Balancer},
    frame::{ACK, DESTINATION, FRAGMENT, Frame, HOP_BY_HOP, IP, ROUTING, SYN, Transport, socket, tcp, udp},
    network::{INSIDE, OUTSIDE},
};

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 32) as usize * end) >> 32
    }

    fn byte(&mut self) -> u8 {
        // Ends of ranges are where mistakes are.
        match self.below(4) {
            0 => [0, 1, 0x7f, 0x80, 0xfe, 0xff, 0x45, 0x60][self.below(8)],
            _ => self.next() as u8,
        }
    }

    /// A frame with some of its bytes changed, removed or added, nearly all of them in its headers.
    fn damage(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        for _ in 0..=self.below(4) {
            let end = frame.len().min(100);
            let at = 12 + self.below(end.saturating_sub(12).max(1));
            match self.below(8) {
                0..=3 => frame[at.min(end - 1)] = self.byte(),
                4 => frame[at.min(end - 1)] ^= 1 << self.below(8),
                5 => frame.truncate(at.max(IP)),
                6 => frame.insert(at, self.byte()),
                _ => {
                    let from = IP + self.below(end - IP + 1);
                    let piece: Vec<u8> = frame[from.min(frame.len())..].iter().copied().take(16).collect();
                    let at = at.min(frame.len());
                    frame.splice(at..at, piece);
                }
            }
            if frame.len() < IP {
                frame.resize(IP, 0);
            }
        }
        frame
    }
}

fn services() -> Balancer {
    let mut balancer = Balancer::new();
    for protocol in ["tcp", "udp"] {
        for (vip, backend) in [("10.9.9.9", "10.0.1.12"), ("[2001:db8:9::9]", "2001:db8:1::12")] {
            balancer.add(
                &format!("{protocol}://{vip}:80"),
                Forward::Dr,
                Scheduler::Rr,
                &[backend],
            );
            balancer.add(
                &format!("{protocol}://{vip}:81"),
                Forward::Nat,
                Scheduler::Mh,
                &[backend],
            );
        }
    }
    balancer.apply();
    balancer
}

/// Frames of every kind that is forwarded, and the interface that each comes in by.
fn frames() -> Vec<(u32, Vec<u8>)> {
    let mut frames = Vec::new();
    for transport in [Transport::Tcp { flags: SYN | ACK }, Transport::Udp { checksum: true }] {
        for (client, vip, real) in [
            ("10.7.0.1:40001", "10.9.9.9", "10.0.1.12:81"),
            ("[2001:db8:7::1]:40001", "2001:db8:9::9", "[2001:db8:1::12]:81"),
        ] {
            for port in [80, 81] {
                let vip = std::net::SocketAddr::new(vip.parse().unwrap(), port);
                let plain = Frame::new(socket(client), vip, transport);
                let mut dressed = plain.clone();
                dressed.tags = vec![[0x88, 0xa8, 0, 1], [0x81, 0, 0, 2]];
                if vip.is_ipv4() {
                    dressed.options = vec![1; 8];
                } else {
                    dressed.extensions = [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION]
                        .map(|kind| (kind, vec![0; 8]))
                        .to_vec();
                }
                frames.push((OUTSIDE, plain.bytes()));
                frames.push((OUTSIDE, dressed.bytes()));
            }
            frames.push((INSIDE, Frame::new(socket(real), socket(client), transport).bytes()));
        }
    }
    frames.push((OUTSIDE, icmp_error_v4()));
    frames.push((OUTSIDE, icmp_error_v6()));
    frames
}

/// A router's word that a packet of the service's did not arrive.
fn icmp_error_v4() -> Vec<u8> {
    let quoted = tcp("10.9.9.9:81", "10.7.0.1:40001", ACK).bytes();
    let mut frame = udp("10.7.0.254:1", "10.9.9.9:2").payload(&quoted[IP..]).bytes();
    frame[IP + 9] = 1;
    crate::frame::seal_ipv4(&mut frame);
    frame[34..42].copy_from_slice(&[3, 4, 0, 0, 0, 0, 5, 0x14]);
    frame
}

fn icmp_error_v6() -> Vec<u8> {
    let quoted = udp("[2001:db8:9::9]:81", "[2001:db8:7::1]:40001").bytes();
    let mut frame = udp("[2001:db8:7::fe]:1", "[2001:db8:9::9]:2")
        .payload(&quoted[IP..])
        .bytes();
    frame[IP + 6] = 58;
    frame[54..62].copy_from_slice(&[2, 0, 0, 0, 0, 0, 5, 0x14]);
    frame
}

#[test]
fn damaged_frames_are_passed_unchanged_or_dropped_or_forwarded_whole() {
    const EACH: usize = 400;
    let mut balancer = services();
    let mut random = Random(0x6c76_7800_0000_0001);
    let mut decided: BTreeMap<String, usize> = BTreeMap::new();
    for (ingress, frame) in frames() {
        balancer.run(ingress, &frame);
        for _ in 0..EACH {
            let damaged = random.damage(&frame);
            let (action, after) = balancer.run(ingress, &damaged);
            *decided.entry(format!("{action:?}")).or_default() += 1;
            match action {
                Action::Aborted => panic!("the program aborted on {damaged:02x?}"),
                Action::Pass => assert_eq!(after, damaged),
                Action::Drop => {}
                Action::Tx | Action::Redirect => {
                    assert_eq!(after.len(), damaged.len(), "{damaged:02x?}");
                    assert_eq!(after[12..14], damaged[12..14], "{damaged:02x?}");
                    // MACs, addresses, ports, hops and checksums, twice in an ICMP error.
                    let changed = (12..after.len()).filter(|byte| after[*byte] != damaged[*byte]).count();
                    assert!(
                        changed <= 2 * (16 + 2 + 1 + 2 + 2) + 2,
                        "{changed} bytes of {damaged:02x?}"
                    );
                }
            }
        }
    }
    // Not all frames were damaged beyond recognition, nor was none.
    assert!(decided["Pass"] > 1000 && decided["Redirect"] > 1000, "{decided:?}");
}
