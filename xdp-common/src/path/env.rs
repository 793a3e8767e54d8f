//! Env: what every step may look at.

use super::{Frame, platform::Platform};
use crate::layout::{Backend, ClientKeys, Control, Service};

/// What every step may look at.
pub struct Env<P: Platform> {
    /// What this runs on.
    pub platform: P,
    /// The packet, as the platform knows it.
    pub context: P::Context,
    /// Its bytes.
    pub frame: Frame,
    /// The bank of the configuration that this packet uses.
    pub bank: u32,
    /// The word that names the bank, with its flags.
    pub mode: u64,
    control: *const Control,
}

impl<P: Platform> Env<P> {
    /// That of a packet.
    #[inline(always)]
    pub fn of(platform: P, context: P::Context) -> Option<Self> {
        let control = platform.control(0)?.cast_const();
        // SAFETY: the word is a table's, and is read once.
        let mode = unsafe { platform.load(&raw const (*control).mode) };
        Self::with(platform, context, mode)
    }

    /// That of a packet for which the program before has read this [`Control::mode`].
    #[inline(always)]
    pub fn with(platform: P, context: P::Context, mode: u64) -> Option<Self> {
        let control = platform.control(0)?.cast_const();
        Some(Self {
            platform,
            context,
            frame: platform.frame(context),
            bank: mode as u32 & 1,
            mode,
            control,
        })
    }

    /// Whether NAT backends may have sent the packet.
    #[inline(always)]
    pub const fn answers(&self) -> bool {
        self.mode & Control::ANSWERS != 0
    }

    /// Whether packets go to the predecessor.
    #[inline(always)]
    pub const fn is_waiting(&self) -> bool {
        self.mode & Control::WAITING != 0
    }

    /// Whether what is not known here may be the predecessor's.
    #[inline(always)]
    pub const fn is_succeeding(&self) -> bool {
        self.mode & Control::SUCCEEDING != 0
    }

    /// The words that steer the packet path. Some change while packets run.
    #[inline(always)]
    pub const fn control(&self) -> *const Control {
        self.control
    }

    /// What makes the places of flows unpredictable.
    #[inline(always)]
    pub const fn keys(&self) -> &ClientKeys {
        // SAFETY: the entry is the table's only one, and its keys are set before the first packet.
        unsafe { &(*self.control).keys }
    }

    /// The logarithm of the jiffies in the shortest unit of a flow's last-seen time.
    #[inline(always)]
    pub const fn tick(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.control).tick }
    }

    /// The backend with this number, in this packet's bank.
    #[inline(always)]
    pub fn backend(&self, number: u32) -> Option<&Backend> {
        // SAFETY: a bank is not written while packets may read it.
        self.platform
            .backends(number << 1 | self.bank)
            .map(|it| unsafe { &*it })
    }

    /// The service with this number, in this packet's bank.
    #[inline(always)]
    pub fn service(&self, number: u32) -> Option<&Service> {
        // SAFETY: as above.
        self.platform
            .services(number << 1 | self.bank)
            .map(|it| unsafe { &*it })
    }
}
