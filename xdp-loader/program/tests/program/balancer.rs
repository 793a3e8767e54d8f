//! A balancer without a network: tables, what is desired, and the program, run on one frame at a time.
//!
//! The benches' harness (`xdp-loader/bench/src/harness.rs`) loads the program too, but to time the many packets that a
//! wrapper makes. The two share the call that opens the tables.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::Duration,
};

use aya::{TestRun as _, TestRunOptions, programs::Xdp};
use lvx_dataplane::{Node, Sizes, Tables, census::Census, counters, flow::Flow, flows, rules::Rules};
use lvx_model as model;
use lvx_model::{
    Backend, BackendChange, Desired, Forward, OnNone, Scheduler, ServiceAddress, ServiceChange,
    health::{BackendHealth, HealthView, State as Health},
};
use lvx_netlink::{LinkTable, NextHopError, NextHops};
use lvx_test_kit::{
    frame::{Frame, assert_checksums, assert_same},
    network::{INSIDE, OUTSIDE, VETH},
};
use xdp_common::{
    layout::{BackendCounters, Connections, Control, Service},
    tcp_state::State,
    verdict::Verdict,
};

use crate::{lent::Lent, network};

/// What the program decides (`enum xdp_action` of the kernel's `bpf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Aborted,
    Drop,
    Pass,
    /// Out of the interface that the frame came in by.
    Tx,
    /// Out of another one.
    Redirect,
}

/// Tables that know the interfaces.
fn open(pins: Option<&Path>, sizes: Sizes, node: Node) -> Tables {
    let mut tables = Tables::open(lvx_program::LVX, pins, sizes, node).unwrap();
    for ifindex in [OUTSIDE, INSIDE, VETH] {
        tables.interface(ifindex).unwrap();
    }
    tables
}

/// Room for what most tests need.
pub fn sizes() -> Sizes {
    Sizes::new(16, 64, 4096, 4096)
}

pub struct Balancer {
    pub tables: Lent,
    pub desired: Desired,
    pub hops: NextHops,
    pub health: HealthView,
    pub links: LinkTable,
}

impl Balancer {
    /// Without a service or a flow, in a network namespace of its own.
    pub fn new() -> Self {
        let (tables, links) = Lent::new(|| open(None, sizes(), Node::default()));
        Self::over(tables, links)
    }

    /// With a service and its backends, all with their default weights.
    pub fn serving(service: &str, forward: Forward, scheduler: Scheduler, backends: &[&str]) -> Self {
        let mut balancer = Self::new();
        balancer.add(service, forward, scheduler, backends);
        balancer.apply();
        balancer
    }

    /// With tables that no other test uses, in the network namespace of this thread.
    pub fn with(pins: Option<&Path>, sizes: Sizes, links: LinkTable) -> Self {
        Self::over(Lent::Own(Box::new(open(pins, sizes, Node::default()))), links)
    }

    /// With tables of its own and these settings of the node, in a new network namespace.
    pub fn on(sizes: Sizes, node: Node) -> Self {
        let links = network::enter();
        Self::over(Lent::Own(Box::new(open(None, sizes, node))), links)
    }

    fn over(tables: Lent, links: LinkTable) -> Self {
        Self {
            tables,
            desired: Desired::default(),
            hops: NextHops::default(),
            health: HealthView::default(),
            links,
        }
    }

    /// Desires one more service.
    pub fn add(&mut self, service: &str, forward: Forward, scheduler: Scheduler, backends: &[&str]) {
        let mut wanted = model::Service::new(address(service));
        wanted.forward = forward;
        wanted.scheduler = scheduler;
        wanted.mh_slots = 251;
        // What rejects has tests of its own.
        wanted.on_none = OnNone::Drop;
        wanted.backends = backends.iter().map(|name| backend(name)).collect();
        self.desired.add_service(wanted).unwrap();
        self.resolve();
    }

    /// Desires one more backend.
    pub fn add_backend(&mut self, service: &str, name: &str) {
        self.desired.add_backend(address(service), backend(name)).unwrap();
        self.resolve();
    }

    pub fn del_backend(&mut self, service: &str, name: &str) {
        self.desired
            .del_backend(address(service), name.parse().unwrap())
            .unwrap();
    }

    pub fn drain(&mut self, service: &str, name: &str) {
        self.desired
            .drain(address(service), name.parse().unwrap(), true)
            .unwrap();
    }

    pub fn weigh(&mut self, service: &str, name: &str, weight: i64) {
        let change = BackendChange {
            weight: Some(weight),
            ..BackendChange::default()
        };
        self.set_backend(service, name, &change);
    }

    pub fn schedule(&mut self, service: &str, scheduler: Scheduler) {
        let change = ServiceChange {
            scheduler: Some(scheduler),
            ..ServiceChange::default()
        };
        self.set(service, &change);
    }

    /// Desires something else of a service.
    pub fn set(&mut self, service: &str, change: &ServiceChange) {
        self.desired.set_service(address(service), change).unwrap();
    }

    /// Desires something else of a backend.
    pub fn set_backend(&mut self, service: &str, name: &str, change: &BackendChange) {
        self.desired
            .set_backend(address(service), name.parse().unwrap(), change)
            .unwrap();
    }

    /// What probes say of a backend, named as in `10.0.1.11:8080`, from now on: up or down.
    pub fn is_up(&mut self, service: &str, name: &str, up: bool) {
        let name: SocketAddr = name.parse().unwrap();
        let health = BackendHealth {
            takes_new: up,
            share: 100,
            weight: None,
            state: if up { Health::Up } else { Health::Down },
        };
        let of_service = self.health.0.entry(address(service)).or_default();
        Arc::make_mut(of_service).insert((name.ip(), name.port()), health);
    }

    /// Makes the next hop of a backend unknown.
    pub fn lose(&mut self, backend: &str) {
        let target: IpAddr = backend.parse().unwrap();
        self.hops.0.insert(target, Err(NextHopError::InterfaceGone { target }));
    }

    /// Makes the next hops of all backends known.
    fn resolve(&mut self) {
        for service in self.desired.services().values() {
            for backend in &service.backends {
                let hop = network::next_hop(backend.address);
                self.hops.0.entry(backend.address).or_insert(Ok(hop));
            }
        }
    }

    pub fn apply(&mut self) {
        self.tables
            .apply(&self.desired, &self.hops, &self.health, &self.links)
            .unwrap();
    }

    /// Runs the program on a frame that comes in by an interface: what it decides, and what the frame is then.
    #[track_caller]
    pub fn run(&mut self, ingress: u32, frame: &[u8]) -> (Action, Vec<u8>) {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, ingress, 0, 0].map(u32::to_ne_bytes).concat();
        let mut after = vec![0; frame.len() + 256];
        let program: &mut Xdp = self.tables.ebpf().program_mut("lvx").unwrap().try_into().unwrap();
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut after),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .unwrap();
        after.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            0 => Action::Aborted,
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Tx,
            4 => Action::Redirect,
            other => panic!("the program returned {other}"),
        };
        (action, after)
    }

    /// Runs the program on a frame; says what it decided, what the frame is then and what was counted.
    #[track_caller]
    pub fn judge(&mut self, ingress: u32, frame: &[u8]) -> (Action, Vec<u8>, Vec<Verdict>) {
        let before = self.verdicts(ingress);
        let (action, after) = self.run(ingress, frame);
        let now = self.verdicts(ingress);
        let counted = before
            .iter()
            .zip(now)
            .flat_map(|((verdict, before), (_, now))| vec![*verdict; (now - before) as usize])
            .collect();
        (action, after, counted)
    }

    /// A frame that is forwarded, and what it must look like then.
    #[track_caller]
    pub fn forwards(&mut self, ingress: u32, frame: &Frame, expected: &Frame, action: Action) {
        let expected = expected.bytes();
        assert_checksums(&expected);
        let (decided, after, counted) = self.judge(ingress, &frame.bytes());
        assert_eq!((decided, counted), (action, vec![]));
        assert_same(&after, &expected);
    }

    /// A frame that is passed to the kernel as it came.
    #[track_caller]
    pub fn passes(&mut self, ingress: u32, frame: &[u8], verdict: Verdict) {
        let (action, after, counted) = self.judge(ingress, frame);
        assert_eq!((action, counted), (Action::Pass, vec![verdict]), "{frame:02x?}");
        assert_same(&after, frame);
    }

    #[track_caller]
    pub fn drops(&mut self, ingress: u32, frame: &Frame, verdict: Verdict) {
        let (action, _, counted) = self.judge(ingress, &frame.bytes());
        assert_eq!((action, counted), (Action::Drop, vec![verdict]));
    }

    /// The host number of the backend that a frame from the outside is forwarded to.
    #[track_caller]
    pub fn host(&mut self, frame: &Frame) -> u8 {
        let (action, after, counted) = self.judge(OUTSIDE, &frame.bytes());
        assert!(
            matches!(action, Action::Tx | Action::Redirect),
            "{action:?} {counted:?}"
        );
        after[5]
    }

    /// The network and the host number of the backend that a frame from the outside is forwarded to, if it is.
    #[track_caller]
    pub fn chosen(&mut self, frame: &Frame) -> Option<[u8; 2]> {
        let (action, after) = self.run(OUTSIDE, &frame.bytes());
        match action {
            Action::Tx | Action::Redirect => Some([after[4], after[5]]),
            Action::Drop => None,
            other => panic!("{other:?}"),
        }
    }

    pub fn verdicts(&self, ifindex: u32) -> Vec<(Verdict, u64)> {
        let slot = self.tables.slot_of(ifindex).unwrap();
        counters::verdicts(self.tables.maps(), slot).unwrap()
    }

    /// What has been counted for a backend, named as in `10.0.1.11:8080`.
    pub fn counters(&self, service: &str, backend: &str) -> BackendCounters {
        let number = self.backend_number(service, backend);
        counters::backends(self.tables.maps(), [number]).unwrap()[&number]
    }

    pub fn backend_number(&self, service: &str, backend: &str) -> u32 {
        let backend: SocketAddr = backend.parse().unwrap();
        let key = (address(service), backend.ip(), backend.port());
        self.tables.ids().backends.get(&key).unwrap()
    }

    pub fn service_number(&self, service: &str) -> u32 {
        self.tables.ids().services.get(&address(service)).unwrap()
    }

    /// A service's entry in the bank that packets use.
    pub fn service_entry(&self, service: &str) -> Service {
        let bank = self.control().bank();
        let place = self.service_number(service) << 1 | bank;
        self.tables.maps().services.whole().unwrap().read(place as usize)
    }

    pub fn control(&self) -> Control {
        self.tables.maps().control().read(0)
    }

    /// What packets have counted for a backend: active and inactive connections, and whether it is overloaded.
    pub fn load(&self, service: &str, backend: &str) -> (u32, u32, bool) {
        let number = self.backend_number(service, backend);
        let counted = self.tables.maps().connections.whole().unwrap().read(number as usize);
        (
            Connections::active(counted.word),
            Connections::inactive(counted.word),
            counted.overloaded != 0,
        )
    }

    /// Sets the idle timeout of the node for a state, in jiffies, from now to the next change.
    pub fn set_idle_timeout(&mut self, state: State, jiffies: u32) {
        let place = self.control().bank() as usize;
        let timeouts = self.tables.maps().timeouts.whole().unwrap();
        let mut idle = timeouts.read(place);
        idle[state as usize] = jiffies;
        timeouts.write(place, &idle);
    }

    /// Makes all idle timeouts of the node that of established flows, from now to the next change: longer than a test
    /// takes, however slow the machine is.
    pub fn lengthen_idle_timeouts(&mut self) {
        let place = self.control().bank() as usize;
        let timeouts = self.tables.maps().timeouts.whole().unwrap();
        let idle = timeouts.read(place);
        timeouts.write(place, &idle.map(|_| idle[State::Established as usize]));
    }

    /// Notes time by the jiffy, and makes no idle timeout longer than a thousand of them, from now to the next change.
    /// Flows that have begun before are not to be asked about.
    pub fn pace(&mut self) {
        const LONGEST: u32 = 1000;
        self.control_set(|control| control.tick = 0);
        let timeouts = self.tables.maps().timeouts.whole().unwrap();
        for place in 0..timeouts.len() {
            timeouts.write(place, &timeouts.read(place).map(|idle| idle.min(LONGEST)));
        }
    }

    /// Changes seeds and their like.
    pub fn control_set(&mut self, change: impl FnOnce(&mut Control)) {
        let mut control = self.control();
        change(&mut control);
        self.tables.maps().control().write(0, &control);
    }

    pub fn flows(&self) -> BTreeMap<SocketAddr, Flow> {
        let mut found = BTreeMap::new();
        flows::list(self.tables.maps(), |flow| {
            found.insert(SocketAddr::new(flow.client, flow.port), flow);
            ControlFlow::Continue(())
        })
        .unwrap();
        found
    }

    /// How many flows there are: a client may have several.
    pub fn count_flows(&self) -> usize {
        let mut count = 0;
        flows::list(self.tables.maps(), |_| {
            count += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        count
    }

    /// The state of a client's flow, if there is one.
    pub fn state(&self, client: SocketAddr) -> Option<State> {
        self.flows().get(&client).map(|flow| flow.state)
    }

    /// Forgets the flows of what is gone, and those that have expired.
    pub fn sweep(&mut self) -> Census {
        self.sweep_after(Duration::ZERO)
    }

    /// The same, as if so much time had passed.
    pub fn sweep_after(&mut self, time: Duration) -> Census {
        let gone = self.tables.gone();
        let clock = self.tables.clock();
        let now = clock.now() + u64::from(clock.jiffies_in(time));
        let highest = self.tables.ids().backends.highest();
        let rules = Rules::read(self.tables.maps(), self.control().bank(), highest).unwrap();
        let census = flows::sweep(self.tables.maps(), now, &rules, &gone).unwrap();
        self.tables.swept(gone, &census).unwrap();
        census
    }
}

pub fn address(service: &str) -> ServiceAddress {
    service.parse().unwrap()
}

fn backend(name: &str) -> Backend {
    Backend::new(name.parse().unwrap())
}
