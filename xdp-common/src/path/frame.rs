//! Frame: the bytes of a packet. Each view is checked against the frame's end first; the verifier insists.

use crate::wire::Ethernet;

/// The bytes of a frame.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// The frame between two addresses.
    ///
    /// # Safety
    ///
    /// The bytes must be readable and writable for as long as the frame or a view of it is used, by nobody else.
    #[inline(always)]
    #[must_use]
    pub const unsafe fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// A view of what stands `at` bytes into the frame, if all of it is there.
    #[inline(always)]
    #[must_use]
    pub fn view<T>(self, at: usize) -> Option<*mut T> {
        let start = self.start + at;
        if start + size_of::<T>() > self.end {
            return None;
        }
        Some(start as *mut T)
    }

    /// So many bytes `at` bytes into the frame, if all of them are there. For the host: the verifier wants to know how many.
    #[must_use]
    pub fn bytes(self, at: usize, length: usize) -> Option<*mut [u8]> {
        let start = self.start + at;
        (start + length <= self.end).then(|| core::ptr::slice_from_raw_parts_mut(start as *mut u8, length))
    }

    /// Where in the frame this is.
    #[inline(always)]
    #[must_use]
    pub fn offset<T>(self, view: *mut T) -> usize {
        view as usize - self.start
    }

    /// Bytes of the frame.
    #[inline(always)]
    #[must_use]
    pub const fn length(self) -> usize {
        self.end - self.start
    }

    /// The Ethernet header, whose presence parsing has proven.
    #[inline(always)]
    #[must_use]
    pub const fn ethernet(self) -> *mut Ethernet {
        self.start as *mut Ethernet
    }
}
