//! Programs that tests run: to their end with their output, or in the background until they are no longer needed.

use std::{
    io::{Read, Seek, SeekFrom, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often [`wait_until`] and [`Running::wait`] look again.
const POLL: Duration = Duration::from_millis(20);

/// Runs `command` to its end and returns its standard output. A failure names the command and carries what it wrote
/// to standard error.
pub fn finish(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    succeeded(command, output)
}

/// Like [`finish`], with `input` on the command's standard input.
pub fn feed(command: &mut Command, input: &[u8]) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", line(command)))?;
    // The pipe closes at the end of this block, which tells the command that there is no more.
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input)?;
    }
    let output = child.wait_with_output()?;
    succeeded(command, output)
}

/// Runs `command` to its end, whatever its exit status.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", line(command)))
}

/// Runs `command`, which must end within `limit`, whatever its exit status.
pub fn output_within(command: &mut Command, limit: Duration) -> Result<Output> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut running = Running::start(
        command
            .stdin(Stdio::null())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?),
    )?;
    let ended = running.wait(limit);
    let [said, complained] = [&mut stdout, &mut stderr].map(|file| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let (stdout, stderr) = (said?, complained?);
    let status = ended.with_context(|| format!("it said: {}", String::from_utf8_lossy(&stderr).trim()))?;
    Ok(Output { status, stdout, stderr })
}

fn succeeded(command: &Command, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as one would type it.
fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Waits until `ready` says yes, for at most `limit`; `what` names it in the error.
pub fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        if ready()? {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("waited {} s in vain until {what}", limit.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// A program in the background, in a process group of its own (so that Ctrl-C reaches only the lab,
/// which then ends it in order). Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
}

impl Running {
    /// Starts `command`. Its output goes where the command says.
    pub fn start(command: &mut Command) -> Result<Self> {
        let line = line(command);
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {line}"))?;
        Ok(Self { child, line })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end, for at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.line);
        let mut status = None;
        wait_until(&what, limit, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.context("it has ended without a status")
    }

    /// Kills it at once (SIGKILL) and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends it `signal` by name ("TERM", "INT").
    pub fn signal(&self, signal: &str) -> Result<()> {
        finish(Command::new("kill").args(["-s", signal, &self.id().to_string()]))?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended long ago; then there is nothing to do.
        let _ = self.kill();
    }
}
