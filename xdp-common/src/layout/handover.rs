/// What the program that is attached leaves for the one in which a flow begins: what it has found out of the packet. One for
/// each CPU, 64 bytes: a cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Handover {
    /// The client's number ([`super::ClientId`]).
    pub client: u64,
    /// Bytes of the packet from the IP header on.
    pub bytes: u64,
    /// If the packet is a datagram's first fragment, its identification above a set bit; else 0.
    pub first: u64,
    /// Where the IP header starts in the frame.
    pub ip: u32,
    /// Where the transport header starts in the frame.
    pub transport: u32,
    /// IP's number of the transport protocol.
    pub protocol: u32,
    /// The service's number.
    pub service: u32,
    /// The slot of the bucket to use again, or none of them.
    pub reuse: u32,
    /// The backend of a flow that goes on and whose client's template has to be noted; 0 for a flow that begins.
    pub backend: u32,
    /// [`super::Control::mode`] as the program before has read it: a packet sees one configuration.
    pub mode: u64,
    /// The number of the backend that a predecessor says the client persists with; 0 if it says none.
    pub persistent: u32,
    /// The [`crate::verdict::Verdict`] under which the packet is to be dropped.
    pub verdict: u32,
}

const _: () = assert!(size_of::<Handover>() == 64);
