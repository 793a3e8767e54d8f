//! The program's maps: created, or taken over where an earlier daemon pinned them.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
};
use tracing::warn;
use xdp_common::layout::{
    self, BANKS, Backend, BackendCounters, BucketV4, BucketV6, Control, Limit, Load, PORT_SLOTS, PORTS, Port, PortOf,
    Service, TIMEOUT_SETS, Timeouts, Verdicts, WAYS,
};

use super::{
    Error, attach,
    error::chain,
    memory::{Memory, Value},
};

/// The maps, by the names that the program gives them.
const NAMES: [&str; 23] = [
    "CONTROL",
    "ENDPOINTS_V4",
    "ENDPOINTS_V6",
    "SERVICES",
    "BACKENDS",
    "LIMITS",
    "LOADS",
    "TIMEOUTS",
    "SCHEDULES",
    "TURNS",
    "FLOWS_V4",
    "FLOWS_V6",
    "HOPS_V4",
    "HOPS_V6",
    "FRAGMENTS_V4",
    "FRAGMENTS_V6",
    "PORTS",
    "PORT_OF",
    "TX_PORTS",
    "FURTHER",
    "HANDOVERS",
    "BACKEND_COUNTERS",
    "VERDICT_COUNTERS",
];

/// How much there is room for. Fixed when the maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Services.
    pub services: u32,
    /// Backends, of all services together.
    pub backends: u32,
    /// Places for IPv4 flows: twice as many as are promised, so that buckets seldom fill; a power of two.
    pub flows_v4: u32,
    /// Places for IPv6 flows, likewise.
    pub flows_v6: u32,
}

impl Sizes {
    /// Room for so many services, backends and flows at least. A flow table has no fewer buckets than there can be numbers
    /// of backends ([`layout::Flow`]): four flows per backend at least.
    #[must_use]
    pub fn new(services: u32, backends: u32, flows_v4: u32, flows_v6: u32) -> Self {
        let backends = backends.clamp(1, (1 << 20) - 1);
        let places = |flows: u32| {
            let buckets = (backends + 1).next_power_of_two().max(16);
            let places = flows.next_power_of_two().saturating_mul(2);
            places.max(buckets * WAYS as u32).min(1 << 28)
        };
        Self {
            services: services.clamp(1, layout::MAX_SERVICES - 1),
            backends,
            flows_v4: places(flows_v4),
            flows_v6: places(flows_v6),
        }
    }

    /// Buckets of an endpoint table: one per endpoint there can be, so that a bucket of four seldom fills.
    fn endpoint_buckets(self) -> u32 {
        (self.services + self.backends).next_power_of_two().max(64)
    }
}

/// A program that is loaded, and its maps.
pub struct Opened {
    /// The maps that are read and written through memory.
    pub maps: Maps,
    /// The segments of scheduling tables.
    pub schedules: Map,
    /// The interfaces for `bpf_redirect_map`.
    pub tx_ports: Map,
    /// The program and its companions.
    pub ebpf: Ebpf,
    /// Whether the maps were there before.
    pub taken_over: bool,
}

/// The maps that are read and written through memory.
pub struct Maps {
    control: Memory<Control>,
    arrays: Arrays,
    sizes: Sizes,
    cpus: u32,
}

/// The maps that are mapped into memory when there is something to read or write.
struct Arrays {
    endpoints_v4: MapData,
    endpoints_v6: MapData,
    services: MapData,
    backends: MapData,
    limits: MapData,
    loads: MapData,
    timeouts: MapData,
    turns: MapData,
    flows_v4: MapData,
    flows_v6: MapData,
    ports: MapData,
    port_of: MapData,
    backend_counters: MapData,
    verdict_counters: MapData,
}

/// A map that is mapped into memory as a whole.
macro_rules! whole {
    ($(#[$doc:meta])* $name:ident: $map:ident as $label:literal -> $value:ty, $length:expr) => {
        $(#[$doc])*
        ///
        /// # Errors
        ///
        /// If the kernel does not map it.
        pub fn $name(&self) -> Result<Memory<$value>, Error> {
            let length: fn(&Self) -> u32 = $length;
            memory(&self.arrays.$map, $label, 0, length(self) as usize)
        }
    };
}

impl Maps {
    /// Loads the program with new maps, or with those that are pinned in `pins`.
    ///
    /// # Errors
    ///
    /// If the kernel does not take the program or a map, or the pins cannot be made.
    pub fn open(pins: Option<&Path>, wanted: Sizes) -> Result<Opened, Error> {
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| Error::Load(source.to_string()))? as u32;
        let found = match pins {
            Some(pins) => prepare(pins, cpus)?,
            None => None,
        };
        if let Some(sizes) = found
            && sizes != wanted
        {
            warn!("the sizes in the configuration differ from those of the maps in use; they count after `lvx detach`");
        }
        let opened = Self::take_apart(pins, found.unwrap_or(wanted), cpus, found.is_some());
        if let (Err(_), Some(pins), None) = (&opened, pins, found) {
            unpin_maps(pins)?;
        }
        opened
    }

    /// Loads the program and takes its maps out of it.
    fn take_apart(pins: Option<&Path>, sizes: Sizes, cpus: u32, taken_over: bool) -> Result<Opened, Error> {
        let mut ebpf = load(pins, sizes, cpus)?;
        // Programs first: they refer to the maps by descriptors that are given away below.
        attach::load(&mut ebpf)?;
        let control = take(&mut ebpf, "CONTROL")?;
        let arrays = Arrays {
            endpoints_v4: take(&mut ebpf, "ENDPOINTS_V4")?,
            endpoints_v6: take(&mut ebpf, "ENDPOINTS_V6")?,
            services: take(&mut ebpf, "SERVICES")?,
            backends: take(&mut ebpf, "BACKENDS")?,
            limits: take(&mut ebpf, "LIMITS")?,
            loads: take(&mut ebpf, "LOADS")?,
            timeouts: take(&mut ebpf, "TIMEOUTS")?,
            turns: take(&mut ebpf, "TURNS")?,
            flows_v4: take(&mut ebpf, "FLOWS_V4")?,
            flows_v6: take(&mut ebpf, "FLOWS_V6")?,
            ports: take(&mut ebpf, "PORTS")?,
            port_of: take(&mut ebpf, "PORT_OF")?,
            backend_counters: take(&mut ebpf, "BACKEND_COUNTERS")?,
            verdict_counters: take(&mut ebpf, "VERDICT_COUNTERS")?,
        };
        let control = memory(&control, "CONTROL", 0, 1)?;
        Ok(Opened {
            maps: Self {
                control,
                arrays,
                sizes,
                cpus,
            },
            schedules: ebpf.take_map("SCHEDULES").ok_or(Error::NoMap("SCHEDULES"))?,
            tx_ports: ebpf.take_map("TX_PORTS").ok_or(Error::NoMap("TX_PORTS"))?,
            ebpf,
            taken_over,
        })
    }

    /// How much there is room for.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// CPUs that count.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// The words that steer the packet path.
    #[must_use]
    pub fn control(&self) -> &Memory<Control> {
        &self.control
    }

    whole! {
        /// The IPv4 endpoint table, both banks.
        endpoints_v4: endpoints_v4 as "ENDPOINTS_V4" -> BucketV4, |maps| maps.endpoint_buckets() * BANKS
    }
    whole! {
        /// The IPv6 endpoint table, both banks.
        endpoints_v6: endpoints_v6 as "ENDPOINTS_V6" -> BucketV6, |maps| maps.endpoint_buckets() * BANKS
    }
    whole! {
        /// The services, both banks.
        services: services as "SERVICES" -> Service, |maps| (maps.sizes.services + 1) * BANKS
    }
    whole! {
        /// The backends, both banks.
        backends: backends as "BACKENDS" -> Backend, |maps| (maps.sizes.backends + 1) * BANKS
    }
    whole! {
        /// The thresholds of the backends, both banks.
        limits: limits as "LIMITS" -> Limit, |maps| (maps.sizes.backends + 1) * BANKS
    }
    whole! {
        /// What the backends have to do.
        loads: loads as "LOADS" -> Load, |maps| maps.sizes.backends + 1
    }
    whole! {
        /// The idle times, both banks.
        timeouts: timeouts as "TIMEOUTS" -> Timeouts, |_| TIMEOUT_SETS * BANKS
    }
    whole! {
        /// The turns of the services.
        turns: turns as "TURNS" -> u64, |maps| maps.sizes.services + 1
    }
    whole! {
        /// The interfaces, both banks.
        ports: ports as "PORTS" -> Port, |_| PORTS * BANKS
    }
    whole! {
        /// The ports by interface index.
        port_of: port_of as "PORT_OF" -> PortOf, |_| PORT_SLOTS
    }
    whole! {
        /// The counters of backends, CPU after CPU.
        backend_counters: backend_counters as "BACKEND_COUNTERS" -> BackendCounters,
            |maps| (maps.sizes.backends + 1) * maps.cpus
    }
    whole! {
        /// The counters of interfaces, CPU after CPU.
        verdict_counters: verdict_counters as "VERDICT_COUNTERS" -> Verdicts, |maps| PORTS * maps.cpus
    }

    /// Some buckets of the IPv4 flow table.
    ///
    /// # Errors
    ///
    /// If the kernel does not map them.
    pub fn flows_v4(&self, first: usize, buckets: usize) -> Result<Memory<layout::BucketFlowV4>, Error> {
        memory(&self.arrays.flows_v4, "FLOWS_V4", first, buckets)
    }

    /// Some buckets of the IPv6 flow table.
    ///
    /// # Errors
    ///
    /// If the kernel does not map them.
    pub fn flows_v6(&self, first: usize, buckets: usize) -> Result<Memory<layout::BucketFlowV6>, Error> {
        memory(&self.arrays.flows_v6, "FLOWS_V6", first, buckets)
    }

    /// Buckets of each endpoint table in each bank.
    #[must_use]
    pub fn endpoint_buckets(&self) -> u32 {
        self.sizes.endpoint_buckets()
    }
}

/// Maps entries of an array into memory.
fn memory<T: Value>(map: &MapData, name: &'static str, first: usize, length: usize) -> Result<Memory<T>, Error> {
    Memory::map(map.fd().as_fd(), first, length).map_err(|source| Error::Memory { map: name, source })
}

/// Takes an array out of the program's maps.
fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, Error> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(Error::NoMap(name)),
    }
}

/// Loads the program's maps, pinned ones from their pins.
fn load(pins: Option<&Path>, sizes: Sizes, cpus: u32) -> Result<Ebpf, Error> {
    let buckets = |places: u32| places / WAYS as u32;
    let entries = [
        ("ENDPOINTS_V4", sizes.endpoint_buckets() * BANKS),
        ("ENDPOINTS_V6", sizes.endpoint_buckets() * BANKS),
        ("SERVICES", (sizes.services + 1) * BANKS),
        ("BACKENDS", (sizes.backends + 1) * BANKS),
        ("LIMITS", (sizes.backends + 1) * BANKS),
        ("LOADS", sizes.backends + 1),
        ("TURNS", sizes.services + 1),
        ("FLOWS_V4", buckets(sizes.flows_v4)),
        ("FLOWS_V6", buckets(sizes.flows_v6)),
        ("HOPS_V4", buckets(sizes.flows_v4)),
        ("HOPS_V6", buckets(sizes.flows_v6)),
        ("HANDOVERS", cpus),
        ("BACKEND_COUNTERS", (sizes.backends + 1) * cpus),
        ("VERDICT_COUNTERS", PORTS * cpus),
    ];
    let globals = [
        ("FLOWS_V4_MASK", buckets(sizes.flows_v4) - 1),
        ("FLOWS_V6_MASK", buckets(sizes.flows_v6) - 1),
        ("ENDPOINTS_MASK", sizes.endpoint_buckets() - 1),
        ("BACKENDS_SIZE", sizes.backends + 1),
    ];
    let mut loader = EbpfLoader::new();
    for (name, entries) in entries {
        loader.map_max_entries(name, entries);
    }
    for (name, value) in &globals {
        loader.override_global(name, value, true);
    }
    if let Some(pins) = pins {
        for name in NAMES {
            loader.map_pin_path(name, pins.join(name));
        }
    }
    loader
        .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lvx-xdp")))
        .map_err(|error| match permission(&error) {
            true => Error::NotPermitted("create BPF maps"),
            false => Error::Load(chain(&error)),
        })
}

/// Whether an error comes from the kernel's refusal for want of privileges.
pub(super) fn permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Makes the directory of the pins, and looks whether it has maps that can be taken over: their sizes then. Maps of
/// another layout, or such as were not completed, are unpinned; a program that still uses them keeps them until it is
/// replaced.
fn prepare(pins: &Path, cpus: u32) -> Result<Option<Sizes>, Error> {
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
    let existing = pins.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let found = rustix::fs::statfs(existing).map_err(|error| Error::Pins {
        action: "look at",
        path: existing.to_owned(),
        source: error.into(),
    })?;
    if found.f_type as u64 != BPF_FS_MAGIC {
        return Err(Error::NoBpffs(pins.to_owned()));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(pins)
        .map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => Error::NotPermitted("write to the BPF file system"),
            _ => Error::Pins {
                action: "create",
                path: pins.to_owned(),
                source,
            },
        })?;
    if NAMES.iter().all(|name| !pins.join(name).exists()) {
        return Ok(None);
    }
    match complete(pins, cpus) {
        Some(sizes) => Ok(Some(sizes)),
        None => {
            warn!(
                "the maps in {} are of another version: flows that have begun are not known any more",
                pins.display()
            );
            unpin_maps(pins)?;
            Ok(None)
        }
    }
}

/// The sizes of the pinned maps, if all are there and of this layout.
fn complete(pins: &Path, cpus: u32) -> Option<Sizes> {
    let open = |name: &str| MapData::from_pin(pins.join(name)).ok();
    let entries = |name: &str| open(name)?.info().ok().map(|info| info.max_entries());
    let control: Memory<Control> = Memory::map(open("CONTROL")?.fd().as_fd(), 0, 1).ok()?;
    if control.read(0).version != layout::VERSION || NAMES.iter().any(|name| !pins.join(name).exists()) {
        return None;
    }
    let sizes = Sizes {
        services: entries("SERVICES")? / BANKS - 1,
        backends: entries("BACKENDS")? / BANKS - 1,
        flows_v4: entries("FLOWS_V4")? * WAYS as u32,
        flows_v6: entries("FLOWS_V6")? * WAYS as u32,
    };
    let fits = entries("ENDPOINTS_V4")? == sizes.endpoint_buckets() * BANKS
        && entries("ENDPOINTS_V6")? == sizes.endpoint_buckets() * BANKS
        && entries("BACKEND_COUNTERS")? == (sizes.backends + 1) * cpus;
    fits.then_some(sizes)
}

/// Removes the pins of the maps. The maps go when nobody uses them any more.
///
/// # Errors
///
/// If a pin is there and cannot be removed.
pub fn unpin_maps(pins: &Path) -> Result<(), Error> {
    for name in NAMES {
        remove(&pins.join(name))?;
    }
    Ok(())
}

/// Removes a file if it is there.
pub(super) fn remove(path: &PathBuf) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Pins {
            action: "remove",
            path: path.clone(),
            source,
        }),
        _ => Ok(()),
    }
}
