//! A balancer on the host: tables, what they are configured with, and the packet path, run on one frame at a time.

use std::net::SocketAddr;

use lvx_test_kit::{
    frame::{Frame, assert_same},
    network::{INSIDE, OUTSIDE, VETH},
};
use xdp_common::{
    host::Tables,
    layout::{
        BackendCounters, ClientId, ClientKeys, Connections, Control, FlowEntry, Hop, HostMac, MAX_INTERFACES, OWN_MACS,
        Sizes,
    },
    path::outcome::action,
    tcp_state::State,
    verdict::Verdict,
};

use crate::{
    configuration::{HERTZ, Service},
    image::{self, slot, wide},
};

/// What the packet path decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Drop,
    Pass,
    /// Out of the interface that the frame came in by.
    Tx,
    /// Out of another one.
    Redirect,
}

/// CPUs that count.
pub const CPUS: u32 = 3;

/// The keys of clients' numbers.
const KEYS: ClientKeys = ClientKeys::new([
    0x0123_4567_89ab_cdef,
    0x9e37_79b9_7f4a_7c15,
    0xd6e8_feb8_6659_fd93,
    0xc2b2_ae3d_27d4_eb4f,
    0xff51_afd7_ed55_8ccd,
    0xc4ce_b9fe_1a85_ec53,
]);

/// What time it is when a balancer is new, jiffies.
const START: u64 = 0x1_0000_0000;

pub struct Balancer {
    pub tables: Tables,
    pub services: Vec<Service>,
    /// The CPU that packets come in on.
    pub cpu: u32,
    /// Jiffies.
    now: u64,
}

/// A flow as the tables tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub backend: u32,
    pub state: State,
    pub hop: Hop,
    /// Where it stands: its bucket and the slot there.
    pub at: (usize, usize),
}

impl Balancer {
    /// With these services.
    pub fn new(services: &[Service]) -> Self {
        Self::sized(Sizes::new(16, 64, 4096, 4096), services)
    }

    pub fn sized(sizes: Sizes, services: &[Service]) -> Self {
        let mut tables = Tables::new(sizes, CPUS);
        for bank in 0..2 {
            tables.set_segment(bank, Box::new([]));
        }
        tables.set_jiffies(START);
        let control = Control {
            mode: 0,
            tick: (HERTZ / 4).next_power_of_two().ilog2(),
            hertz: HERTZ,
            keys: KEYS,
            unknown_fragments: 0,
            highest: 0,
            own_macs: [HostMac::NONE; OWN_MACS],
        };
        tables.control.write(0, control);
        for ifindex in [OUTSIDE, INSIDE, VETH] {
            image::interface(&tables, ifindex, slot(ifindex));
        }
        let mut balancer = Self {
            tables,
            services: services.to_vec(),
            cpu: 1,
            now: START,
        };
        balancer.apply();
        balancer
    }

    /// Writes what the services are now into the bank that is not in use, and switches to it.
    pub fn apply(&mut self) {
        let mut control = self.tables.control.read(0);
        let bank = 1 - control.bank();
        let any_ports = control.unknown_fragments != 0;
        let answers = image::write(&mut self.tables, bank, &self.services, any_ports);
        control.mode = u64::from(bank) | if answers { Control::ANSWERS } else { 0 };
        self.tables.control.write(0, control);
    }

    /// Changes settings.
    pub fn control(&mut self, change: impl FnOnce(&mut Control)) {
        let mut control = self.tables.control.read(0);
        change(&mut control);
        self.tables.control.write(0, control);
    }

    /// Lets seconds pass.
    pub fn wait(&mut self, seconds: u64) {
        self.now += seconds * u64::from(HERTZ);
        self.tables.set_jiffies(self.now);
    }

    /// Runs a frame that comes in by an interface: what is decided, and what the frame is then.
    #[track_caller]
    pub fn run(&self, ingress: u32, frame: &[u8]) -> (Action, Vec<u8>) {
        let mut after = frame.to_vec();
        let action = match self.tables.run(self.cpu, ingress, &mut after) {
            action::DROP => Action::Drop,
            action::PASS => Action::Pass,
            action::TX => Action::Tx,
            action::REDIRECT => Action::Redirect,
            other => panic!("action {other}"),
        };
        (action, after)
    }

    /// The same, and what was counted.
    #[track_caller]
    pub fn judge(&self, ingress: u32, frame: &[u8]) -> (Action, Vec<u8>, Vec<Verdict>) {
        let slot = slot(ingress);
        let before = self.verdicts(slot);
        let (action, after) = self.run(ingress, frame);
        let now = self.verdicts(slot);
        let counted = Verdict::ALL.into_iter().zip(before.into_iter().zip(now));
        let counted = counted.flat_map(|(verdict, (before, now))| vec![verdict; (now - before) as usize]);
        (action, after, counted.collect())
    }

    /// A frame that is forwarded, and what it must look like then.
    #[track_caller]
    pub fn forwards(&self, ingress: u32, frame: &[u8], expected: &[u8], action: Action) {
        let (decided, after, counted) = self.judge(ingress, frame);
        assert_eq!((decided, counted), (action, vec![]), "{frame:02x?}");
        assert_same(&after, expected);
    }

    /// A frame that is passed to the kernel as it came.
    #[track_caller]
    pub fn passes(&self, ingress: u32, frame: &[u8], verdict: Verdict) {
        let (action, after, counted) = self.judge(ingress, frame);
        assert_eq!((action, counted), (Action::Pass, vec![verdict]), "{frame:02x?}");
        assert_same(&after, frame);
    }

    #[track_caller]
    pub fn drops(&self, ingress: u32, frame: &Frame, verdict: Verdict) {
        let (action, _, counted) = self.judge(ingress, &frame.bytes());
        assert_eq!((action, counted), (Action::Drop, vec![verdict]));
    }

    /// The host number of the backend that a client's frame is forwarded to.
    #[track_caller]
    pub fn host(&self, frame: &Frame) -> u8 {
        let (action, after, counted) = self.judge(OUTSIDE, &frame.bytes());
        assert!(
            matches!(action, Action::Tx | Action::Redirect),
            "{action:?} {counted:?}"
        );
        after[5]
    }

    /// What this CPU has counted on the interface in a slot.
    pub fn verdicts(&self, slot: u32) -> [u64; xdp_common::layout::VERDICTS] {
        let row = self.cpu * MAX_INTERFACES + slot;
        self.tables.verdict_counters.read(row as usize)
    }

    /// What a CPU has counted for a backend.
    pub fn counters(&self, cpu: u32, backend: u32) -> BackendCounters {
        let place = cpu * (self.tables.sizes().backends + 1) + backend;
        self.tables.backend_counters.read(place as usize)
    }

    /// Active and inactive connections that packets have counted for a backend, and whether it is overloaded.
    pub fn load(&self, backend: u32) -> (u32, u32, bool) {
        let Connections { word, overloaded } = self.tables.connections.read(backend as usize);
        (Connections::active(word), Connections::inactive(word), overloaded != 0)
    }

    /// The number of a client, and whether it is one over IPv6.
    pub fn client(&self, client: SocketAddr) -> ClientId {
        let [high, low] = wide(client.ip());
        match client.is_ipv4() {
            true => ClientId::v4(high as u32, client.port().to_be(), &KEYS),
            false => ClientId::v6([high, low], client.port().to_be(), &KEYS),
        }
    }

    /// The number of the bucket of a client's flows.
    pub fn bucket(&self, client: SocketAddr) -> usize {
        self.client(client).bucket(self.mask(client)) as usize
    }

    fn mask(&self, client: SocketAddr) -> u32 {
        let sizes = self.tables.sizes();
        let buckets = if client.is_ipv4() {
            sizes.buckets_v4()
        } else {
            sizes.buckets_v6()
        };
        buckets - 1
    }

    /// The flows of a client, its template (whose port is the number of the group) apart.
    pub fn flows(&self, client: SocketAddr) -> Vec<Known> {
        let (number, mask, bucket) = (self.client(client), self.mask(client), self.bucket(client));
        let (flows, hops) = match client.is_ipv4() {
            true => (self.tables.flows_v4.read(bucket), self.tables.hops_v4.read(bucket)),
            false => (self.tables.flows_v6.read(bucket), self.tables.hops_v6.read(bucket)),
        };
        let found = (0..)
            .zip(flows)
            .filter(|(_, flow)| *flow != FlowEntry::FREE && flow.is_of(number, mask));
        found
            .map(|(slot, flow)| Known {
                backend: flow.backend(mask),
                state: flow.state(),
                hop: hops[slot],
                at: (bucket, slot),
            })
            .collect()
    }

    /// The only flow of a client.
    #[track_caller]
    pub fn flow(&self, client: SocketAddr) -> Known {
        match self.flows(client)[..] {
            [flow] => flow,
            ref flows => panic!("{client} has not one flow: {flows:?}"),
        }
    }

    /// All flows that there are, templates among them.
    pub fn count_flows(&self) -> usize {
        let tables = [&self.tables.flows_v4, &self.tables.flows_v6];
        let flows = tables
            .into_iter()
            .flat_map(|table| (0..table.len()).flat_map(|bucket| table.read(bucket)));
        flows.filter(|flow| *flow != FlowEntry::FREE).count()
    }
}
