//! Arrays of the kernel in this process's memory: `BPF_F_MMAPABLE` maps, read and written without system calls.
//!
//! Packets use the same memory at the same time. So everything goes through volatile words of eight bytes, which a
//! packet sees whole; what is larger than a word is either written where no packet looks yet or guarded by a key.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

use rustix::mm::{MapFlags, ProtFlags};

/// Bytes of a page: windows begin at a whole number of them.
pub const PAGE: usize = 4096;

/// Types that a map may hold: any bytes are a value, and the size is a whole number of words.
///
/// # Safety
///
/// The type must be `#[repr(C)]` (or an array of such), without padding, valid for any bytes, and a multiple of eight
/// bytes long.
pub unsafe trait Value: Copy {}

/// Some entries of an array, mapped.
pub struct Memory<T> {
    start: NonNull<T>,
    length: usize,
    _entries: PhantomData<T>,
}

// SAFETY: the memory belongs to the kernel's map; it is only read and written as volatile or atomic words.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above; writers to the same entry are the reconciler, which is one, and packets.
unsafe impl<T: Sync> Sync for Memory<T> {}

impl<T: Value> Memory<T> {
    /// Maps `length` entries of an array from entry `first` on, which must begin a page.
    ///
    /// # Errors
    ///
    /// The kernel's, such as `EINVAL` for a map that is not mmapable or too short.
    pub fn map(map: BorrowedFd<'_>, first: usize, length: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(size_of::<u64>())) }
        let offset = first * size_of::<T>();
        if !offset.is_multiple_of(PAGE) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("entry {first} does not begin a page"),
            ));
        }
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length * size_of::<T>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.as_fd(),
                offset as u64,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("the kernel mapped at address 0"))?;
        Ok(Self {
            start,
            length,
            _entries: PhantomData,
        })
    }

    /// How many entries are mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The words of an entry.
    ///
    /// # Panics
    ///
    /// If there is no such entry.
    #[must_use]
    pub fn words(&self, index: usize) -> &[AtomicU64] {
        assert!(index < self.length, "entry {index} of {}", self.length);
        let words = size_of::<T>() / size_of::<u64>();
        // SAFETY: the entry is inside the mapping, aligned as the kernel aligns values, to eight bytes; atomics may be
        // written by others at any time.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(index).cast(), words) }
    }

    /// A word of an entry.
    ///
    /// # Panics
    ///
    /// If there is no such entry or word.
    #[must_use]
    pub fn word(&self, index: usize, word: usize) -> &AtomicU64 {
        &self.words(index)[word]
    }

    /// Reads an entry, each word whole.
    ///
    /// # Panics
    ///
    /// If there is no such entry.
    #[must_use]
    pub fn read(&self, index: usize) -> T {
        assert!(index < self.length, "entry {index} of {}", self.length);
        // SAFETY: the entry is inside the mapping, and `T` is valid for any bytes. Packets may write at the same time:
        // each word is theirs from before or after.
        unsafe { self.start.as_ptr().add(index).read_volatile() }
    }

    /// Writes an entry that no packet looks at, or whose writer this is alone.
    ///
    /// # Panics
    ///
    /// If there is no such entry.
    pub fn write(&self, index: usize, value: &T) {
        assert!(index < self.length, "entry {index} of {}", self.length);
        // SAFETY: the entry is inside the mapping.
        unsafe { self.start.as_ptr().add(index).write_volatile(*value) }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and no reference outlives it.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length * size_of::<T>()) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own is unmapped");
    }
}

/// Waits until every packet that is under way has left the program: a grace period of RCU.
///
/// `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu()` (kernel `kernel/sched/membarrier.c`), and an XDP program runs inside a
/// read-side section. Where the command is not to be had, waiting a tenth of a second does for any packet.
pub fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

mod values {
    use xdp_common::layout;

    use super::Value;

    macro_rules! values {
        ($($type:ty),* $(,)?) => {
            $(
                // SAFETY: `xdp_common` has no padding in the types of its maps and asserts their sizes.
                unsafe impl Value for $type {}
            )*
        };
    }

    values!(
        layout::Control,
        layout::BucketV4,
        layout::BucketV6,
        layout::Service,
        layout::Backend,
        layout::Underlay,
        layout::Limit,
        layout::Connections,
        layout::Timeouts,
        layout::Chunk,
        layout::BucketFlow,
        layout::BucketClients,
        layout::HopBucket,
        layout::Interface,
        layout::HostMacBucket,
        layout::InterfaceBucket,
        layout::BackendCounters,
        layout::Verdicts,
        layout::Handover,
        layout::Answers,
        xdp_common::succession::Found,
        u64,
    );
}
