//! Table: an array of entries that packets and whoever configures them share, as a map of the kernel is.

use core::cell::UnsafeCell;
use std::boxed::Box;

/// An array of entries, all zero at first.
pub struct Table<V> {
    entries: Box<[UnsafeCell<V>]>,
}

// SAFETY: as in the kernel, entries that several CPUs change are words that are read and written as atomics, and all others
// are written where nobody reads.
unsafe impl<V: Send> Sync for Table<V> {}

impl<V: Copy> Table<V> {
    /// So many entries. The values must be valid when all their bytes are zero, as those of all maps are.
    pub(super) fn new(entries: u32) -> Self {
        let entries = Box::<[UnsafeCell<V>]>::new_zeroed_slice(entries as usize);
        // SAFETY: the layouts of maps are valid for any bytes.
        let entries = unsafe { entries.assume_init() };
        Self { entries }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where an entry is.
    pub(super) fn pointer(&self, place: u32) -> Option<*mut V> {
        self.entries.get(place as usize).map(UnsafeCell::get)
    }

    /// Reads an entry.
    ///
    /// # Panics
    ///
    /// If there is no such entry.
    #[must_use]
    pub fn read(&self, place: usize) -> V {
        // SAFETY: the entry is there, and valid for any bytes.
        unsafe { self.entries[place].get().read_volatile() }
    }

    /// Writes an entry that no packet looks at.
    ///
    /// # Panics
    ///
    /// If there is no such entry.
    pub fn write(&self, place: usize, value: V) {
        // SAFETY: the entry is there, and nobody reads it meanwhile.
        unsafe { self.entries[place].get().write_volatile(value) }
    }
}
