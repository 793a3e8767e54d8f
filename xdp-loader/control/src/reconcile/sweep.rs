//! Sweeps of the flow tables: counted every second, and those that are over forgotten. Losses are looked for as often.

use std::{panic::resume_unwind, sync::Arc, time::Duration};

use lvx_dataplane::{Error, flows};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::error;

use super::Shared;

/// How often flows are counted and those that are over forgotten.
const SWEEP: Duration = Duration::from_secs(1);

impl Shared {
    /// Counts the flows from time to time, and forgets those that are over.
    pub(super) async fn sweep(self: Arc<Self>) {
        let mut tick = interval(SWEEP);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let shared = Arc::clone(&self);
            match spawn_blocking(move || shared.sweep_once()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!(%error, "the flows, or losses, could not be counted"),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    Err(error) => error!(%error, "the flows could not be counted"),
                },
            }
        }
    }

    /// One sweep. The tables are locked only to ask what is gone and to say that it is forgotten.
    fn sweep_once(&self) -> Result<(), Error> {
        let (gone, clock, rules) = {
            let mut tables = self.tables.blocking_lock();
            (tables.gone(), tables.clock(), tables.rules())
        };
        let census = flows::sweep(&self.maps, clock.now(), &rules, &gone)?;
        let mut tables = self.tables.blocking_lock();
        tables.swept(gone, &census)?;
        let read = tables.snapshot();
        self.published.set(|snapshot| {
            snapshot.census = Arc::new(census);
            snapshot.tables = read;
        });
        drop(tables);
        self.look_for_losses()
    }
}
