//! Tables: the one writer of the configuration maps.

mod attached;
mod takeover;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::offset_of,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aya::{Ebpf, maps::Map};
use rand::RngCore as _;
use tracing::warn;
use xdp_common::layout::{self, BackendCounters, ClientKeys, Control, HostMac, Interface, OWN_MACS, Sizes};

use super::{
    Clock, Error, Maps,
    census::Census,
    counters, endpoints,
    flows::Gone,
    host_macs,
    ids::Ids,
    image::{self, Image, LeftOut, Node, Room, World},
    interfaces::Interfaces,
    losses,
    memory::grace_period,
    open::{self, Opened},
    pin::Pin,
    predecessor::Predecessor,
    program,
    recovery::Inheritance,
    rules::Rules,
    schedules::Schedules,
    succession::Succession,
    timeouts::TimeoutSets,
    words,
};
use lvx_model::{BackendKey, Desired, OnLoss, ServiceAddress, health::HealthView, settings::UnknownFragments};
use lvx_netlink::{LinkTable, NextHops};

/// How long an answer of the clock program is good for.
const CLOCK_HOLDS: Duration = Duration::from_secs(60);

/// The word of [`Control`] that selects the bank.
const MODE: usize = 0;
/// The word of [`Control`] that has the highest number of a backend.
const HIGHEST: usize = offset_of!(Control, highest) / size_of::<u64>();
/// The word of [`Control`] that says what becomes of unknown fragments.
const UNKNOWN_FRAGMENTS: usize = offset_of!(Control, unknown_fragments) / size_of::<u64>();

/// What readers of the maps need to know. It is taken after each change; nobody who has one waits for the next.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The numbers of backends.
    pub backends: Arc<BTreeMap<BackendKey, u32>>,
    /// What backends that are gone had counted for their services.
    pub departed: Arc<BTreeMap<ServiceAddress, BackendCounters>>,
    /// The slots of interfaces.
    pub interfaces: BTreeMap<u32, u32>,
    /// What a sweep must know of backends.
    pub rules: Arc<Rules>,
    /// The time of packets.
    pub clock: Clock,
    /// What of the desired state is not in the maps.
    pub left_out: Arc<LeftOut>,
}

/// The configuration maps and who has which number in them.
pub struct Tables {
    maps: Arc<Maps>,
    schedule_map: Map,
    egress: Map,
    ebpf: Ebpf,
    ids: Ids,
    schedules: Schedules,
    interfaces: Interfaces,
    clock: Clock,
    /// Whether packets may still be reading the bank that is not in use.
    draining: bool,
    /// What backends that are gone had counted for their services.
    departed: Arc<BTreeMap<ServiceAddress, BackendCounters>>,
    node: Node,
    /// Backends that are gone, but whose flows are to be dropped for as long as there are any.
    lingering: BTreeSet<BackendKey>,
    /// What the predecessor's entries of backends were, by number: some may be gone, and linger.
    inherited: BTreeMap<u32, layout::Backend>,
    rules: Arc<Rules>,
    endpoints: endpoints::Banks,
    /// [`Control::WAITING`] and [`Control::SUCCEEDING`], as they are now.
    phase: u64,
    succession: Succession,
    pins: Vec<Pin>,
    left_out: Arc<LeftOut>,
}

impl Tables {
    /// Loads the program with maps of its own, to take over from the dataplane that is pinned in `pins`, if there is one: its
    /// services, backends and interfaces keep their numbers. No packet comes to it before [`Self::take_over`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program or a map, or the pins cannot be made.
    pub fn open(object: &[u8], pins: Option<&Path>, sizes: Sizes, node: Node) -> Result<Self, Error> {
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| Error::Load(source.to_string()))? as u32;
        let mut succession = Succession::prepare(pins, cpus)?;
        let Opened {
            maps,
            schedules,
            egress,
            tail_calls,
            mut ebpf,
            shared,
            pins: held,
        } = open::open(object, succession.generation(), succession.predecessor(), sizes, cpus)?;
        let facts = succession.predecessor().map(|it| *it.facts());
        let clock = Clock::start(
            program::program(&mut ebpf, "lvx_clock")?,
            facts.map(|facts| facts.hertz),
        )?;
        // Flows that are gone on with stand where these keys have them stand.
        let keys = facts.filter(|_| shared.contains("FLOWS_V4")).map(|facts| facts.keys);
        initialise(&maps, &clock, keys);
        let inheritance = match succession.predecessor() {
            Some(predecessor) => Inheritance::of(predecessor, sizes, !shared.contains("FLOWS_V4"))?,
            None => Inheritance::none(sizes),
        };
        succession.introduce(&mut ebpf, tail_calls, shared, inheritance.keys, inheritance.groups)?;
        let mut tables = Self {
            maps: Arc::new(maps),
            schedule_map: schedules,
            egress,
            ebpf,
            ids: inheritance.ids,
            schedules: Schedules::default(),
            interfaces: Interfaces::default(),
            clock,
            draining: true,
            departed: Arc::default(),
            node,
            lingering: BTreeSet::new(),
            inherited: inheritance.backends,
            rules: Arc::default(),
            endpoints: endpoints::Banks::default(),
            phase: Control::WAITING,
            succession,
            pins: held,
            left_out: Arc::default(),
        };
        tables.keep_interfaces()?;
        if pins.is_none() {
            // Nobody comes before, and nothing is attached.
            tables.turn(0);
        }
        Ok(tables)
    }

    /// Has what the kernel fails to transmit counted, among the verdicts of the interface that it was to leave by, until this
    /// process ends.
    ///
    /// # Errors
    ///
    /// What is not counted, and why. All else goes on.
    pub fn count_losses(&mut self) -> Result<(), String> {
        losses::count(&mut self.ebpf, &self.egress, self.succession.predecessor())
    }

    /// The maps, for reading.
    #[must_use]
    pub fn maps(&self) -> &Arc<Maps> {
        &self.maps
    }

    /// The scheduling tables, by segment.
    #[must_use]
    pub fn schedules(&self) -> &Map {
        &self.schedule_map
    }

    /// The program and its companions.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The dataplane that this one takes over from, as long as it has not.
    #[must_use]
    pub fn predecessor(&self) -> Option<&Predecessor> {
        self.succession.predecessor()
    }

    /// The predecessor's maps that are gone on with.
    #[must_use]
    pub fn shared(&self) -> &BTreeSet<&'static str> {
        self.succession.shared()
    }

    /// The time of packets, asked for anew when the last answer is old: this process's clock and the ticks that packets
    /// count drift apart.
    pub fn clock(&mut self) -> Clock {
        if self.clock.age() > CLOCK_HOLDS {
            let asked = program::program(&mut self.ebpf, "lvx_clock")
                .and_then(|program| Ok(Clock::start(program, Some(self.clock.hertz()))?));
            match asked {
                Ok(clock) => self.clock = clock,
                Err(error) => warn!(%error, "the time of packets could not be asked for"),
            }
        }
        self.clock
    }

    /// Has the node's settings be these from the next [`Self::apply`] on.
    pub fn set_node(&mut self, node: Node) {
        self.node = node;
    }

    /// The numbers of services and backends.
    #[must_use]
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// What readers of the maps need to know, as it is now.
    #[must_use]
    pub fn snapshot(&mut self) -> Snapshot {
        Snapshot {
            backends: self.ids.backends.owners(),
            departed: Arc::clone(&self.departed),
            interfaces: self.interfaces.iter().collect(),
            rules: Arc::clone(&self.rules),
            clock: self.clock(),
            left_out: Arc::clone(&self.left_out),
        }
    }

    /// The slot of an interface; a new one if it has none.
    ///
    /// # Errors
    ///
    /// If there are too many interfaces, or the kernel does not know this one.
    pub fn interface(&mut self, ifindex: u32) -> Result<u32, Error> {
        let slots = self.maps.interface_slots.whole()?;
        self.interfaces.give(ifindex, &slots, &mut self.egress)
    }

    /// The slot of an interface, if it has one.
    #[must_use]
    pub fn slot_of(&self, ifindex: u32) -> Option<u32> {
        self.interfaces.slot(ifindex)
    }

    /// Makes the maps say what is desired, as far as the network is known. A packet sees all of it or nothing.
    ///
    /// # Errors
    ///
    /// If something has no room or the kernel refuses a map; packets then see what they saw before.
    pub fn apply(
        &mut self,
        desired: &Desired,
        hops: &NextHops,
        health: &HealthView,
        links: &LinkTable,
    ) -> Result<(), Error> {
        self.apply_world(&World {
            desired,
            hops,
            health,
            links,
            blocked: &BTreeMap::new(),
            room: Room::Demand,
        })
    }

    /// As [`Self::apply`], of a whole world: one that leaves out what has no room, perhaps.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`].
    pub fn apply_world(&mut self, world: &World<'_>) -> Result<(), Error> {
        let World { desired, links, .. } = *world;
        let slots = self.maps.interface_slots.whole()?;
        self.interfaces.retain(|ifindex| links.get(ifindex).is_ok(), &slots);
        let (interfaces, egress) = (&mut self.interfaces, &mut self.egress);
        let mut image = image::compile(
            world,
            &mut self.ids,
            &self.node,
            TimeoutSets::new(self.clock, self.node.timeouts),
            |ifindex| interfaces.give(ifindex, &slots, egress),
        )?;
        counters::reset(&self.maps, &image.new_backends)?;
        self.linger(desired, &mut image)?;
        self.reach_as_before(&mut image, links);
        self.settle();
        let endpoints = std::mem::take(&mut image.endpoints);
        let answers = if endpoints.has_backends() { Control::ANSWERS } else { 0 };
        self.endpoints.write(&self.maps, 1 - bank(&self.maps), endpoints)?;
        self.schedules
            .build(&mut self.schedule_map, &image.schedules, &mut image.services)?;
        self.write(&image, links, answers)?;
        self.retire(&image)?;
        if *self.left_out != image.left_out {
            self.left_out = Arc::new(image.left_out);
        }
        Ok(())
    }

    /// Waits, if need be, until no packet reads the bank that is not in use. What comes next need not wait then.
    pub fn settle(&mut self) {
        if self.draining {
            grace_period();
            self.draining = false;
            self.schedules.settled();
        }
    }

    /// Writes the image into the bank that is not in use and switches to it; `answers` as in [`Control::mode`].
    fn write(&mut self, image: &Image, links: &LinkTable, answers: u64) -> Result<(), Error> {
        let next = 1 - bank(&self.maps);
        let services = self.maps.services.whole()?;
        for (number, service) in &image.services {
            services.write(place(*number, next), service);
        }
        let (backends, limits) = (self.maps.backends.whole()?, self.maps.limits.whole()?);
        let underlays = self.maps.underlays.whole()?;
        let mut entries = image.backends.iter().peekable();
        for number in 1..=self.ids.backends.highest() {
            let entry = entries.next_if(|(of, _)| **of == number);
            let backend = entry.map_or(&layout::Backend::NONE, |(_, backend)| backend);
            backends.write(place(number, next), backend);
            let limit = image.limits.get(&number).copied().unwrap_or_default();
            limits.write(place(number, next), &limit);
            let underlay = image.underlays.get(&number).copied().unwrap_or_default();
            underlays.write(place(number, next), &underlay);
        }
        let timeouts = self.maps.timeouts.whole()?;
        for (set, idle) in (0..).zip(image.timeouts.sets()) {
            timeouts.write(place(set, next), idle);
        }
        let interfaces = self.maps.interfaces.whole()?;
        for (ifindex, slot) in self.interfaces.iter() {
            let mac = links.get(ifindex).ok().and_then(|link| link.mac).unwrap_or_default();
            interfaces.write(
                place(slot, next),
                &Interface {
                    ifindex: image::wire_index(links, ifindex),
                    mac: words::mac(mac),
                    reserved: [0; 3],
                },
            );
        }
        let attached = self.interfaces.iter().map(|(ifindex, _)| ifindex);
        host_macs::write(&self.maps.host_macs.whole()?, next, attached, links);
        host_macs::write_own(self.maps.control(), self.interfaces.iter(), links);
        self.maps
            .control()
            .word(0, MODE)
            .store(u64::from(next) | answers | self.phase, Ordering::Release);
        self.maps
            .control()
            .word(0, HIGHEST)
            .store(u64::from(self.ids.backends.highest()), Ordering::Release);
        self.maps
            .control()
            .word(0, UNKNOWN_FRAGMENTS)
            .store(unknown_fragments(self.node) as u64, Ordering::Release);
        self.draining = true;
        self.schedules.switched();
        self.rules = Arc::new(Rules::of(image, self.ids.backends.highest()));
        Ok(())
    }

    /// Keeps the entries of backends that are gone and whose services want the packets of their flows dropped.
    fn linger(&mut self, desired: &Desired, image: &mut Image) -> Result<(), Error> {
        self.lingering.clear();
        if self.ids.backends.len() == image.backends.len() {
            // All that have numbers are there.
            return Ok(());
        }
        let bank = bank(&self.maps);
        let backends = self.maps.backends.whole()?;
        for (key, number) in self.ids.backends.iter() {
            let drops = desired
                .services()
                .get(&key.0)
                .is_some_and(|service| service.on_loss == OnLoss::Drop);
            let mut entry = backends.read(place(number, bank));
            if entry.method == layout::Method::NONE
                && let Some(inherited) = self.inherited.get(&number)
            {
                entry = *inherited;
            }
            if !drops || image.backends.contains_key(&number) || entry.method == layout::Method::NONE {
                continue;
            }
            entry.flags = entry.flags & !layout::Backend::ENDED | layout::Backend::DROPPING | layout::Backend::QUIESCED;
            image.backends.insert(number, entry);
            self.lingering.insert(*key);
        }
        Ok(())
    }

    /// What a sweep must know of backends.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules)
    }

    /// Takes their numbers from services and backends that are not in the image.
    fn retire(&mut self, image: &Image) -> Result<(), Error> {
        // All that are in the image have numbers: where there are as many numbers, nobody is gone.
        if self.ids.backends.len() > image.backends.len() {
            self.retire_backends(|_, number| image.backends.contains_key(&number))?;
        }
        let gone = self
            .ids
            .services
            .retain(|_, number| image.services.contains_key(&number));
        for (service, _) in gone {
            if self.departed.contains_key(&service) {
                Arc::make_mut(&mut self.departed).remove(&service);
            }
        }
        let groups: BTreeSet<u32> = image.services.values().map(|service| service.group).collect();
        self.ids.groups.retain(|_, number| groups.contains(&number));
        Ok(())
    }

    /// Takes their numbers from backends that are not to be kept.
    fn retire_backends(&mut self, keep: impl Fn(&BackendKey, u32) -> bool) -> Result<(), Error> {
        let gone = self.ids.backends.retain(keep);
        if gone.is_empty() {
            return Ok(());
        }
        let counted = counters::backends(&self.maps, gone.iter().map(|(_, number)| *number))?;
        for ((service, ..), number) in gone {
            let sum = Arc::make_mut(&mut self.departed).entry(service).or_default();
            *sum = counters::add(*sum, counted.get(&number).copied().unwrap_or_default());
        }
        Ok(())
    }

    /// The numbers that flows may still know although their owners are gone, once no packet can make a new such flow.
    pub fn gone(&mut self) -> Gone {
        let gone = Gone {
            services: self.ids.services.retired().into_iter().collect(),
            backends: self.ids.backends.retired().into_iter().collect(),
            groups: self.ids.groups.retired().into_iter().collect(),
        };
        if gone != Gone::default() {
            self.settle();
        }
        gone
    }

    /// A sweep is over. The flows that knew the numbers that were gone are forgotten: they may be given out again. Backends
    /// that only lingered for their flows go with the last of them.
    ///
    /// # Errors
    ///
    /// If the kernel does not map the counters.
    pub fn swept(&mut self, gone: Gone, census: &Census) -> Result<(), Error> {
        self.forgotten(gone);
        let ids = &self.ids;
        let done: BTreeSet<BackendKey> = self
            .lingering
            .iter()
            .filter(|key| {
                ids.backends
                    .get(key)
                    .is_none_or(|number| !census.backends.contains_key(&number))
            })
            .copied()
            .collect();
        self.lingering.retain(|key| !done.contains(key));
        self.retire_backends(|owner, _| !done.contains(owner))
    }

    fn forgotten(&mut self, gone: Gone) {
        self.ids.groups.release(&gone.groups.into_iter().collect::<Vec<_>>());
        self.ids
            .services
            .release(&gone.services.into_iter().collect::<Vec<_>>());
        self.ids
            .backends
            .release(&gone.backends.into_iter().collect::<Vec<_>>());
    }
}

/// The bank that packets use.
fn bank(maps: &Maps) -> u32 {
    maps.control().word(0, MODE).load(Ordering::Acquire) as u32 & 1
}

/// The place of a number's entry in a bank.
pub(super) fn place(number: u32, bank: u32) -> usize {
    (number << 1 | bank) as usize
}

/// Writes what new maps need before the first packet; with these keys, or new ones.
fn initialise(maps: &Maps, clock: &Clock, keys: Option<[u64; 6]>) {
    let keys = keys.unwrap_or_else(|| std::array::from_fn(|_| rand::rng().next_u64()));
    maps.control().write(
        0,
        &Control {
            mode: Control::WAITING,
            tick: clock.tick(),
            hertz: clock.hertz(),
            keys: ClientKeys::new(keys),
            unknown_fragments: layout::UnknownFragments::Pass as u64,
            highest: 0,
            own_macs: [HostMac::NONE; OWN_MACS],
        },
    );
}

/// The node's wish as packets read it.
fn unknown_fragments(node: Node) -> layout::UnknownFragments {
    match node.unknown_fragments {
        UnknownFragments::Pass => layout::UnknownFragments::Pass,
        UnknownFragments::Drop => layout::UnknownFragments::Drop,
        UnknownFragments::Addresses => layout::UnknownFragments::Addresses,
    }
}
