//! Scraping metrics as a collector does, but far more often.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lvx_tests::Namespace;

use crate::daemon::METRICS;

/// Collectors, and how often each asks: a page of 8 MB takes longer to read than a hundredth of a second.
const COLLECTORS: usize = 2;
const EVERY: Duration = Duration::from_millis(20);

/// Collectors that scrape until stopped.
pub struct Scraper {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<f64>>>,
}

impl Scraper {
    /// Begins, in a namespace.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let begin = || {
            let stopped = Arc::clone(&stop);
            thread::spawn(move || scrape(&stopped))
        };
        // A thread is born in the namespace of the one that starts it.
        let threads = namespace.inside(|| (0..COLLECTORS).map(|_| begin()).collect())?;
        Ok(Self { stop, threads })
    }

    /// Ends; how many answers came in a second.
    pub fn stop(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.threads.into_iter();
        answers
            .map(|thread| thread.join().ok().context("a collector died")?)
            .sum()
    }
}

fn scrape(stop: &AtomicBool) -> Result<f64> {
    let begun = Instant::now();
    let mut answers = 0_u32;
    let mut next = begun;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next = (next + EVERY).max(Instant::now());
        once().context("the metrics do not answer")?;
        answers += 1;
    }
    Ok(f64::from(answers) / begun.elapsed().as_secs_f64())
}

fn once() -> Result<()> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: lvx\r\nConnection: close\r\n\r\n")?;
    let mut begin = [0; 12];
    stream.read_exact(&mut begin)?;
    anyhow::ensure!(&begin == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&begin));
    io::copy(&mut stream, &mut io::sink())?;
    Ok(())
}
