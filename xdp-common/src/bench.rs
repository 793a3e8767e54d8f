//! What the measuring programs and the program that runs them share. No part of LVX itself.

/// Bytes of the largest frame that is restored between two runs of a program.
pub const FRAME: usize = 80;

/// Bytes of the smallest.
pub const SHORT_FRAME: usize = 64;

/// Flows of one client address, each from a port of its own. A power of two.
pub const PORTS_PER_CLIENT: u32 = 16;

/// How the flows of successive frames follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// One after the other, from the first again after the last.
    InTurn = 0,
    /// At random, each as likely as any other.
    AtRandom = 1,
}

/// A frame, and how it is varied from one run to the next: one for each CPU.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Script {
    /// The frame of flow 0, [`SHORT_FRAME`] or [`FRAME`] bytes of it.
    pub frame: [u64; FRAME / 8],
    /// Bytes in the frame.
    pub length: u32,
    /// Where the low word of the client's address stands in the frame.
    pub address_at: u32,
    /// Where the client's port stands.
    pub port_at: u32,
    /// Where the low word of the service's address stands.
    pub service_at: u32,
    /// The client's address of flow 0, low word, in host order.
    pub address: u32,
    /// The service's address, low word, in host order.
    pub service: u32,
    /// [`Order`].
    pub order: u32,
    /// Number of the first flow.
    pub first: u32,
    /// How many flows there are.
    pub flows: u32,
    /// How many services, at successive addresses, the flows go to.
    pub services: u32,
    /// How many frames have been made, or the state of the random sequence.
    pub sequence: u64,
}

const _: () = assert!(size_of::<Script>() == FRAME + 48);

impl Script {
    /// The number of the next frame's flow.
    #[inline(always)]
    pub fn advance(&mut self) -> u32 {
        if self.order == Order::AtRandom as u32 {
            // Knuth's linear congruential sequence (MMIX); the high half is the good one.
            self.sequence = self
                .sequence
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            self.first + (((self.sequence >> 32) * u64::from(self.flows)) >> 32) as u32
        } else {
            let flow = self.sequence as u32;
            self.sequence = if flow + 1 >= self.flows { 0 } else { u64::from(flow + 1) };
            self.first + flow
        }
    }

    /// The low word of the client's address of a flow, as on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn client(&self, flow: u32) -> u32 {
        self.address.wrapping_add(flow / PORTS_PER_CLIENT).to_be()
    }

    /// The client's port of a flow, as on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn port(flow: u32) -> u16 {
        ((1024 + (flow % PORTS_PER_CLIENT) * 4001) as u16).to_be()
    }

    /// The low word of the service's address of a flow, as on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn destination(&self, flow: u32) -> u32 {
        let spread = flow.wrapping_mul(0x9e37_79b1) as u64;
        self.service
            .wrapping_add(((spread * self.services as u64) >> 32) as u32)
            .to_be()
    }
}
