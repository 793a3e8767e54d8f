//! The program's maps: created, or gone on with where the predecessor's will do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    marker::PhantomData,
    os::fd::AsFd as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
};
use xdp_common::{
    for_each_map,
    layout::{
        BANKS, Backend, BackendCounters, BucketClients, BucketFlow, BucketV4, BucketV6, COUNTER_VERSION, Connections,
        Control, FLOW_VERSION, Handover, HopBucket, INTERFACE_BUCKETS, Interface, InterfaceBucket, Limit,
        MAX_INTERFACES, Service, Sizes, TIMEOUT_SETS, Timeouts, Underlay, Verdicts,
    },
    maps::{MAPS, MapDeclaration, Sharing},
    succession::Found,
};

use super::{
    Error, attach,
    error::chain,
    generation::{Generation, PROGRAMS},
    memory::{Memory, Value},
    predecessor::Predecessor,
};

/// A program that is loaded, and its maps.
pub struct Opened {
    /// The maps that are read and written through memory.
    pub maps: Maps,
    /// The segments of scheduling tables.
    pub schedules: Map,
    /// The interfaces for `bpf_redirect_map`.
    pub egress: Map,
    /// The programs that others go on in.
    pub tail_calls: Map,
    /// The program and its companions.
    pub ebpf: Ebpf,
    /// The predecessor's maps that are gone on with.
    pub shared: BTreeSet<&'static str>,
}

/// An array that is mapped into memory when there is something to read or write.
pub struct Array<V> {
    data: MapData,
    name: &'static str,
    entries: usize,
    _values: PhantomData<V>,
}

impl<V: Value> Array<V> {
    /// All entries.
    ///
    /// # Errors
    ///
    /// If the kernel does not map them.
    pub fn whole(&self) -> Result<Memory<V>, Error> {
        self.window(0, self.entries)
    }

    /// Some entries, from one on that begins a page.
    ///
    /// # Errors
    ///
    /// If the kernel does not map them.
    pub fn window(&self, first: usize, length: usize) -> Result<Memory<V>, Error> {
        Memory::map(self.data.fd().as_fd(), first, length).map_err(|source| Error::Memory { map: self.name, source })
    }
}

macro_rules! maps {
    (
        arrays { $($(#[$doc:meta])* $array:ident $accessor:ident: $value:ty, $entries:expr, $sharing:ident;)* }
        others { $($others:tt)* }
    ) => {
        /// The maps that are read and written through memory.
        pub struct Maps {
            steering: Memory<Control>,
            sizes: Sizes,
            cpus: u32,
            $($(#[$doc])* pub $accessor: Array<$value>,)*
        }

        impl Maps {
            /// Takes the arrays out of a program's maps.
            fn take(ebpf: &mut Ebpf, sizes: Sizes, cpus: u32) -> Result<Self, Error> {
                let steering = steering(ebpf)?;
                $(let $accessor = {
                    let entries: fn(&Sizes, u32) -> u32 = $entries;
                    take(ebpf, stringify!($array), entries(&sizes, cpus))?
                };)*
                Ok(Self { steering, sizes, cpus, $($accessor,)* })
            }
        }
    };
}

for_each_map!(maps);

impl Maps {
    /// Loads the program with new maps, and with those of a predecessor that can be gone on with. All are pinned in a
    /// generation, if there is one.
    ///
    /// # Errors
    ///
    /// If the kernel does not take the program or a map, or the pins cannot be made.
    pub fn open(
        object: &[u8],
        generation: Option<&Generation>,
        predecessor: Option<&Predecessor>,
        sizes: Sizes,
        cpus: u32,
    ) -> Result<Opened, Error> {
        let shared: BTreeMap<_, _> = match predecessor {
            Some(predecessor) => shared(predecessor, sizes, cpus),
            None => BTreeMap::new(),
        };
        let mut ebpf = load(object, &shared, sizes, cpus)?;
        // Programs first: they refer to the maps by descriptors that are given away below.
        attach::load(&mut ebpf)?;
        // Whoever finds the pins is to know that this dataplane has not taken over.
        steering(&ebpf)?.word(0, 0).store(Control::WAITING, Ordering::Release);
        if let Some(generation) = generation {
            pin(&mut ebpf, generation)?;
        }
        let mut other = |name| ebpf.take_map(name).ok_or(Error::NoMap(name));
        let (schedules, egress, tail_calls) = (other("SCHEDULES")?, other("EGRESS")?, other("TAIL_CALLS")?);
        Ok(Opened {
            maps: Self::take(&mut ebpf, sizes, cpus)?,
            schedules,
            egress,
            tail_calls,
            ebpf,
            shared: shared.into_keys().collect(),
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
        &self.steering
    }
}

/// The words that steer the packet path, mapped.
fn steering(ebpf: &Ebpf) -> Result<Memory<Control>, Error> {
    const NAME: &str = "CONTROL";
    match ebpf.map(NAME) {
        Some(Map::Array(data)) => {
            Memory::map(data.fd().as_fd(), 0, 1).map_err(|source| Error::Memory { map: NAME, source })
        }
        _ => Err(Error::NoMap(NAME)),
    }
}

/// Takes an array of so many entries out of the program's maps.
fn take<V>(ebpf: &mut Ebpf, name: &'static str, entries: u32) -> Result<Array<V>, Error> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(Array {
            data,
            name,
            entries: entries as usize,
            _values: PhantomData,
        }),
        _ => Err(Error::NoMap(name)),
    }
}

/// The predecessor's maps that can be gone on with, and their pins.
fn shared(predecessor: &Predecessor, sizes: Sizes, cpus: u32) -> BTreeMap<&'static str, PathBuf> {
    let facts = predecessor.facts();
    let pinned = |map: &MapDeclaration| -> Option<(&'static str, PathBuf)> {
        let path = predecessor.map(map.name)?;
        let entries = MapData::from_pin(&path).ok()?.info().ok()?.max_entries();
        let wanted = map.entries.map(|wanted| wanted(&sizes, cpus));
        wanted
            .is_none_or(|wanted| wanted == entries)
            .then_some((map.name, path))
    };
    let of_kind = |kind| MAPS.iter().filter(move |map| map.sharing == kind);
    let flows: Vec<_> = of_kind(Sharing::Flows).filter_map(pinned).collect();
    // All of them or none. A number that there is no room for here must not stand in them.
    let shares_flows = facts.flow_version == FLOW_VERSION
        && facts.backends <= sizes.backends + 1
        && flows.len() == of_kind(Sharing::Flows).count();
    let counts = of_kind(Sharing::Counts)
        .filter(|_| facts.counter_version == COUNTER_VERSION)
        .filter_map(pinned);
    let always = of_kind(Sharing::Always).filter_map(pinned);
    flows
        .iter()
        .filter(|_| shares_flows)
        .cloned()
        .chain(counts)
        .chain(always)
        .collect()
}

/// Pins the maps and the programs that a successor needs.
fn pin(ebpf: &mut Ebpf, generation: &Generation) -> Result<(), Error> {
    for map in MAPS {
        let pinned = ebpf.map(map.name).ok_or(Error::NoMap(map.name))?;
        pinned.pin(generation.map(map.name))?;
    }
    for name in PROGRAMS {
        attach::program(ebpf, name)?.pin(generation.program(name))?;
    }
    Ok(())
}

/// Loads the program's maps, shared ones from their pins.
fn load(object: &[u8], shared: &BTreeMap<&'static str, PathBuf>, sizes: Sizes, cpus: u32) -> Result<Ebpf, Error> {
    let globals = [
        ("FLOWS_V4_MASK", sizes.buckets_v4() - 1),
        ("FLOWS_V6_MASK", sizes.buckets_v6() - 1),
        ("ENDPOINTS_MASK", sizes.endpoint_buckets() - 1),
        ("BACKENDS_SIZE", sizes.backends + 1),
    ];
    let mut loader = EbpfLoader::new();
    for map in MAPS {
        if let Some(entries) = map.entries {
            loader.map_max_entries(map.name, entries(&sizes, cpus));
        }
    }
    for (name, value) in &globals {
        loader.override_global(name, value, true);
    }
    for (name, path) in shared {
        loader.map_pin_path(name, path);
    }
    loader.load(object).map_err(|error| match permission(&error) {
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

/// Makes the directory of the pins.
///
/// # Errors
///
/// If it is not on a BPF file system, or cannot be made.
pub(super) fn prepare(pins: &Path) -> Result<(), Error> {
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
        })
}

/// Removes what is pinned in the directory itself and is no link: the maps of versions before generations.
///
/// # Errors
///
/// If a pin is there and cannot be removed.
pub(super) fn remove_ungrouped(pins: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(pins).into_iter().flatten().flatten() {
        let is_map = entry.file_type().is_ok_and(|kind| kind.is_file())
            && !entry.file_name().to_string_lossy().starts_with(attach::LINK);
        if is_map {
            remove(&entry.path())?;
        }
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
