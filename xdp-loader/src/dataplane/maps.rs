//! The program's maps: created, or taken over where an earlier daemon pinned them.

use std::{
    fs, io,
    marker::PhantomData,
    os::fd::AsFd as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
};
use tracing::warn;
use xdp_common::{
    for_each_map,
    layout::{
        self, BANKS, Backend, BackendCounters, BucketClients, BucketFlow, BucketV4, BucketV6, Connections, Control,
        FLOWS_PER_BUCKET, Handover, HopBucket, Interface, InterfaceBucket, Limit, Service, Sizes, Timeouts, Underlay,
        Verdicts,
    },
    maps::MAPS,
};

use super::{
    Error, attach,
    error::chain,
    memory::{Memory, Value},
};

/// A program that is loaded, and its maps.
pub struct Opened {
    /// The maps that are read and written through memory.
    pub maps: Maps,
    /// The segments of scheduling tables.
    pub schedules: Map,
    /// The interfaces for `bpf_redirect_map`.
    pub egress: Map,
    /// The program and its companions.
    pub ebpf: Ebpf,
    /// Whether the maps were there before.
    pub taken_over: bool,
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

use layout::{INTERFACE_BUCKETS, MAX_INTERFACES, TIMEOUT_SETS};

for_each_map!(maps);

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
        Ok(Opened {
            maps: Self::take(&mut ebpf, sizes, cpus)?,
            schedules: ebpf.take_map("SCHEDULES").ok_or(Error::NoMap("SCHEDULES"))?,
            egress: ebpf.take_map("EGRESS").ok_or(Error::NoMap("EGRESS"))?,
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

/// Loads the program's maps, pinned ones from their pins.
fn load(pins: Option<&Path>, sizes: Sizes, cpus: u32) -> Result<Ebpf, Error> {
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
    if let Some(pins) = pins {
        for map in MAPS {
            loader.map_pin_path(map.name, pins.join(map.name));
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
    if MAPS.iter().all(|map| !pins.join(map.name).exists()) {
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
    if control.read(0).version != layout::VERSION || MAPS.iter().any(|map| !pins.join(map.name).exists()) {
        return None;
    }
    let sizes = Sizes {
        services: entries("SERVICES")? / BANKS - 1,
        backends: entries("BACKENDS")? / BANKS - 1,
        flows_v4: entries("FLOWS_V4")? * FLOWS_PER_BUCKET as u32,
        flows_v6: entries("FLOWS_V6")? * FLOWS_PER_BUCKET as u32,
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
    for map in MAPS {
        remove(&pins.join(map.name))?;
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
