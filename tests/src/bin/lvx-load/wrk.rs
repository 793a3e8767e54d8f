//! What wrk says: requests per second, and how long they took.

use anyhow::{Context, Result};
use lvx_tests::Namespace;

/// What a run of wrk measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Requests that were answered, per second.
    pub per_second: f64,
    /// The times, ms, within which 50, 90 and 99 % of them were answered.
    pub percentiles: [f64; 3],
    /// Requests that failed.
    pub failed: u64,
}

/// Which percentiles are told.
pub const PERCENTILES: [&str; 3] = ["50%", "90%", "99%"];

/// How requests are made.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many at a time.
    pub connections: u32,
    /// For how long.
    pub seconds: u32,
    /// Whether each has a connection of its own.
    pub anew: bool,
}

/// Runs wrk in a namespace.
pub fn run(client: &Namespace, address: &str, load: Load) -> Result<Measured> {
    let [connections, seconds] = [load.connections, load.seconds].map(|number| number.to_string());
    let url = format!("http://{address}/");
    let mut arguments = vec!["-t", "1", "-c", &connections, "-d", &seconds, "--latency"];
    if load.anew {
        arguments.extend(["-H", "Connection: close"]);
    }
    arguments.push(&url);
    let said = client.run("wrk", arguments)?;
    parse(&said).with_context(|| format!("wrk says something else: {said}"))
}

/// Reads wrk's report.
fn parse(said: &str) -> Option<Measured> {
    let after = |start: &str| said.lines().find_map(|line| line.trim().strip_prefix(start));
    let mut percentiles = [0.0; 3];
    for (value, name) in percentiles.iter_mut().zip(PERCENTILES) {
        *value = milliseconds(after(name)?.trim())?;
    }
    let errors = |text: &str| -> u64 {
        text.split(|sign: char| !sign.is_ascii_digit())
            .filter_map(|number| number.parse::<u64>().ok())
            .sum()
    };
    Some(Measured {
        per_second: after("Requests/sec:")?.trim().parse().ok()?,
        percentiles,
        failed: after("Socket errors:").map_or(0, errors) + after("Non-2xx or 3xx responses:").map_or(0, errors),
    })
}

/// A time like `1.02ms`.
fn milliseconds(text: &str) -> Option<f64> {
    let (number, factor) = [("us", 1e-3), ("ms", 1.0), ("s", 1e3), ("m", 6e4)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_wrk_is_read() {
        let said = "Running 3s test @ http://10.0.0.100/\n  1 threads and 64 connections\n\
                    \x20 Thread Stats   Avg      Stdev     Max   +/- Stdev\n\
                    \x20   Latency     1.42ms    1.02ms  20.11ms   88.18%\n\
                    \x20 Latency Distribution\n     50%  920.00us\n     75%    1.50ms\n     90%    2.25ms\n\
                    \x20    99%    1.10s \n  90123 requests in 3.00s, 14.61MB read\n\
                    \x20 Socket errors: connect 0, read 2, write 1, timeout 0\nRequests/sec:  30041.00\n";
        let measured = Measured {
            per_second: 30_041.0,
            percentiles: [0.92, 2.25, 1100.0],
            failed: 3,
        };
        assert_eq!(parse(said), Some(measured));
        assert_eq!(parse("unable to connect"), None);
    }
}
