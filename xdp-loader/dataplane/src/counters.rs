//! What packets have counted, summed over CPUs.

use std::collections::BTreeMap;

use xdp_common::{
    layout::{BackendCounters, Connections, MAX_INTERFACES},
    succession::VerdictRecord,
    verdict::Verdict,
};

use super::{Error, Maps};

/// The counters of these backends.
///
/// # Errors
///
/// If the kernel does not map the counters.
pub fn backends(maps: &Maps, numbers: impl IntoIterator<Item = u32>) -> Result<BTreeMap<u32, BackendCounters>, Error> {
    let counters = maps.backend_counters.whole()?;
    let stride = maps.sizes().backends as usize + 1;
    Ok(numbers
        .into_iter()
        .map(|number| {
            // After the last CPU's stands what was counted before these maps.
            let sum = (0..=maps.cpus() as usize).fold(BackendCounters::default(), |sum, cpu| {
                add(sum, counters.read(cpu * stride + number as usize))
            });
            (number, sum)
        })
        .collect())
}

/// The sum of two CPUs' counters.
#[must_use]
pub fn add(a: BackendCounters, b: BackendCounters) -> BackendCounters {
    BackendCounters {
        packets_in: a.packets_in + b.packets_in,
        bytes_in: a.bytes_in + b.bytes_in,
        packets_out: a.packets_out + b.packets_out,
        bytes_out: a.bytes_out + b.bytes_out,
        connections: a.connections + b.connections,
        room: a.room,
    }
}

/// Sets the counters of a backend to zero. Only for one that no packet counts for yet.
///
/// # Errors
///
/// If the kernel does not map the counters.
pub fn reset(maps: &Maps, numbers: &[u32]) -> Result<(), Error> {
    if numbers.is_empty() {
        return Ok(());
    }
    let counters = maps.backend_counters.whole()?;
    let connections = maps.connections.whole()?;
    let stride = maps.sizes().backends as usize + 1;
    for number in numbers {
        connections.write(*number as usize, &Connections::default());
        for cpu in 0..=maps.cpus() as usize {
            counters.write(cpu * stride + *number as usize, &BackendCounters::default());
        }
    }
    Ok(())
}

/// The verdicts on an interface's packets, by its slot.
///
/// # Errors
///
/// If the kernel does not map the counters.
pub fn verdicts(maps: &Maps, slot: u32) -> Result<Vec<(Verdict, u64)>, Error> {
    let counters = maps.verdict_counters.whole()?;
    let rows: Vec<_> = (0..=maps.cpus())
        .map(|cpu| counters.read((cpu * MAX_INTERFACES + slot) as usize))
        .collect();
    Ok(Verdict::ALL
        .into_iter()
        .map(|verdict| (verdict, rows.iter().map(|row| row[verdict as usize]).sum()))
        .collect())
}

/// Packets of interfaces, by slot, that the kernel could not transmit: one number per reason, as [`Verdict::LOST`] has them.
///
/// # Errors
///
/// If the kernel does not map the counters.
pub fn lost(maps: &Maps, slots: impl IntoIterator<Item = u32>) -> Result<BTreeMap<u32, [u64; 4]>, Error> {
    let counters = maps.verdict_counters.whole()?;
    let sum = |slot: u32| {
        let rows = (0..=maps.cpus()).map(|cpu| counters.read((cpu * MAX_INTERFACES + slot) as usize));
        rows.fold([0; 4], |sum: [u64; 4], row| {
            std::array::from_fn(|reason| sum[reason] + row[Verdict::LOST[reason] as usize])
        })
    };
    Ok(slots.into_iter().map(|slot| (slot, sum(slot))).collect())
}

/// Enters what had been counted for backends, by number, before these maps were made.
///
/// # Errors
///
/// If the kernel does not map the counters.
pub fn before_of_backends(maps: &Maps, counted: impl IntoIterator<Item = (u32, BackendCounters)>) -> Result<(), Error> {
    let counters = maps.backend_counters.whole()?;
    let first = maps.cpus() as usize * (maps.sizes().backends as usize + 1);
    for (number, counted) in counted {
        counters.write(first + number as usize, &counted);
    }
    Ok(())
}

/// Enters what had been counted on interfaces, by slot, before these maps were made.
///
/// # Errors
///
/// If the kernel does not map the counters.
pub fn before_of_interfaces(maps: &Maps, counted: &[VerdictRecord]) -> Result<(), Error> {
    let counters = maps.verdict_counters.whole()?;
    for (slot, counted) in counted.iter().enumerate() {
        counters.write((maps.cpus() * MAX_INTERFACES) as usize + slot, counted);
    }
    Ok(())
}
