//! Frames at random: of every kind that is forwarded, between few clients and some services, many of them damaged.

use std::net::SocketAddr;

use super::services::Service;
use lvx_test_kit::{
    fragments::fragments,
    frame::{
        ACK, AUTHENTICATION, DESTINATION, FIN, FRAGMENT, Frame, HOP_BY_HOP, IP, ROUTING, RST, SYN, Transport, seal_ipv4,
    },
    network::{INSIDE, OUTSIDE, VETH, mac},
    random::Random,
};

pub struct Traffic<'a> {
    services: &'a [Service],
    /// Ports that each client has.
    ports: usize,
    random: Random,
}

impl<'a> Traffic<'a> {
    pub fn new(services: &'a [Service], ports: usize, seed: u64) -> Self {
        Self {
            services,
            ports,
            random: Random::new(seed),
        }
    }

    /// A frame, and the interface that it comes in by.
    pub fn frame(&mut self) -> (u32, Vec<u8>) {
        let mut frame = match self.random.below(20) {
            0..10 => {
                let request = self.request();
                self.dressed(request).bytes()
            }
            10..13 => {
                let answer = self.answer();
                self.dressed(answer).bytes()
            }
            13..16 => self.fragment(),
            16..19 => self.icmp_error(),
            _ => (0..IP + self.random.below(100)).map(|_| self.random.byte()).collect(),
        };
        if self.random.happens(15) {
            self.damage(&mut frame);
        }
        if self.random.happens(2) {
            let to = self
                .random
                .one(&[[0xff; 6], mac(OUTSIDE), mac(INSIDE), [2, 0, 0, 0, 0, 7]]);
            frame[..6].copy_from_slice(&to);
        }
        (self.random.one(&[OUTSIDE, OUTSIDE, INSIDE, VETH]), frame)
    }

    fn service(&mut self) -> &'a Service {
        &self.services[self.random.below(self.services.len())]
    }

    fn client(&mut self, of: &Service) -> SocketAddr {
        let (host, port) = (
            1 + self.random.below(4) as u8,
            40_000 + self.random.below(self.ports) as u16,
        );
        match of.vip.is_ipv4() {
            true => SocketAddr::new([10, 7, 0, host].into(), port),
            false => SocketAddr::new([0x2001, 0xdb8, 7, 0, 0, 0, 0, u16::from(host)].into(), port),
        }
    }

    fn transport(&mut self, of: &Service) -> Transport {
        match of.is_tcp {
            true => Transport::Tcp {
                flags: self
                    .random
                    .one(&[SYN, SYN, SYN, ACK, ACK, FIN | ACK, RST, SYN | ACK, 0]),
            },
            false => Transport::Udp {
                checksum: self.random.happens(80),
            },
        }
    }

    fn request(&mut self) -> Frame {
        let service = self.service();
        let mut vip = service.vip;
        if self.random.happens(4) {
            vip.set_port(9);
        }
        if self.random.happens(4) && !service.backends.is_empty() {
            // Straight to a backend.
            vip = self.random.one(&service.backends);
        }
        Frame::new(self.client(service), vip, self.transport(service))
    }

    fn answer(&mut self) -> Frame {
        let service = self.service();
        let client = self.client(service);
        let real = match service.backends.len() {
            0 => service.vip,
            length => service.backends[self.random.below(length)],
        };
        Frame::new(real, client, self.transport(service))
    }

    /// The same with some of what may stand before and behind.
    fn dressed(&mut self, mut frame: Frame) -> Frame {
        frame.hops = self
            .random
            .one(&[64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 255, 2, 1, 0]);
        frame.from[5] = self.random.one(&[0xc1, 0xc2]);
        frame.payload.truncate(self.random.below(30));
        if self.random.happens(30) {
            frame.tags = vec![[0x88, 0xa8, 0, 1], [0x81, 0, 0, 2], [0x81, 0, 0, 3]];
            frame.tags.truncate(1 + self.random.below(3));
        }
        if self.random.happens(30) {
            frame.options = vec![1; 4 * self.random.below(11)];
            for _ in 0..self.random.below(8) {
                let kind = self
                    .random
                    .one(&[HOP_BY_HOP, ROUTING, DESTINATION, FRAGMENT, AUTHENTICATION]);
                let mut bytes = vec![0; 8];
                if kind == FRAGMENT {
                    bytes[3] = self.random.one(&[0, 0, 1, 8]);
                } else if kind == AUTHENTICATION {
                    bytes = vec![0; 24];
                    bytes[1] = 4;
                } else if kind == ROUTING && self.random.happens(20) {
                    bytes[3] = 1;
                } else if self.random.happens(20) {
                    bytes = vec![0; 24];
                    bytes[1] = 2;
                }
                frame.extensions.push((kind, bytes));
            }
        }
        if self.random.happens(10) {
            frame.padding = vec![0; self.random.below(20)];
        }
        frame
    }

    fn fragment(&mut self) -> Vec<u8> {
        let whole = if self.random.happens(70) {
            self.request()
        } else {
            self.answer()
        };
        let pieces = fragments(&whole.payload(&[7; 60]), 32, self.random.below(4) as u16);
        pieces[self.random.below(pieces.len())].clone()
    }

    /// An error about something that the service or a client sent.
    fn icmp_error(&mut self) -> Vec<u8> {
        let (mut sent, to_client) = (self.request(), self.random.happens(50));
        if to_client {
            // What the service sent.
            std::mem::swap(&mut sent.source, &mut sent.destination);
        } else {
            sent = self.answer();
            std::mem::swap(&mut sent.source, &mut sent.destination);
        }
        if self.random.happens(30) {
            sent = self.dressed(sent);
            sent.tags.clear();
        }
        let quoted = sent.bytes();
        let quoted = &quoted[IP..];
        let quoted = match self.random.happens(30) {
            true => &quoted[..self.random.below(quoted.len() + 1)],
            false => quoted,
        };
        // An ICMP message has its eight bytes where UDP has its header.
        let mut source = sent.destination;
        if self.random.happens(10) {
            source.set_ip(sent.source.ip());
        }
        let carrier = Frame::new(source, sent.source, Transport::Udp { checksum: true });
        let mut carrier = Frame {
            hops: self.random.one(&[64, 64, 64, 1]),
            ..carrier.payload(quoted)
        };
        if self.random.happens(30) {
            carrier.options = vec![1; 4 * self.random.below(11)];
        }
        let mut frame = carrier.bytes();
        let message = frame.len() - quoted.len() - 8;
        let is_v4 = carrier.source.is_ipv4();
        frame[if is_v4 { IP + 9 } else { IP + 6 }] = if is_v4 { 1 } else { 58 };
        let kinds: [u8; 4] = if is_v4 { [3, 11, 12, 8] } else { [1, 2, 3, 128] };
        frame[message] = self.random.one(&kinds);
        frame[message + 1] = self.random.byte();
        if is_v4 {
            seal_ipv4(&mut frame);
        }
        frame
    }

    /// Changes, removes or adds some bytes, nearly all of them in headers.
    fn damage(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..=self.random.below(3) {
            let at = 12 + self.random.below(frame.len().min(110) - 12);
            match self.random.below(8) {
                0..4 => frame[at] = self.random.byte(),
                4 => frame[at] ^= 1 << self.random.below(8),
                5 => frame.truncate(at.max(IP)),
                6 => frame.insert(at, self.random.byte()),
                _ => {
                    let from = self.random.below(frame.len());
                    let piece: Vec<u8> = frame[from..].iter().copied().take(16).collect();
                    frame.splice(at..at, piece);
                }
            }
        }
    }
}
