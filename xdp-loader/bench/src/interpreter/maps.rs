//! The maps of a program that is loaded, as an interpreted one sees them: the same memory.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    maps::{MapData, MapType},
};
use lvx_dataplane::memory::Memory;

use super::{object::Object, space::Space};
use crate::wrapper::program;

/// `BPF_F_MMAPABLE` (kernel `include/uapi/linux/bpf.h`).
const MMAPABLE: u32 = 1 << 10;
/// Characters of a map's name that the kernel keeps.
const NAME: usize = 15;

/// A map.
pub enum Map {
    /// An array: its first address, the bytes from one entry to the next, and how many there are.
    Array {
        /// The address of entry 0.
        start: u64,
        /// Bytes from one to the next.
        stride: u64,
        /// Entries.
        entries: u32,
    },
    /// An array of arrays: those that were looked at, by their identity.
    Arrays {
        /// The outer array.
        outer: MapData,
        /// The place of an inner one in [`Maps`].
        inner: BTreeMap<u32, usize>,
    },
    /// Interfaces.
    Interfaces(MapData),
    /// What only helpers look into.
    Other,
}

/// All maps, those of the object in its order.
pub struct Maps(Vec<Map>);

impl Maps {
    /// The maps of the object's programs that are loaded.
    pub fn of(object: &Object, loaded: &Ebpf, space: &mut Space) -> Result<Self> {
        let mut live = BTreeMap::new();
        for (name, _) in object.programs() {
            let ids = program(loaded, name)?.info()?.map_ids()?;
            for id in ids.context("the kernel does not tell the maps of a program")? {
                let map = MapData::from_id(id)?;
                live.insert(map.info()?.name().to_vec(), map);
            }
        }
        let maps = object.maps().iter().map(|name| {
            let known = &name.as_bytes()[..name.len().min(NAME)];
            match live.remove(known) {
                Some(map) => Map::of(map, space).with_context(|| format!("map {name}")),
                None => Ok(Map::Other),
            }
        });
        Ok(Self(maps.collect::<Result<_>>()?))
    }

    /// What `bpf_map_lookup_elem` says: a value's address, or for an array of arrays a place in this; `None` if there is none.
    pub fn lookup(&mut self, place: usize, key: u32, space: &mut Space) -> Result<Option<Found>> {
        let next = self.0.len();
        let id = match self.0.get(place).context("there is no such map")? {
            Map::Array { start, stride, entries } => {
                return Ok((key < *entries).then(|| Found::Value(start + u64::from(key) * stride)));
            }
            Map::Arrays { outer, .. } => lookup(outer, key)?,
            Map::Interfaces(map) => return Ok(lookup(map, key)?.map(|_| Found::Value(0))),
            Map::Other => bail!("a lookup in a map that is no array"),
        };
        let (Some(id), Map::Arrays { inner, .. }) = (id, &mut self.0[place]) else {
            return Ok(None);
        };
        let found = *inner.entry(id).or_insert(next);
        if found == next {
            self.0.push(Map::of(MapData::from_id(id)?, space)?);
        }
        Ok(Some(Found::Map(found)))
    }
}

/// What is found in a map.
pub enum Found {
    /// The address of a value.
    Value(u64),
    /// The place of an inner map.
    Map(usize),
}

impl Map {
    /// A map of the kernel.
    fn of(map: MapData, space: &mut Space) -> Result<Self> {
        let info = map.info()?;
        let (size, entries) = (info.value_size() as usize, info.max_entries());
        let stride = size.next_multiple_of(8);
        Ok(match info.map_type()? {
            MapType::Array => Self::Array {
                start: if info.map_flags() & MMAPABLE != 0 {
                    space.share(Memory::map(map.fd().as_fd(), 0, entries as usize * stride / 8)?)
                } else {
                    space.own(copy(&map, entries, size, stride)?)
                },
                stride: stride as u64,
                entries,
            },
            MapType::ArrayOfMaps => Self::Arrays {
                outer: map,
                inner: BTreeMap::new(),
            },
            MapType::DevMap => Self::Interfaces(map),
            _ => Self::Other,
        })
    }
}

/// The entries of an array that cannot be mapped: what the program writes there stays here.
fn copy(map: &MapData, entries: u32, size: usize, stride: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; entries as usize * stride];
    for (key, entry) in (0..entries).zip(bytes.chunks_exact_mut(stride)) {
        read(map, key, &mut entry[..size])?;
    }
    Ok(bytes)
}

/// A map's value of four bytes, if it has the key.
fn lookup(map: &MapData, key: u32) -> Result<Option<u32>> {
    let mut value = [0; 8];
    match read(map, key, &mut value) {
        Ok(()) => Ok(Some(u32::from_ne_bytes([value[0], value[1], value[2], value[3]]))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads a value, of the map's size at most.
fn read(map: &MapData, key: u32, value: &mut [u8]) -> io::Result<()> {
    /// `union bpf_attr` of `BPF_MAP_LOOKUP_ELEM`.
    #[repr(C)]
    struct Lookup {
        map: u32,
        room: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
    let lookup = Lookup {
        map: map.fd().as_fd().as_raw_fd() as u32,
        room: 0,
        key: &raw const key as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads the four bytes of the key and writes a value; callers give room for one.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_ELEM,
            &raw const lookup,
            size_of::<Lookup>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
