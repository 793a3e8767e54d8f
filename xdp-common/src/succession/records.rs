//! The agreement: questions and the records that answer them, the same in all versions.

use crate::wire::Be16;

/// Version of this agreement.
pub const ABI: u32 = 1;

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Topic {
    /// The dataplane as a whole: [`Facts`].
    Facts = 0,
    /// The backends from number `first` on: [`BackendRecord`]s.
    Backends = 1,
    /// What the CPU `cpu` has counted for the backends from number `first` on: [`CounterRecord`]s.
    Counters = 2,
    /// The services from number `first` on: [`ServiceRecord`]s.
    Services = 3,
    /// The interfaces in bucket `first` of the table of slots: [`InterfaceRecord`]s.
    Interfaces = 4,
    /// What the CPU `cpu` has counted on the interface in slot `first`: [`VerdictRecord`].
    Verdicts = 5,
    /// The IPv4 flows in bucket `first`: [`FlowRecord`]s.
    FlowsV4 = 6,
    /// The IPv6 flows in bucket `first`: [`FlowRecord`]s.
    FlowsV6 = 7,
}

/// What stands at the start of the frame that `lvx_tell` is run on: 24 bytes. The answer follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Question {
    /// [`ABI`]; 0 when the program has answered.
    pub abi: u32,
    /// [`Topic`].
    pub topic: u32,
    /// Where to begin.
    pub first: u32,
    /// Whose counters.
    pub cpu: u32,
    /// How many records the answer has.
    pub records: u32,
    /// Zero.
    pub reserved: u32,
}

/// Bytes of a record. All have this length but [`Facts`] and [`VerdictRecord`], of which an answer has one.
pub const RECORD: usize = 64;

/// Records in an answer, at most.
pub const RECORDS: usize = 8;

/// Bytes of the frame of a question and its answer.
pub const FRAME: usize = size_of::<Question>() + 1024;

/// The dataplane as a whole: 128 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Facts {
    /// Version of all that a flow's entry is: dataplanes with the same one may share their flow tables.
    pub flow_version: u32,
    /// Version of the counters' layouts.
    pub counter_version: u32,
    /// Buckets of the IPv4 flow table.
    pub buckets_v4: u32,
    /// Buckets of the IPv6 flow table.
    pub buckets_v6: u32,
    /// One more than the backends that there is room for.
    pub backends: u32,
    /// Jiffies per second.
    pub hertz: u32,
    /// The logarithm of the jiffies in the shortest unit of a flow's last-seen time.
    pub tick: u32,
    /// Zero.
    pub reserved: u32,
    /// What places flows; of meaning only for who has the same [`Facts::flow_version`].
    pub keys: [u64; 6],
    /// The highest number that a backend was ever given: flows may know it.
    pub highest: u64,
    /// Zero.
    pub room: [u64; 5],
}

/// A backend: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BackendRecord {
    /// Its number; 0 if there is none.
    pub number: u32,
    /// The number of its service.
    pub service: u32,
    /// Its address, as two words in the order of the wire; IPv4 in the first four bytes.
    pub address: [u64; 2],
    /// The service's address, likewise.
    pub vip: [u64; 2],
    /// Its port.
    pub port: Be16,
    /// The service's port.
    pub vport: Be16,
    /// IP protocol of the service.
    pub protocol: u8,
    /// 1 if its address is IPv6.
    pub address_v6: u8,
    /// 1 if the service's address is IPv6.
    pub vip_v6: u8,
    /// How packets reach it ([`crate::layout::Method`]).
    pub method: u8,
    /// Destination and source MAC of the frames to it, in the order of the wire; zero if its next hop is not known.
    pub macs: [Be16; 6],
    /// The slot of the interface that it is behind.
    pub interface: u16,
    /// Zero.
    pub reserved: u16,
}

/// What a CPU has counted for a backend: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CounterRecord {
    /// The backend's number; 0 if there is none.
    pub number: u32,
    /// Zero.
    pub reserved: u32,
    /// Packets from clients.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Flows begun.
    pub connections: u64,
    /// Zero.
    pub room: [u64; 2],
}

/// A service: 64 bytes. Its address stands with its backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceRecord {
    /// Its number.
    pub number: u32,
    /// The number under which its clients persist; 0 if there is no such service.
    pub group: u32,
    /// Its mark; 0 if it has none.
    pub mark: u32,
    /// Zero.
    pub reserved: u32,
    /// Zero.
    pub room: [u64; 6],
}

/// An interface: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InterfaceRecord {
    /// Its index; 0 if there is none.
    pub ifindex: u32,
    /// Its slot.
    pub slot: u32,
    /// Zero.
    pub room: [u64; 7],
}

/// What a CPU has counted on an interface: 1,024 bytes, by [`crate::verdict::Verdict`].
pub type VerdictRecord = [u64; 128];

/// A flow: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowRecord {
    /// The number of its backend; 0 if there is no flow.
    pub backend: u32,
    /// Its state ([`crate::tcp_state::State`]).
    pub state: u8,
    /// [`FlowRecord::UNCONFIRMED`] and [`FlowRecord::LEARNT`].
    pub marks: u8,
    /// The slot of the interface behind which its client's next hop is, if that is known.
    pub interface: u16,
    /// The client's address, as two words in the order of the wire; IPv4 in the first four bytes.
    pub address: [u64; 2],
    /// The client's port; of a template, the number of its group.
    pub port: Be16,
    /// The MAC of its client's next hop, in the order of the wire; zero if that is not known.
    pub mac: [Be16; 3],
    /// For how long it was idle, jiffies.
    pub idle: u64,
    /// Zero.
    pub room: [u64; 3],
}

impl FlowRecord {
    /// In `marks`: nothing has confirmed the flow yet.
    pub const UNCONFIRMED: u8 = 1;
    /// In `marks`: it was learnt from another node.
    pub const LEARNT: u8 = 2;
}

/// What `lvx_find` is asked and has found of a packet's flow: 32 bytes, one for each CPU, in a map that all dataplanes share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Found {
    /// Where to go on ([`successor`]): written by who asks.
    pub successor: u32,
    /// The number of the flow's backend; 0 if there is no flow.
    pub backend: u32,
    /// The flow's state ([`crate::tcp_state::State`]). That of a template: there is no flow, but the client persists with this
    /// backend.
    pub state: u32,
    /// Whether nothing has come of it for as long as a closed flow is remembered, 0 or 1: a SYN is then that of another. Always 0
    /// of versions before there was this word.
    pub quiet: u32,
    /// Zero.
    pub room: [u64; 2],
}

/// Where `lvx_find` goes on: places in its map `SUCCESSOR`.
pub mod successor {
    /// With an IPv4 packet.
    pub const V4: u32 = 0;
    /// With an IPv6 packet.
    pub const V6: u32 = 1;
    /// How many places there are.
    pub const PLACES: usize = 2;
}

const _: () = assert!(size_of::<Question>() == 24 && size_of::<Facts>() == 128 && size_of::<Found>() == 32);
const _: () = assert!(size_of::<BackendRecord>() == RECORD && size_of::<CounterRecord>() == RECORD);
const _: () = assert!(size_of::<ServiceRecord>() == RECORD && size_of::<InterfaceRecord>() == RECORD);
const _: () = assert!(size_of::<FlowRecord>() == RECORD && size_of::<VerdictRecord>() == 1024);
const _: () = assert!(RECORDS * RECORD <= 1024);
