//! The same frames through both: the program in the kernel, and the packet path over plain memory on the host. Both begin with
//! the same tables, and after every frame both have come to the same.

mod services;
mod traffic;

use std::{collections::BTreeMap, os::fd::AsFd as _};

use aya::maps::{ArrayOfMaps, MapData};
use lvx_dataplane::{
    Maps, Node,
    memory::{Memory, Value},
};
use lvx_model::settings::UnknownFragments;
use lvx_test_kit::{frame::assert_same, random::Random};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use xdp_common::{
    for_each_map, host,
    layout::{
        Answers, CHUNKS_PER_SEGMENT, Chunk, ClientKeys, Control, FlowEntry, MAX_INTERFACES, SEGMENTS, Seen, Sizes,
        Verdicts,
    },
    verdict::Verdict,
};

use self::traffic::Traffic;
use crate::balancer::{Action, Balancer};

/// The logarithm of the jiffies in the shortest unit of a flow's time: so many that time stands still (but for the
/// moment when they come to a multiple of 2^31). Flows age when the test says so.
const TICK: u32 = 31;

/// A balancer in the kernel and one on the host.
struct Both {
    kernel: Balancer,
    host: host::Tables,
    verdicts: Memory<Verdicts>,
    /// The CPU that this thread is kept on, whose counters both share.
    cpu: u32,
    /// Those that it may use otherwise.
    cpus: CpuSet,
}

impl Drop for Both {
    fn drop(&mut self) {
        // A thread that is still on one CPU only runs the next test more slowly.
        let _: Result<(), rustix::io::Errno> = sched_setaffinity(None, &self.cpus);
    }
}

impl Both {
    /// Both with what the kernel's maps say.
    fn new(kernel: Balancer) -> Self {
        let (cpu, mut one) = (sched_getcpu(), CpuSet::new());
        one.set(cpu);
        let cpus = sched_getaffinity(None).unwrap();
        sched_setaffinity(None, &one).unwrap();
        let maps = kernel.tables.maps();
        let mut both = Self {
            host: host::Tables::new(maps.sizes(), maps.cpus()),
            verdicts: maps.verdict_counters.whole().unwrap(),
            kernel,
            cpu: cpu as u32,
            cpus,
        };
        // The second in which answers are counted lasts as long as the test.
        let control: Memory<Control> = both.kernel.tables.maps().control.whole().unwrap();
        control.write(
            0,
            &Control {
                hertz: u32::MAX,
                ..control.read(0)
            },
        );
        both.copy();
        both
    }

    /// Gives the host all that the kernel's maps say. Fragments that the host remembers stay.
    fn copy(&mut self) {
        // Both may answer as often again.
        let answers: Memory<Answers> = self.kernel.tables.maps().answers.whole().unwrap();
        answers.write(self.cpu as usize, &Answers::default());
        copy(self.kernel.tables.maps(), &self.host);
        let segments = ArrayOfMaps::<&MapData, MapData>::try_from(self.kernel.tables.schedules()).unwrap();
        for number in 0..SEGMENTS {
            let Ok(segment) = segments.get(&number, 0) else { break };
            let chunks: Memory<Chunk> = Memory::map(segment.fd().as_fd(), 0, CHUNKS_PER_SEGMENT as usize).unwrap();
            let chunks = (0..chunks.len()).map(|place| chunks.read(place)).collect();
            self.host.set_segment(number as usize, chunks);
        }
    }

    /// A frame that comes in by an interface comes to the same in both.
    #[track_caller]
    fn run(&mut self, ingress: u32, frame: &[u8]) -> Action {
        self.host.set_jiffies(self.kernel.tables.clock().now());
        let (action, after) = self.kernel.run(ingress, frame);
        let mut on_host = frame.to_vec();
        let of_host = self.host.run(self.cpu, ingress, &mut on_host);
        assert_eq!(action as u32, of_host, "{action:?}: {frame:02x?}");
        assert_same(&on_host, &after);
        let slot = self.kernel.tables.slot_of(ingress).unwrap();
        let row = (self.cpu * MAX_INTERFACES + slot) as usize;
        let (counted, of_host) = (self.verdicts.read(row), self.host.verdict_counters.read(row));
        for verdict in Verdict::ALL {
            let place = verdict as usize;
            assert_eq!(counted[place], of_host[place], "{}: {frame:02x?}", verdict.name());
        }
        action
    }

    /// All tables have the same content, word by word.
    #[track_caller]
    fn assert_same_tables(&self) {
        assert_same_arrays(self.kernel.tables.maps(), &self.host);
    }

    /// Makes some flows seem to have been idle: for no time, for as long as they may, or for too long.
    fn age(&mut self, random: &mut Random) {
        let now = (self.kernel.tables.clock().now() >> TICK) as u16;
        let maps = self.kernel.tables.maps();
        for (in_kernel, on_host) in [
            (&maps.flows_v4, &self.host.flows_v4),
            (&maps.flows_v6, &self.host.flows_v6),
        ] {
            let in_kernel = in_kernel.whole().unwrap();
            for bucket in 0..in_kernel.len() {
                let flows = in_kernel.read(bucket).map(|flow| {
                    if flow == FlowEntry::FREE || random.happens(80) {
                        return flow;
                    }
                    let age = random.one(&[0, 1, 1, 1, 1, 2, 3, 1000, 2040]);
                    flow.with(flow.state(), Seen(now.wrapping_sub(age) & 0x7ff))
                });
                in_kernel.write(bucket, &flows);
                on_host.write(bucket, flows);
            }
        }
    }
}

macro_rules! arrays {
    (
        arrays { $($(#[$doc:meta])* $array:ident $accessor:ident: $value:ty, $entries:expr, $sharing:ident;)* }
        others { $($others:tt)* }
    ) => {
        fn copy(maps: &Maps, host: &host::Tables) {
            $(
                let there = maps.$accessor.whole().unwrap();
                assert_eq!(there.len(), host.$accessor.len(), stringify!($array));
                for place in 0..there.len() {
                    host.$accessor.write(place, there.read(place));
                }
            )*
        }

        #[track_caller]
        fn assert_same_arrays(maps: &Maps, host: &host::Tables) {
            $(
                let there = maps.$accessor.whole().unwrap();
                assert_same_array(stringify!($array), &there, &host.$accessor);
            )*
        }
    };
}

for_each_map!(arrays);

#[track_caller]
fn assert_same_array<V: Value>(name: &str, in_kernel: &Memory<V>, on_host: &host::Table<V>) {
    for place in 0..in_kernel.len() {
        let (in_kernel, on_host) = (in_kernel.read(place), on_host.read(place));
        let (in_kernel, on_host) = (bytes(&in_kernel), bytes(&on_host));
        assert!(
            in_kernel == on_host,
            "{name} {place}: {in_kernel:02x?} in the kernel, {on_host:02x?} on the host"
        );
    }
}

/// The bytes of an entry.
fn bytes<V: Value>(value: &V) -> &[u8] {
    // SAFETY: values of maps have no padding, which `Value` promises, and may be looked at as bytes.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<V>()) }
}

/// How much is compared, and of what.
struct Extent {
    seed: u64,
    /// How often there are other services altogether.
    rounds: usize,
    /// Frames between two changes of the services.
    frames: usize,
    /// Ports that each client has.
    ports: usize,
    sizes: Sizes,
    unknown_fragments: UnknownFragments,
}

/// As often the services of a round are changed.
const CHANGES: usize = 4;

impl Default for Extent {
    fn default() -> Self {
        Self {
            seed: 0,
            rounds: 6,
            frames: 250,
            ports: 12,
            sizes: Sizes::new(64, 2047, 4096, 4096),
            unknown_fragments: UnknownFragments::Pass,
        }
    }
}

/// Runs frames through both, to services at random that change from time to time; how often each verdict was counted.
fn compare(extent: &Extent) -> BTreeMap<&'static str, u64> {
    let node = Node {
        unknown_fragments: extent.unknown_fragments,
        ..Node::default()
    };
    let mut random = Random::new(extent.seed);
    let mut kernel = Balancer::on(extent.sizes, node);
    // The same buckets in every run.
    let keys = ClientKeys::new([(); 6].map(|()| random.word()));
    kernel.control_set(|control| (control.tick, control.keys) = (TICK, keys));
    let mut both = Both::new(kernel);
    let mut forwarded = 0;
    for _ in 0..extent.rounds {
        let services = services::desire(&mut both.kernel, extent.sizes.backends, &mut random);
        for _ in 0..CHANGES {
            services::change(&mut both.kernel, &services, &mut random);
            both.kernel.apply();
            both.copy();
            let mut traffic = Traffic::new(&services, extent.ports, random.word());
            for number in 0..extent.frames {
                if number % 100 == 25 {
                    both.age(&mut random);
                }
                let (ingress, frame) = traffic.frame();
                let action = both.run(ingress, &frame);
                forwarded += usize::from(matches!(action, Action::Tx | Action::Redirect));
            }
            both.assert_same_tables();
        }
    }
    let frames = extent.rounds * CHANGES * extent.frames;
    assert!(forwarded > frames / 4, "{forwarded} of {frames} frames were forwarded");
    let rows = (0..MAX_INTERFACES).map(|slot| both.verdicts.read((both.cpu * MAX_INTERFACES + slot) as usize));
    let rows: Vec<Verdicts> = rows.collect();
    let count = |verdict: Verdict| rows.iter().map(|row| row[verdict as usize]).sum();
    Verdict::ALL.map(|verdict| (verdict.name(), count(verdict))).into()
}

#[test]
fn every_frame_comes_to_the_same_in_the_kernel_and_on_the_host() {
    let mut counted = compare(&Extent {
        seed: 1,
        rounds: 14,
        ..Extent::default()
    });
    // Other tests are about these. What is lost is lost after the program.
    let others = [
        Verdict::FlowEvicted,
        Verdict::FlowUntracked,
        Verdict::DroppedFragment,
        Verdict::DroppedNoInterface,
        Verdict::DroppedNoProgram,
    ];
    for verdict in others.into_iter().chain(Verdict::LOST) {
        counted.remove(verdict.name());
    }
    assert!(counted.values().all(|count| *count > 0), "{counted:?}");
}

#[test]
fn so_it_does_where_fragments_without_a_first_one_are_dropped() {
    let counted = compare(&Extent {
        seed: 2,
        unknown_fragments: UnknownFragments::Drop,
        ..Extent::default()
    });
    assert_ne!(counted[Verdict::DroppedFragment.name()], 0);
}

#[test]
fn so_it_does_where_fragments_without_a_first_one_go_by_their_addresses() {
    compare(&Extent {
        seed: 3,
        unknown_fragments: UnknownFragments::Addresses,
        ..Extent::default()
    });
}

#[test]
fn so_it_does_where_the_flow_tables_are_full() {
    let counted = compare(&Extent {
        seed: 4,
        rounds: 2,
        frames: 6000,
        ports: 1000,
        sizes: Sizes::new(64, 63, 1, 1),
        ..Extent::default()
    });
    assert!(counted[Verdict::FlowEvicted.name()] > 100, "{counted:?}");
}
