//! Telling other programs of changes: a command that is run or a URL that is posted to, in order, with retries, and
//! never in the way of a probe.

use std::{process::Stdio, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    process::Command,
    sync::mpsc::{self, error::TrySendError},
    time::{sleep, timeout},
};

use crate::process_group::ProcessGroup;
use lvx_model::{
    ServiceAddress,
    health::{Serving, State},
    settings::Hook,
};

/// Changes that wait for a hook at most; more are dropped, and that is logged.
const WAITING: usize = 1_024;
/// How often a change is told at most.
const TRIES: u32 = 6;
/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is told: a change of a backend's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// The service.
    pub service: ServiceAddress,
    /// The backend, with its port.
    pub backend: std::net::SocketAddr,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why.
    pub reason: Option<String>,
    /// Who serves the service now.
    pub serving: Serving,
}

async fn run(words: &[String], body: &[u8]) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("there is no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    // A program that takes too long is killed with all that it started, as this future is dropped.
    let group = ProcessGroup::of(&child);
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read is no failure.
        let _ = stdin.write_all(body).await;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    group.release();
    if status.success() {
        Ok(())
    } else {
        Err(status.to_string())
    }
}

async fn post(url: &Uri, body: Vec<u8>) -> Result<(), String> {
    let host = url.host().ok_or("there is no host in the URL")?;
    let port = url.port_u16().unwrap_or(80);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port))
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        // One frame, so that the answer is seen as read; what it says does not matter.
        let _ = response.into_body().frame().await;
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("answered {status}"))
        }
    };
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = &mut connection => exchange.await,
    }
}

/// The hooks, each with a task of its own. Needs a tokio runtime.
#[derive(Debug, Default)]
pub struct Notifier {
    hooks: Vec<(String, mpsc::Sender<Notice>)>,
}

impl Notifier {
    /// Starts the tasks.
    pub fn start(hooks: Vec<Hook>) -> Self {
        let start = |hook: Hook| {
            let (sender, receiver) = mpsc::channel(WAITING);
            let name = hook.name();
            tokio::spawn(follow(hook, receiver));
            (name, sender)
        };
        Self {
            hooks: hooks.into_iter().map(start).collect(),
        }
    }

    /// Tells all hooks, without waiting for any.
    pub fn tell(&self, notice: &Notice) {
        for (hook, sender) in &self.hooks {
            if let Err(TrySendError::Full(notice)) = sender.try_send(notice.clone()) {
                tracing::warn!(hook, service = %notice.service, backend = %notice.backend, to = notice.to.name(),
                    "the notify hook is too slow: a change was not told to it");
            }
        }
    }
}

async fn follow(hook: Hook, mut notices: mpsc::Receiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        for attempt in 1..=TRIES {
            let Err(error) = tell(&hook, &notice, PATIENCE).await else {
                break;
            };
            let hook = hook.name();
            if attempt == TRIES {
                tracing::warn!(hook, error, service = %notice.service, backend = %notice.backend,
                    "a change could not be told to the notify hook: given up");
            } else {
                tracing::debug!(hook, error, attempt, "the notify hook failed: trying again");
                sleep(Duration::from_millis(250 << attempt)).await;
            }
        }
    }
}

/// Tells one hook once, which may take so long.
async fn tell(hook: &Hook, notice: &Notice, patience: Duration) -> Result<(), String> {
    let body = serde_json::to_vec(notice).map_err(|error| error.to_string())?;
    let told = async {
        match hook {
            Hook::Command(words) => run(words, &body).await,
            Hook::Url(url) => post(url, body).await,
        }
    };
    match timeout(patience, told).await {
        Ok(result) => result,
        Err(_) => Err(format!("took longer than {} s", patience.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use std::time::Instant;

    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    fn notice(to: State) -> Notice {
        Notice {
            unix_ms: 1,
            service: "tcp://10.0.0.100:80".parse().unwrap(),
            backend: "10.0.0.11:80".parse().unwrap(),
            from: State::Up,
            to,
            reason: Some("connection refused".into()),
            serving: Serving::Healthy,
        }
    }

    #[tokio::test]
    async fn a_command_gets_the_change_on_its_standard_input() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("cat >> {}", file.path().display());
        let hook = Hook::Command(["/bin/sh", "-c", &script].map(str::to_owned).to_vec());
        tell(&hook, &notice(State::Down), PATIENCE).await.unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(serde_json::from_str::<Notice>(&text).unwrap(), notice(State::Down));
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("sleep 600 & echo $! > {}; wait", file.path().display());
        let hook = Hook::Command(["/bin/sh", "-c", &script].map(str::to_owned).to_vec());
        let told = tell(&hook, &notice(State::Down), Duration::from_secs(5)).await;
        assert_eq!(told, Err("took longer than 5 s".to_owned()));
        let pid = std::fs::read_to_string(file.path()).unwrap();
        let path = format!("/proc/{}/stat", pid.trim());
        // Gone, or a zombie until init reaps it.
        let gone = || std::fs::read_to_string(&path).map_or(true, |stat| stat.contains(") Z "));
        let begin = Instant::now();
        while !gone() {
            assert!(begin.elapsed() < Duration::from_secs(60), "the grandchild lives");
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_url_that_fails_is_posted_to_again_and_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}/hook", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let notifier = Notifier::start(vec![Hook::Url(url)]);
        notifier.tell(&notice(State::Down));
        notifier.tell(&notice(State::Up));
        let mut told = Vec::new();
        for attempt in 0..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let text = String::from_utf8(request).unwrap();
            assert!(text.starts_with("POST /hook HTTP/1.1\r\n"), "{text}");
            let status = if attempt == 0 { "500 No" } else { "204 Ok" };
            stream
                .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let body = text.split("\r\n\r\n").nth(1).unwrap().to_owned();
            told.push(serde_json::from_str::<Notice>(&body).unwrap().to);
        }
        assert_eq!(told, [State::Down, State::Down, State::Up]);
    }

    #[tokio::test]
    async fn a_hook_that_hangs_does_not_block() {
        let notifier = Notifier::start(vec![Hook::Command(["/bin/sleep", "60"].map(str::to_owned).to_vec())]);
        let begin = Instant::now();
        for _ in 0..3_000 {
            notifier.tell(&notice(State::Down));
        }
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
}
