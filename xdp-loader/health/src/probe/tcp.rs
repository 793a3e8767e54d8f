//! `tcp`: a connection, and if asked what is said over it.

use std::time::Duration;

use lvx_model::check::CloseBy;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Expect, Finding, Route, refused, socket};

/// The longest answer that is looked at, in bytes.
const ANSWER: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Tcp {
    pub(super) send: Vec<u8>,
    pub(super) expect: Option<Expect>,
    pub(super) close: Option<CloseBy>,
}

/// What a server may go on to say and for how long, before a connection is left to it that is closed on this side.
const FAREWELL: (u64, Duration) = (64 * 1024, Duration::from_millis(200));

impl Tcp {
    /// How the connection ends: where nothing is said over it, by a reset, or thousands of probes a second would fill the table of
    /// connections in TIME_WAIT.
    fn close(&self) -> CloseBy {
        let says = !self.send.is_empty() || self.expect.is_some();
        self.close.unwrap_or(if says { CloseBy::Fin } else { CloseBy::Rst })
    }

    pub(super) async fn run(&self, route: Route) -> Finding {
        let end = match self.close() {
            CloseBy::Fin => socket::End::Close,
            CloseBy::Rst => socket::End::Reset,
        };
        let mut stream = match socket::connect(route, end).await {
            Ok(stream) => stream,
            Err(error) => return Finding::refused(&error),
        };
        if !self.send.is_empty()
            && let Err(error) = stream.write_all(&self.send).await
        {
            return Finding::failed(&error, format!("cannot send: {}", refused(&error)));
        }
        let finding = match &self.expect {
            Some(expect) => hear(&mut stream, expect).await,
            None => Finding::up(),
        };
        if end == socket::End::Close {
            // The finding waits for none of it.
            tokio::spawn(part(stream));
        }
        finding
    }
}

/// Closes a connection as a client does: what is not read when a socket is closed has the kernel send a reset (RFC 2525, 2.17).
async fn part(mut stream: TcpStream) {
    let (bytes, time) = FAREWELL;
    if stream.shutdown().await.is_ok() {
        let mut rest = stream.take(bytes);
        let _ = timeout(time, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}

async fn hear(stream: &mut TcpStream, expect: &Expect) -> Finding {
    let mut answer = Vec::with_capacity(2_048);
    loop {
        let before = answer.len();
        match stream.read_buf(&mut answer).await {
            Ok(0) => return Finding::down(format!("closed the connection without {expect}")),
            Ok(_) if expect.is_in_from(&answer, before) => return Finding::up(),
            Ok(_) if answer.len() >= ANSWER => {
                return Finding::down(format!("{expect} is not in the first {ANSWER} bytes of the answer"));
            }
            Ok(_) => {}
            Err(error) => return Finding::refused(&error),
        }
    }
}
