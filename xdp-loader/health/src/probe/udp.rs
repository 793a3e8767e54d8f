//! `udp`: a datagram and its answer. Unreachable is a failure; without anything to expect, silence is not.

use std::time::Duration;

use super::{Expect, Finding, Route, socket};

/// The longest answer that is looked at, in bytes.
const ANSWER: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Udp {
    pub(super) send: Vec<u8>,
    pub(super) expect: Option<Expect>,
}

impl Udp {
    pub(super) async fn run(&self, route: Route, timeout: Duration) -> Finding {
        match tokio::time::timeout(timeout, self.ask(route)).await {
            Ok(finding) => finding,
            Err(_) if self.expect.is_none() => Finding::said(super::Outcome::Up, "no answer, and none is expected"),
            Err(_) => Finding::down(format!("no answer within {} ms", timeout.as_millis())),
        }
    }

    async fn ask(&self, route: Route) -> Finding {
        let socket = match socket::datagrams(route).await {
            Ok(socket) => socket,
            Err(error) => return Finding::refused(&error),
        };
        if let Err(error) = socket.send(&self.send).await {
            return Finding::refused(&error);
        }
        let mut answer = vec![0; ANSWER];
        match (socket.recv(&mut answer).await, &self.expect) {
            (Err(error), _) => Finding::refused(&error),
            (Ok(length), Some(expect)) if !expect.is_in(&answer[..length]) => {
                Finding::down(format!("the answer of {length} bytes does not have {expect}"))
            }
            (Ok(_), _) => Finding::up(),
        }
    }
}
