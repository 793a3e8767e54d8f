//! `exec`: a program's exit status: 0 healthy, all others down; or, if so asked, a Nagios plugin's, or 2 to 255 healthy with that weight
//! less 2 (keepalived's MISC_CHECK, without and with `misc_dynamic`). Started without a shell, as the leader of a process group that is killed as a
//! whole, and confined.

mod confinement;

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    sync::Semaphore,
    time::timeout,
};

use super::{Finding, Outcome, Target};
use crate::process_group::ProcessGroup;

/// Programs that run at once at most.
static AT_ONCE: Semaphore = Semaphore::const_new(64);

/// How much of what a program says is read, in bytes.
const WORDS: u64 = 512;

/// What an exit status means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// 0: healthy. All others: not.
    Success,
    /// From 2 on: healthy, with a weight.
    Weight,
    /// As Nagios has it (Nagios Plugin Development Guidelines, "Plugin Return Codes").
    Nagios,
}

#[derive(Debug)]
pub(super) struct Exec {
    pub(super) command: Vec<String>,
    pub(super) status: Status,
}

impl Exec {
    pub(super) async fn run(&self, target: &Target, port: u16, limit: Duration) -> Finding {
        let Some((program, arguments)) = self.command.split_first() else {
            return Finding::unknown("there is no command");
        };
        let Ok(Ok(_permit)) = timeout(limit, AT_ONCE.acquire()).await else {
            return Finding::unknown("too many programs run at once: raise the interval, or make them quicker");
        };
        // A Nagios plugin says on its standard output what others say on standard error.
        let (stdout, stderr) = match self.status {
            Status::Nagios => (Stdio::piped(), Stdio::null()),
            Status::Success | Status::Weight => (Stdio::null(), Stdio::piped()),
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("LVX_SERVICE", target.service.to_string())
            .env("LVX_BACKEND", target.backend.to_string())
            .env("LVX_PORT", port.to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(true);
        confinement::confine(&mut command, limit);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                let (words, hint) = (super::refused(&error), confinement::hint(&error));
                return Finding::unknown(format!("cannot run {program}: {words}{hint}"));
            }
        };
        let group = ProcessGroup::of(&child);
        match timeout(limit, wait(&mut child)).await {
            Ok(Ok((status, words))) => {
                group.release();
                read(status, &words, self.status)
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
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut pipe: Option<Box<dyn AsyncRead + Unpin + Send>> = match (stdout, stderr) {
        (Some(stdout), _) => Some(Box::new(stdout)),
        (None, Some(stderr)) => Some(Box::new(stderr)),
        (None, None) => None,
    };
    let status = {
        let said = async {
            if let Some(pipe) = &mut pipe {
                let mut begin = pipe.take(WORDS);
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
        && let Some(pipe) = &mut pipe
    {
        // What was said just before the end; a grandchild that holds the pipe is not waited for.
        let _ = timeout(Duration::from_millis(5), pipe.take(WORDS).read_to_end(&mut words)).await;
    }
    Ok((status, words))
}

fn read(status: ExitStatus, words: &[u8], meaning: Status) -> Finding {
    let words = String::from_utf8_lossy(words);
    let words = words.lines().next().unwrap_or_default();
    let said = |outcome, code: i32| {
        let colon = if words.is_empty() { "" } else { ": " };
        Finding::said(outcome, format!("exit status {code}{colon}{words}"))
    };
    match (status.code(), meaning) {
        (Some(0), _) => Finding::up(),
        (Some(2), Status::Weight) => Finding::said(Outcome::Drain, "exit status 2: weight 0"),
        (Some(code @ 3..=255), Status::Weight) => {
            let weight = code.unsigned_abs() as u16 - 2;
            Finding::said(Outcome::Weight(weight), format!("exit status {code}: weight {weight}"))
        }
        (Some(code @ 1), Status::Nagios) => said(Outcome::Degraded, code),
        (Some(code @ 3), Status::Nagios) => said(Outcome::Unknown, code),
        (Some(code), _) => said(Outcome::Down, code),
        (None, _) => Finding::down(format!("ended by {status}")),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, time::Instant};

    use super::*;
    use crate::probe::Reach;

    /// Longer than anything here may take.
    const PATIENCE: Duration = Duration::from_secs(60);

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
            status: Status::Success,
        };
        exec.run(&target(), 8080, limit).await
    }

    #[test]
    fn any_exit_status_but_0_is_a_failure() {
        for code in 1..=255 {
            assert_eq!(
                read(ExitStatus::from_raw(code << 8), b"", Status::Success).outcome,
                Outcome::Down,
                "{code}"
            );
        }
        assert_eq!(read(ExitStatus::from_raw(0), b"", Status::Success).outcome, Outcome::Up);
        // A shell's word for a program that is not there.
        let finding = read(
            ExitStatus::from_raw(127 << 8),
            b"sh: 1: no-such-program: not found\n",
            Status::Success,
        );
        assert_eq!(
            finding,
            Finding::down("exit status 127: sh: 1: no-such-program: not found")
        );
    }

    #[test]
    fn an_exit_status_is_a_weight_where_that_is_asked_for() {
        let outcome = |code: i32| read(ExitStatus::from_raw(code << 8), b"", Status::Weight).outcome;
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
        assert_eq!(
            read(ExitStatus::from_raw(9), b"", Status::Weight).outcome,
            Outcome::Down
        );
    }

    #[test]
    fn a_nagios_plugins_exit_status_means_what_nagios_says() {
        let outcome = |code: i32| read(ExitStatus::from_raw(code << 8), b"", Status::Nagios).outcome;
        assert_eq!(
            [0, 1, 2, 3, 4, 127].map(outcome),
            [
                Outcome::Up,
                Outcome::Degraded,
                Outcome::Down,
                Outcome::Unknown,
                Outcome::Down,
                Outcome::Down
            ]
        );
        assert_eq!(
            read(ExitStatus::from_raw(9), b"", Status::Nagios).outcome,
            Outcome::Down
        );
    }

    #[tokio::test]
    async fn a_nagios_plugin_says_why_on_its_standard_output() {
        let command = [
            "/bin/sh",
            "-c",
            "echo DISK WARNING - 9% free; echo more; echo oops >&2; exit 1",
        ];
        let exec = Exec {
            command: command.map(str::to_owned).to_vec(),
            status: Status::Nagios,
        };
        let finding = exec.run(&target(), 8080, PATIENCE).await;
        assert_eq!(
            finding,
            Finding::said(Outcome::Degraded, "exit status 1: DISK WARNING - 9% free")
        );
    }

    /// What a program prints, run as a probe's.
    async fn prints(script: &str) -> String {
        let finding = shell(&format!("({script}) >&2; exit 1"), PATIENCE).await;
        finding.reason.map(String::from).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_program_has_no_power_over_the_node() {
        let status = "echo $(grep -E '^(Uid|Groups|Cap(Inh|Prm|Eff|Amb)|NoNewPrivs):' /proc/self/status)";
        let status = prints(status).await;
        assert!(!status.contains("Uid: 0 "), "{status}");
        let none = "0000000000000000";
        let powerless = format!("Groups: CapInh: {none} CapPrm: {none} CapEff: {none} CapAmb: {none} NoNewPrivs: 1");
        assert!(status.ends_with(&powerless), "{status}");
        let variables = prints("echo $(env | cut -d= -f1 | grep -v LVX_)").await;
        for variable in ["HOME", "PATH", "CARGO", "USER"] {
            assert!(!variables.contains(variable), "{variables}");
        }
        assert_eq!(
            prints("echo $(ulimit -c) $(ulimit -f) $(ulimit -l)").await,
            "exit status 1: 0 2048 0"
        );
        let shadow = prints("cat /etc/shadow").await;
        assert!(shadow.contains("Permission denied"), "{shadow}");
    }

    #[tokio::test]
    async fn a_program_knows_whom_it_checks_and_says_why() {
        let script = "echo $LVX_SERVICE $LVX_BACKEND $LVX_PORT >&2; exit 1";
        let finding = shell(script, PATIENCE).await;
        assert_eq!(
            finding,
            Finding::down("exit status 1: tcp://192.0.2.100:80 192.0.2.1 8080")
        );
        let missing = Exec {
            command: vec!["/nonexistent".into()],
            status: Status::Success,
        };
        let finding = missing.run(&target(), 1, PATIENCE).await;
        assert_eq!(
            finding,
            Finding::unknown("cannot run /nonexistent: no such file or directory")
        );
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_killed_with_all_that_it_started() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        // The program is another user's.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(file.path(), open).expect("its mode");
        let script = format!("sleep 60 & echo $! > {}; wait", file.path().display());
        let finding = shell(&script, Duration::from_secs(5)).await;
        assert_eq!(
            finding,
            Finding::down("/bin/sh did not end within 5000 ms and was killed")
        );
        let pid = std::fs::read_to_string(file.path()).expect("the grandchild's number");
        let path = format!("/proc/{}/stat", pid.trim());
        // Gone, or a zombie until init reaps it.
        let gone = || std::fs::read_to_string(&path).map_or(true, |stat| stat.contains(") Z "));
        let begin = Instant::now();
        while !gone() {
            assert!(begin.elapsed() < PATIENCE, "the grandchild lives");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn endless_words_cost_nothing() {
        let finding = shell("yes >&2", Duration::from_millis(300)).await;
        assert!(matches!(finding.outcome, Outcome::Down));
        assert!(finding.reason.is_some_and(|reason| reason.len() < 300));
    }
}
