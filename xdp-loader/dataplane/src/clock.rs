//! Jiffies: the time of packets, which costs them an instruction where a clock in nanoseconds costs as much as a lookup.

use std::time::{Duration, Instant};

use aya::{
    TestRun as _, TestRunOptions,
    programs::{ProgramError, Xdp},
};

/// What jiffies are now, without asking the kernel each time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    hertz: u32,
    jiffies: u64,
    at: Instant,
}

/// Jiffies and the monotonic clock (ns) of one moment, as packets see them.
fn ask(program: &Xdp) -> Result<[u64; 2], ProgramError> {
    let frame = [0_u8; 64];
    let mut answer = [0_u8; 64];
    program.test_run(TestRunOptions {
        data_in: Some(&frame),
        data_out: Some(&mut answer),
        ..TestRunOptions::default()
    })?;
    let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| answer[at + byte]));
    Ok([word(0), word(8)])
}

impl Clock {
    /// Asks once, if `hertz` is known from maps that were taken over, else twice, and measures it.
    ///
    /// # Errors
    ///
    /// If the kernel does not run the program.
    pub fn start(program: &Xdp, hertz: Option<u32>) -> Result<Self, ProgramError> {
        let first = ask(program)?;
        let hertz = match hertz {
            Some(hertz) => hertz,
            None => {
                std::thread::sleep(Duration::from_millis(100));
                let second = ask(program)?;
                nearest(second[0] - first[0], second[1] - first[1])
            }
        };
        let [jiffies, _] = ask(program)?;
        Ok(Self {
            hertz,
            jiffies,
            at: Instant::now(),
        })
    }

    /// Jiffies per second.
    #[must_use]
    pub fn hertz(&self) -> u32 {
        self.hertz
    }

    /// How long ago the kernel was asked.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// Jiffies now.
    #[must_use]
    pub fn now(&self) -> u64 {
        let since = self.at.elapsed().as_millis() as u64 * u64::from(self.hertz) / 1000;
        self.jiffies + since
    }

    /// The logarithm of the jiffies in the shortest unit of a flow's last-seen time: about a quarter of a second.
    #[must_use]
    pub fn tick(&self) -> u32 {
        (self.hertz / 4).max(1).next_power_of_two().ilog2()
    }

    /// A time in jiffies, rounded up.
    #[must_use]
    pub fn jiffies_in(&self, time: Duration) -> u32 {
        let jiffies = (time.as_millis() * u128::from(self.hertz)).div_ceil(1000);
        u32::try_from(jiffies).unwrap_or(u32::MAX)
    }
}

/// The tick rate that a kernel can be built with (`kernel/Kconfig.hz` and the architectures') nearest to so many jiffies
/// in so many nanoseconds.
fn nearest(jiffies: u64, nanoseconds: u64) -> u32 {
    const RATES: [u32; 6] = [100, 200, 250, 300, 500, 1000];
    let measured = jiffies as f64 * 1e9 / nanoseconds as f64;
    RATES
        .into_iter()
        .min_by(|a, b| {
            (f64::from(*a) - measured)
                .abs()
                .total_cmp(&(f64::from(*b) - measured).abs())
        })
        .unwrap_or(250)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_more_or_less_does_not_change_the_rate() {
        for (rate, ticks) in [(100, 10), (250, 25), (300, 30), (1000, 100)] {
            for off in [-1_i64, 0, 1] {
                assert_eq!(nearest((ticks + off) as u64, 100_300_000), rate, "{rate} Hz, {off}");
            }
        }
    }
}
