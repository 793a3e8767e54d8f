//! Lays out the endpoint tables: which address and port is which service, and which is a NAT backend.
//!
//! A bucket that is full spills into the next and says so; a packet looks at one bucket, rarely at two. The layout
//! is made anew for every change of the endpoints and written into the bank that is not in use.

use std::{net::IpAddr, sync::Arc};

use xdp_common::{
    hash,
    layout::{BANKS, BucketV4, BucketV6, EndpointV4, EndpointV6, REACH, Target, any_port, port_protocol},
};

use super::{
    Error, Maps,
    words::{self, Words},
};

/// What the tables are laid out from: addresses with [`port_protocol`], and what they stand for. Of several that are the
/// same the first counts: several services may share a NAT backend, and a service comes before a backend at the same
/// address.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct List(Vec<(IpAddr, u32, Target)>);

impl List {
    /// Adds what an address and port stand for.
    pub fn add(&mut self, address: IpAddr, port: u16, protocol: u8, target: Target) {
        self.0.push((address, port_protocol(port.to_be(), protocol), target));
    }

    /// Adds whose packets without a port are: fragments.
    pub fn add_any_port(&mut self, address: IpAddr, protocol: u8, target: Target) {
        self.0.push((address, any_port(protocol), target));
    }

    /// Whether there is a NAT backend.
    #[must_use]
    pub fn has_backends(&self) -> bool {
        self.0.iter().any(|(_, _, target)| *target == Target::REAL)
    }

    /// The tables, of so many buckets each, a power of two.
    ///
    /// # Errors
    ///
    /// [`Full`] if they do not fit.
    pub fn lay_out(&self, buckets: u32) -> Result<Endpoints, Full> {
        let mut endpoints = Endpoints::new(buckets);
        for (address, port_protocol, target) in &self.0 {
            endpoints.put(*address, *port_protocol, *target)?;
        }
        Ok(endpoints)
    }
}

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
    fn new(buckets: u32) -> Self {
        let buckets = buckets as usize;
        Self {
            v4: vec![BucketV4::default(); buckets],
            v6: vec![BucketV6::default(); buckets],
        }
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

/// What the tables of each bank were laid out from, as far as that is known. Most changes do not change it.
#[derive(Debug, Default)]
pub struct Banks([Option<Arc<List>>; 2]);

impl Banks {
    /// Writes the tables of a bank that packets do not use, if they are not so already.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] if they have no room, and then nothing is written; or if the kernel does not map them.
    pub fn write(&mut self, maps: &Maps, bank: u32, list: List) -> Result<(), Error> {
        let (this, other) = (bank as usize, 1 - bank as usize);
        if self.0[this].as_deref() == Some(&list) {
            return Ok(());
        }
        let buckets = maps.sizes().endpoint_buckets();
        let endpoints = list.lay_out(buckets).map_err(|_| Error::Full {
            what: "backends",
            limit: buckets,
            setting: "max_backends",
        })?;
        // Until all is written, nothing is known of the bank.
        self.0[this] = None;
        let (v4, v6) = (maps.endpoints_v4.whole()?, maps.endpoints_v6.whole()?);
        let places = || (bank as usize..).step_by(BANKS as usize);
        for (place, bucket) in places().zip(&endpoints.v4) {
            v4.write(place, bucket);
        }
        for (place, bucket) in places().zip(&endpoints.v6) {
            v6.write(place, bucket);
        }
        let same = self.0[other].clone().filter(|other| **other == list);
        self.0[this] = Some(same.unwrap_or_else(|| Arc::new(list)));
        Ok(())
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
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

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

    fn enter(endpoints: &mut Endpoints, address: IpAddr, port: u16, target: Target) -> Result<(), Full> {
        endpoints.put(address, port_protocol(port.to_be(), 6), target)
    }

    #[test]
    fn everything_that_was_entered_is_found_and_nothing_else() {
        let mut endpoints = Endpoints::new(16_384);
        for number in 0..20_000_u32 {
            let address = IpAddr::from((0x0a00_0000 + number / 10).to_be_bytes());
            assert_eq!(
                enter(&mut endpoints, address, 80 + (number % 10) as u16, Target(number + 1)),
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
            .filter(|last| enter(&mut endpoints, IpAddr::from([10, 0, 0, *last]), 80, Target(9)).is_ok())
            .count();
        assert_eq!(entered, 8);
        let mut endpoints = Endpoints::new(2);
        let entered = (0..16_u16)
            .filter(|last| {
                let address = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, *last]);
                enter(&mut endpoints, address, 80, Target(9)).is_ok()
            })
            .count();
        assert_eq!(entered, 8);
    }

    #[test]
    fn a_backend_that_two_services_share_is_entered_once() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let mut list = List::default();
        list.add(address, 80, 6, Target::REAL);
        list.add(address, 80, 6, Target::REAL);
        let endpoints = list.lay_out(16).unwrap();
        let found: usize = endpoints
            .v4
            .iter()
            .flatten()
            .filter(|endpoint| endpoint.key != 0)
            .count();
        assert_eq!(found, 1);
    }
}
