//! The maps that are read and written through memory.

use std::{marker::PhantomData, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use xdp_common::{
    for_each_map,
    layout::{
        Answers, BANKS, Backend, BackendCounters, BucketClients, BucketFlow, BucketV4, BucketV6, Connections, Control,
        HOST_MAC_BUCKETS, Handover, HopBucket, HostMacBucket, INTERFACE_BUCKETS, Interface, InterfaceBucket, Limit,
        MAX_INTERFACES, Service, Sizes, TIMEOUT_SETS, Timeouts, Underlay, Verdicts,
    },
    succession::Found,
};

use crate::{
    Error,
    memory::{Memory, Value},
};

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
            pub(crate) fn take(ebpf: &mut Ebpf, sizes: Sizes, cpus: u32) -> Result<Self, Error> {
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
pub(crate) fn steering(ebpf: &Ebpf) -> Result<Memory<Control>, Error> {
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
