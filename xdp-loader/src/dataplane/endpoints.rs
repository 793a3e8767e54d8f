//! Lays out the endpoint tables: which address and port is which service, and which is a NAT backend.
//!
//! A bucket that is full spills into the next and says so; a packet looks at one bucket, rarely at two. The layout
//! is made anew for every change and written into the bank that is not in use.

use std::net::IpAddr;

use xdp_common::{
    hash,
    layout::{BucketV4, BucketV6, EndpointV4, EndpointV6, REACH, Target, any_port, port_protocol},
};

use super::words::{self, Words};

/// The buckets of both tables.
pub struct Endpoints {
    /// IPv4.
    pub v4: Vec<BucketV4>,
    /// IPv6.
    pub v6: Vec<BucketV6>,
}

/// A bucket and those after it are full: there are too many endpoints for the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Endpoints {
    /// Empty tables of so many buckets, a power of two.
    #[must_use]
    pub fn new(buckets: u32) -> Self {
        let buckets = buckets as usize;
        Self {
            v4: vec![BucketV4::default(); buckets],
            v6: vec![BucketV6::default(); buckets],
        }
    }

    /// Enters what an address and port stand for. Whoever is there already stays: several services may share a NAT
    /// backend, and a service comes before a backend at the same address.
    ///
    /// # Errors
    ///
    /// [`Full`], and nothing is entered.
    pub fn enter(&mut self, address: IpAddr, port: u16, protocol: u8, target: Target) -> Result<(), Full> {
        self.put(address, port_protocol(port.to_be(), protocol), target)
    }

    /// Enters whose packets without a port are: fragments.
    ///
    /// # Errors
    ///
    /// [`Full`], and nothing is entered.
    pub fn enter_any_port(&mut self, address: IpAddr, protocol: u8, target: Target) -> Result<(), Full> {
        self.put(address, any_port(protocol), target)
    }

    fn put(&mut self, address: IpAddr, port_protocol: u32, target: Target) -> Result<(), Full> {
        match words::of(address) {
            Words::V4(address) => {
                let key = EndpointV4::key(address, port_protocol);
                place(
                    &mut self.v4,
                    hash::endpoint_v4(key),
                    |endpoint| endpoint.key == key,
                    |endpoint| endpoint.key == 0,
                    |endpoint| endpoint.spilled = 1,
                    |endpoint| {
                        endpoint.key = key;
                        endpoint.target = target;
                    },
                )
            }
            Words::V6(address) => place(
                &mut self.v6,
                hash::endpoint_v6(address, port_protocol),
                |endpoint: &EndpointV6| endpoint.port_protocol == port_protocol && endpoint.address == address,
                |endpoint| endpoint.port_protocol == 0,
                |endpoint| endpoint.spilled = 1,
                |endpoint| {
                    endpoint.address = address;
                    endpoint.port_protocol = port_protocol;
                    endpoint.target = target;
                },
            ),
        }
    }
}

/// Puts an endpoint into its bucket or one of the next.
fn place<E, const WAYS: usize>(
    buckets: &mut [[E; WAYS]],
    hash: u32,
    is_same: impl Fn(&E) -> bool,
    is_free: impl Fn(&E) -> bool,
    spill: impl Fn(&mut E),
    write: impl Fn(&mut E),
) -> Result<(), Full> {
    let mask = buckets.len() - 1;
    let home = hash as usize & mask;
    let reach = (0..(REACH as usize).min(buckets.len())).map(|step| (home + step) & mask);
    for (step, number) in reach.clone().enumerate() {
        if buckets[number].iter().any(&is_same) {
            return Ok(());
        }
        if let Some(endpoint) = buckets[number].iter_mut().find(|endpoint| is_free(endpoint)) {
            write(endpoint);
            for passed in reach.take(step) {
                spill(&mut buckets[passed][0]);
            }
            return Ok(());
        }
    }
    Err(Full)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the packet path looks.
    fn find_v4(table: &[BucketV4], address: u32, port: u16, protocol: u8) -> Target {
        let key = EndpointV4::key(address, port_protocol(port.to_be(), protocol));
        let home = hash::endpoint_v4(key) as usize & (table.len() - 1);
        for step in 0..REACH as usize {
            let bucket = &table[(home + step) & (table.len() - 1)];
            if let Some(found) = bucket.iter().find(|endpoint| endpoint.key == key) {
                return found.target;
            }
            if bucket[0].spilled == 0 {
                break;
            }
        }
        Target::NONE
    }

    #[test]
    fn everything_that_was_entered_is_found_and_nothing_else() {
        let mut endpoints = Endpoints::new(16_384);
        for number in 0..20_000_u32 {
            let address = IpAddr::from((0x0a00_0000 + number / 10).to_be_bytes());
            assert_eq!(
                endpoints.enter(address, 80 + (number % 10) as u16, 6, Target(number + 1)),
                Ok(())
            );
        }
        assert!(
            endpoints.v4.iter().any(|bucket| bucket[0].spilled != 0),
            "the test is to cover spilled buckets"
        );
        for number in 0..20_000_u32 {
            let address = (0x0a00_0000 + number / 10).to_be();
            let port = 80 + (number % 10) as u16;
            assert_eq!(find_v4(&endpoints.v4, address, port, 6), Target(number + 1));
            assert_eq!(find_v4(&endpoints.v4, address, port, 17), Target::NONE);
            assert_eq!(find_v4(&endpoints.v4, address, port + 100, 6), Target::NONE);
        }
    }

    #[test]
    fn a_full_table_says_so_and_keeps_what_it_has() {
        let mut endpoints = Endpoints::new(2);
        let entered = (0..16_u8)
            .filter(|last| {
                endpoints
                    .enter(IpAddr::from([10, 0, 0, *last]), 80, 6, Target(9))
                    .is_ok()
            })
            .count();
        assert_eq!(entered, 8);
        let mut endpoints = Endpoints::new(2);
        let entered = (0..16_u16)
            .filter(|last| {
                endpoints
                    .enter(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, *last]), 80, 6, Target(9))
                    .is_ok()
            })
            .count();
        assert_eq!(entered, 8);
    }

    #[test]
    fn a_backend_that_two_services_share_is_entered_once() {
        let mut endpoints = Endpoints::new(16);
        let address = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(endpoints.enter(address, 80, 6, Target::REAL), Ok(()));
        assert_eq!(endpoints.enter(address, 80, 6, Target::REAL), Ok(()));
        let found: usize = endpoints
            .v4
            .iter()
            .flatten()
            .filter(|endpoint| endpoint.key != 0)
            .count();
        assert_eq!(found, 1);
    }
}
