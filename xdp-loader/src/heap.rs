//! What the C library's allocator keeps of the memory that was given back to it.

/// Bytes from which on an allocation is a mapping of its own, and of which so many at most may be free at the heap's end.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 * 1024;

/// Has memory that is no longer used go back to the kernel. To be called before there are threads.
///
/// Large configurations are worked out in large pieces that live for milliseconds. By itself, glibc raises both limits
/// to the largest piece that it has seen go (`mallopt(3)`, "dynamic mmap threshold"), up to 32 and 64 MiB for each
/// thread's heap, and keeps as much for the next time. Setting them ends that.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    for limit in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: the call takes no pointers, and no other thread is there to allocate meanwhile.
        if unsafe { libc::mallopt(limit, LARGE) } == 0 {
            tracing::debug!(
                limit,
                "the allocator does not take the limit; it will keep more memory than it uses"
            );
        }
    }
}
