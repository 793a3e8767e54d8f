//! Writes a configuration into the tables of the host, as the daemon writes it into the kernel's maps.

use std::net::IpAddr;

use lvx_test_kit::network::{HOST, OUTSIDE, VETH, backend_mac, behind, mac};
use xdp_common::{
    checksum, hash,
    host::Tables,
    layout::{
        self, BANKS, BucketV4, BucketV6, CHUNK, Chunk, ChunkIndex, EndpointV4, EndpointV6, HostMac, Interface,
        InterfaceSlot, MEMBERS_PER_CHUNK, Member, Method, REACH, SLOTS_PER_CHUNK, Target, VIA_DEVMAP, any_port,
        port_protocol,
    },
    wire::Be16,
};

use crate::configuration::{Backend, HERTZ, Service};

/// The slot of an interface.
pub fn slot(ifindex: u32) -> u32 {
    ifindex - OUTSIDE + 1
}

/// The words of an address in the order of the wire; IPv4 in the first four bytes.
pub fn wide(address: IpAddr) -> [u64; 2] {
    let mut octets = [0; 16];
    match address {
        IpAddr::V4(address) => octets[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => octets.copy_from_slice(&address.octets()),
    }
    let [high, low] = [0, 8].map(|at| u64::from_ne_bytes(std::array::from_fn(|byte| octets[at + byte])));
    [high, low]
}

/// A MAC as frames carry it.
pub fn wire_mac(mac: [u8; 6]) -> [Be16; 3] {
    checksum::words::<6, 3>(mac).map(Be16)
}

/// The words of an address and, with it, a port, as checksums sum them.
fn sum(address: IpAddr, port: Option<u16>) -> Vec<u16> {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let words = octets.chunks(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
    words.chain(port.map(u16::to_be)).collect()
}

/// The index of an interface as packets compare it with the one that they came in by.
fn wire_index(ifindex: u32) -> u32 {
    if ifindex == VETH { VIA_DEVMAP } else { ifindex }
}

/// Writes a bank for services with the numbers 1, 2, ... and their backends, numbered through all services; says whether there
/// is a NAT backend.
pub fn write(tables: &mut Tables, bank: u32, services: &[Service], any_ports: bool) -> bool {
    let place = |number: u32| (number << 1 | bank) as usize;
    let mut endpoints = Endpoints::new(tables.sizes().endpoint_buckets());
    let mut table = Vec::new();
    let mut number = 0;
    let mut answers = false;
    for (service_number, service) in (1..).zip(services) {
        let port = port_protocol(service.vip.port().to_be(), service.protocol);
        endpoints.put(service.vip.ip(), port, Target(service_number));
        if any_ports {
            endpoints.put(service.vip.ip(), any_port(service.protocol), Target(service_number));
        }
        let idle = service.timeouts.map(|seconds| seconds * HERTZ);
        // There are 256 sets: of more services some share one.
        tables.timeouts.write(place(service_number & 0xff), idle);
        let first = number + 1;
        let mut members = Vec::new();
        for backend in &service.backends {
            number += 1;
            if backend.method == Method::NAT {
                answers = true;
                let port = port_protocol(backend.address.port().to_be(), service.protocol);
                endpoints.put(backend.address.ip(), port, Target::REAL);
            }
            tables
                .backends
                .write(place(number), entry(service, service_number, backend));
            tables.limits.write(place(number), backend.limit);
            let weight = if backend.takes_new() { backend.weight } else { 0 };
            members.push(Member::new(number, weight, u8::from(backend.limit.upper > 0)));
        }
        if service.measure.heaviest != 0 {
            members.sort_by_key(|member| std::cmp::Reverse(member.weight()));
        }
        let ring = service.ring();
        let at = ChunkIndex::new(bank, table.len() as u32);
        table.extend(
            members
                .chunks(MEMBERS_PER_CHUNK as usize)
                .map(|members| chunk(members, |it| it.0.to_ne_bytes())),
        );
        let ring_at = ChunkIndex::new(bank, table.len() as u32);
        table.extend(
            ring.chunks(SLOTS_PER_CHUNK as usize)
                .map(|slots| chunk(slots, u16::to_ne_bytes)),
        );
        let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
        let entry = layout::Service {
            scheduler: service.scheduler as u8,
            flags: flag(layout::Service::ONE_PACKET, service.one_packet)
                | flag(layout::Service::PERSISTENT, service.persistence.is_some()),
            overload: service.overload as u8,
            prefix: service.persistence.unwrap_or(0),
            slots: ring.len() as u32,
            members: at,
            ring: ring_at,
            seed: service.seed(),
            fingerprint: 0,
            members_length: members.len() as u32,
            group: if service.group == 0 {
                service_number
            } else {
                service.group
            },
            mark: 0,
            sorry: service.sorry.map_or(0, |place| first + place as u32),
            measure: service.measure,
            room: Default::default(),
        };
        tables.services.write(place(service_number), entry);
    }
    tables.set_segment(bank as usize, table.into());
    for (bucket, (v4, v6)) in endpoints.v4.iter().zip(&endpoints.v6).enumerate() {
        let place = bucket * BANKS as usize + bank as usize;
        tables.endpoints_v4.write(place, *v4);
        tables.endpoints_v6.write(place, *v6);
    }
    answers
}

/// A backend's entry.
fn entry(service: &Service, number: u32, backend: &Backend) -> layout::Backend {
    let (vip, real) = (service.vip, backend.address);
    let ifindex = behind(real.ip());
    let flags = [
        (layout::Backend::IPV6, vip.is_ipv6()),
        (layout::Backend::QUIESCED, !backend.takes_new()),
        (layout::Backend::COUNTED, service.counts()),
        (layout::Backend::PERSISTENT, service.persistence.is_some()),
        (layout::Backend::LIMITED, backend.limit.upper > 0),
    ];
    let flags = flags
        .iter()
        .filter(|(_, is_set)| *is_set)
        .fold(backend.flags, |all, (flag, _)| all | flag);
    let [[a, b, c], [d, e, f]] = [backend_mac(real.ip()), mac(ifindex)].map(wire_mac);
    layout::Backend {
        address: wide(real.ip()),
        vip: wide(vip.ip()),
        macs: [a, b, c, d, e, f],
        ifindex: if backend.is_reached { wire_index(ifindex) } else { 0 },
        port: Be16::new(real.port()),
        vport: Be16::new(vip.port()),
        method: backend.method,
        protocol: service.protocol,
        interface: slot(ifindex) as u16,
        address_delta: checksum::delta(&sum(vip.ip(), None), &sum(real.ip(), None)),
        endpoint_delta: checksum::delta(&sum(vip.ip(), Some(vip.port())), &sum(real.ip(), Some(real.port()))),
        service: number as u16,
        flags: layout::Backend::flags(flags, number as u8),
    }
}

/// Some numbers as the bytes of a chunk.
fn chunk<T: Copy, const SIZE: usize>(numbers: &[T], bytes: impl Fn(T) -> [u8; SIZE]) -> Chunk {
    let mut chunk = [0; CHUNK];
    for (place, number) in chunk.chunks_exact_mut(SIZE).zip(numbers) {
        place.copy_from_slice(&bytes(*number));
    }
    Chunk(chunk)
}

/// Makes an interface known in both banks.
pub fn interface(tables: &Tables, ifindex: u32, slot: u32) {
    let bucket = hash::interface(ifindex) as usize;
    let mut slots = tables.interface_slots.read(bucket);
    let free = slots.iter_mut().find(|entry| **entry == InterfaceSlot::NONE).unwrap();
    *free = InterfaceSlot::new(ifindex, slot);
    tables.interface_slots.write(bucket, slots);
    for bank in 0..BANKS {
        for mac in [HOST, mac(ifindex)] {
            let host = HostMac {
                mac: HostMac::word_of(mac),
                ifindex: u64::from(ifindex),
            };
            let bucket = (hash::host_mac(host.mac, ifindex) << 1 | bank) as usize;
            let mut macs = tables.host_macs.read(bucket);
            *macs.iter_mut().find(|entry| entry.ifindex == 0).unwrap() = host;
            tables.host_macs.write(bucket, macs);
        }
        let interface = Interface {
            ifindex: wire_index(ifindex),
            mac: wire_mac(mac(ifindex)),
            reserved: [0; 3],
        };
        tables.interfaces.write((slot << 1 | bank) as usize, interface);
    }
}

/// The endpoint tables of a bank.
struct Endpoints {
    v4: Vec<BucketV4>,
    v6: Vec<BucketV6>,
}

impl Endpoints {
    fn new(buckets: u32) -> Self {
        Self {
            v4: vec![BucketV4::default(); buckets as usize],
            v6: vec![BucketV6::default(); buckets as usize],
        }
    }

    /// Enters what an address and port stand for, unless it is there already: in its bucket, or one of the next if that is full.
    fn put(&mut self, address: IpAddr, port_protocol: u32, target: Target) {
        let [high, low] = wide(address);
        if address.is_ipv4() {
            let key = EndpointV4::key(high as u32, port_protocol);
            let new = EndpointV4 {
                key,
                target,
                spilled: 0,
            };
            place(
                &mut self.v4,
                hash::endpoint_v4(key),
                |it| it.key == key,
                |it| it.key == 0,
                |it| it.spilled = 1,
                |it| {
                    *it = EndpointV4 {
                        spilled: it.spilled,
                        ..new
                    }
                },
            );
        } else {
            let new = EndpointV6 {
                address: [high, low],
                port_protocol,
                target,
                ..EndpointV6::default()
            };
            place(
                &mut self.v6,
                hash::endpoint_v6([high, low], port_protocol),
                |it| it.address == new.address && it.port_protocol == port_protocol,
                |it| it.port_protocol == 0,
                |it| it.spilled = 1,
                |it| {
                    *it = EndpointV6 {
                        spilled: it.spilled,
                        ..new
                    }
                },
            );
        }
    }
}

fn place<E, const SIZE: usize>(
    buckets: &mut [[E; SIZE]],
    hash: u32,
    is_same: impl Fn(&E) -> bool,
    is_free: impl Fn(&E) -> bool,
    spill: impl Fn(&mut E),
    write: impl Fn(&mut E),
) {
    let mask = buckets.len() - 1;
    for step in 0..REACH as usize {
        let bucket = &mut buckets[(hash as usize + step) & mask];
        if bucket.iter().any(&is_same) {
            return;
        }
        if let Some(free) = bucket.iter_mut().find(|it| is_free(it)) {
            write(free);
            for passed in 0..step {
                spill(&mut buckets[(hash as usize + passed) & mask][0]);
            }
            return;
        }
    }
    panic!("there are too many endpoints for the table");
}
