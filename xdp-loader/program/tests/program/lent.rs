//! Programs are lent to the tests, one after the other: to load one takes the verifier half a second, and ten where the
//! processor is emulated.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
    thread,
};

use lvx_dataplane::{Tables, census::Census};
use lvx_model::{Desired, health::HealthView};
use lvx_netlink::{LinkTable, NextHops};
use xdp_common::layout::{BucketFlow, Control};

use crate::network::Namespace;

/// Those that nobody uses.
static IDLE: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

/// Tables that many tests use, one at a time, and the network that they know.
pub struct Shared {
    tables: Tables,
    namespace: Namespace,
    /// As it was when the tables were new.
    control: Control,
}

/// Tables: a test's own, or lent to it until it drops them.
pub enum Lent {
    Own(Box<Tables>),
    Shared(Option<Box<Shared>>),
}

impl Lent {
    /// Tables without a service or a flow, and this thread in their network namespace. `open` makes new ones.
    pub fn new(open: impl FnOnce() -> Tables) -> (Self, LinkTable) {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let shared = match idle {
            Some(mut shared) => {
                shared.namespace.enter();
                shared.clear();
                shared
            }
            None => {
                let namespace = Namespace::new();
                let tables = open();
                let control = tables.maps().control().read(0);
                Shared {
                    tables,
                    namespace,
                    control,
                }
            }
        };
        let links = shared.namespace.links.clone();
        (Self::Shared(Some(Box::new(shared))), links)
    }
}

impl Shared {
    /// Removes all that a test may have left, but for numbers, which are given out further, and counters.
    fn clear(&mut self) {
        let tables = &mut self.tables;
        tables
            .apply(
                &Desired::default(),
                &NextHops::default(),
                &HealthView::default(),
                &self.namespace.links,
            )
            .unwrap();
        let gone = tables.gone();
        let maps = tables.maps();
        for flows in [&maps.flows_v4, &maps.flows_v6] {
            let flows = flows.whole().unwrap();
            for bucket in 0..flows.len() {
                flows.write(bucket, &BucketFlow::default());
            }
        }
        let turns = maps.turns.whole().unwrap();
        for service in 0..turns.len() {
            turns.write(service, &0);
        }
        let mut control = self.control;
        control.mode = maps.control().read(0).mode;
        maps.control().write(0, &control);
        tables.swept(gone, &Census::default()).unwrap();
    }
}

impl Deref for Lent {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        match self {
            Self::Own(tables) => tables,
            Self::Shared(shared) => &shared.as_ref().unwrap().tables,
        }
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Tables {
        match self {
            Self::Own(tables) => tables,
            Self::Shared(shared) => &mut shared.as_mut().unwrap().tables,
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Self::Shared(shared) = self
            && let Some(shared) = shared.take()
            && !thread::panicking()
        {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(*shared);
        }
    }
}
