/// Which of the kernel's failures to transmit are of this dataplane's packets, and where the kernel keeps what tells: the only
/// entry of map `LOSS_FILTER`. Tracepoints see all packets of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LossFilter {
    /// The kernel's numbers of the devmaps that packets are redirected through: this dataplane's, and during an upgrade its
    /// predecessor's. 0 is no map's.
    pub devmaps: [u32; 2],
    /// The inode of the daemon's network namespace: an interface's index is an interface only within one.
    pub namespace: u32,
    /// Where a `struct net_device` has its index, bytes.
    pub ifindex_at: u32,
    /// Where it points to its network namespace.
    pub net_at: u32,
    /// Where a `struct net` has its inode.
    pub inode_at: u32,
}

impl LossFilter {
    /// Its fields in order, as the loader writes them.
    #[must_use]
    pub const fn words(self) -> [u32; 6] {
        let [own, former] = self.devmaps;
        [own, former, self.namespace, self.ifindex_at, self.net_at, self.inode_at]
    }
}

const _: () = assert!(size_of::<LossFilter>() == 24);
