//! `exec`: a program's exit status: 0 healthy, all others down; or, if so asked, 2 to 255 healthy with that weight less 2
//! (keepalived's MISC_CHECK, without and with `misc_dynamic`). Started without a shell, as the leader of a process group that is killed as a whole.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    sync::Semaphore,
    time::timeout,
};

use super::{Finding, Outcome, Target};

/// Programs that run at once at most.
static AT_ONCE: Semaphore = Semaphore::const_new(64);

/// How much of what a program says on stderr is read, in bytes.
const WORDS: u64 = 512;

#[derive(Debug)]
pub(super) struct Exec {
    pub(super) command: Vec<String>,
    pub(super) weight_from_status: bool,
}

/// Kills the group when it is dropped, so that a probe that is given up leaves nothing behind.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended by itself, and its number is not used again while the leader is not reaped.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Exec {
    pub(super) async fn run(&self, target: &Target, port: u16, limit: Duration) -> Finding {
        let Some((program, arguments)) = self.command.split_first() else {
            return Finding::unknown("there is no command");
        };
        let Ok(Ok(_permit)) = timeout(limit, AT_ONCE.acquire()).await else {
            return Finding::unknown("too many programs run at once: raise the interval, or make them quicker");
        };
        let spawned = Command::new(program)
            .args(arguments)
            .env("LVX_SERVICE", target.service.to_string())
            .env("LVX_BACKEND", target.backend.to_string())
            .env("LVX_PORT", port.to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return Finding::unknown(format!("cannot run {program}: {}", super::refused(&error))),
        };
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        match timeout(limit, wait(&mut child)).await {
            Ok(Ok((status, words))) => {
                // Reaped: the number may be another's soon, and what the program left running is its own affair.
                group.0 = None;
                read(status, &words, self.weight_from_status)
            }
            Ok(Err(error)) => Finding::unknown(super::refused(&error)),
            Err(_) => {
                drop(group);
                let _ = child.wait().await;
                Finding::down(format!(
                    "{program} did not end within {} ms and was killed",
                    limit.as_millis()
                ))
            }
        }
    }
}

/// Waits for the program's end, reading the beginning of what it says.
async fn wait(child: &mut Child) -> std::io::Result<(ExitStatus, Vec<u8>)> {
    let mut words = Vec::new();
    let mut stderr = child.stderr.take();
    let status = {
        let said = async {
            if let Some(stderr) = &mut stderr {
                let mut begin = stderr.take(WORDS);
                while begin.read_buf(&mut words).await.is_ok_and(|length| length > 0) {}
                // The rest is read too, so that the program is not stopped by a full pipe, and forgotten.
                let rest = begin.into_inner();
                let _ = tokio::io::copy(rest, &mut tokio::io::sink()).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            status = child.wait() => status?,
            () = said => unreachable!("never ends"),
        }
    };
    if words.is_empty()
        && let Some(stderr) = &mut stderr
    {
        // What was said just before the end; a grandchild that holds the pipe is not waited for.
        let _ = timeout(Duration::from_millis(5), stderr.take(WORDS).read_to_end(&mut words)).await;
    }
    Ok((status, words))
}

fn read(status: ExitStatus, words: &[u8], is_weight: bool) -> Finding {
    let words = String::from_utf8_lossy(words);
    let words = words.lines().next().unwrap_or_default();
    match status.code() {
        Some(0) => Finding::up(),
        Some(2) if is_weight => Finding::said(Outcome::Drain, "exit status 2: weight 0"),
        Some(code @ 3..=255) if is_weight => {
            let weight = code.unsigned_abs() as u16 - 2;
            Finding::said(Outcome::Weight(weight), format!("exit status {code}: weight {weight}"))
        }
        Some(code) if words.is_empty() => Finding::down(format!("exit status {code}")),
        Some(code) => Finding::down(format!("exit status {code}: {words}")),
        None => Finding::down(format!("ended by {status}")),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, time::Instant};

    use super::*;
    use crate::probe::Reach;

    fn target() -> Target {
        let ip = std::net::IpAddr::from([192, 0, 2, 1]);
        Target {
            service: lvx_model::ServiceAddress {
                protocol: lvx_model::Protocol::Tcp,
                ip: [192, 0, 2, 100].into(),
                port: 80,
            },
            backend: ip,
            port: 8080,
            reach: Reach::Address,
        }
    }

    async fn shell(script: &str, limit: Duration) -> Finding {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let exec = Exec {
            command,
            weight_from_status: false,
        };
        exec.run(&target(), 8080, limit).await
    }

    #[test]
    fn any_exit_status_but_0_is_a_failure() {
        for code in 1..=255 {
            assert_eq!(
                read(ExitStatus::from_raw(code << 8), b"", false).outcome,
                Outcome::Down,
                "{code}"
            );
        }
        assert_eq!(read(ExitStatus::from_raw(0), b"", false).outcome, Outcome::Up);
        // A shell's word for a program that is not there.
        let finding = read(
            ExitStatus::from_raw(127 << 8),
            b"sh: 1: no-such-program: not found\n",
            false,
        );
        assert_eq!(
            finding,
            Finding::down("exit status 127: sh: 1: no-such-program: not found")
        );
    }

    #[test]
    fn an_exit_status_is_a_weight_where_that_is_asked_for() {
        let outcome = |code: i32| read(ExitStatus::from_raw(code << 8), b"", true).outcome;
        assert_eq!(
            [0, 1, 2, 3, 255].map(outcome),
            [
                Outcome::Up,
                Outcome::Down,
                Outcome::Drain,
                Outcome::Weight(1),
                Outcome::Weight(253)
            ]
        );
        assert_eq!(read(ExitStatus::from_raw(9), b"", true).outcome, Outcome::Down);
    }

    #[tokio::test]
    async fn a_program_knows_whom_it_checks_and_says_why() {
        let script = "echo $LVX_SERVICE $LVX_BACKEND $LVX_PORT >&2; exit 1";
        let finding = shell(script, Duration::from_secs(5)).await;
        assert_eq!(
            finding,
            Finding::down("exit status 1: tcp://192.0.2.100:80 192.0.2.1 8080")
        );
        let missing = Exec {
            command: vec!["/nonexistent".into()],
            weight_from_status: false,
        };
        let finding = missing.run(&target(), 1, Duration::from_secs(5)).await;
        assert_eq!(
            finding,
            Finding::unknown("cannot run /nonexistent: no such file or directory")
        );
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_killed_with_all_that_it_started() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let script = format!("sleep 60 & echo $! > {}; wait", file.path().display());
        let begin = Instant::now();
        let finding = shell(&script, Duration::from_millis(300)).await;
        assert_eq!(
            finding,
            Finding::down("/bin/sh did not end within 300 ms and was killed")
        );
        assert!(begin.elapsed() < Duration::from_secs(2));
        let pid = std::fs::read_to_string(file.path()).expect("the grandchild's number");
        let path = format!("/proc/{}/stat", pid.trim());
        // Gone, or a zombie until init reaps it.
        let gone = || std::fs::read_to_string(&path).map_or(true, |stat| stat.contains(") Z "));
        for _ in 0..100 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the grandchild lives");
    }

    #[tokio::test]
    async fn endless_words_cost_nothing() {
        let finding = shell("yes >&2", Duration::from_millis(300)).await;
        assert!(matches!(finding.outcome, Outcome::Down));
        assert!(finding.reason.is_some_and(|reason| reason.len() < 300));
    }
}
