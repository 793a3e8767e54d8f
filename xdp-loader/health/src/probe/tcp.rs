//! `tcp`: a connection, and if asked what is said over it.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Expect, Finding, Route, refused, socket};

/// The longest answer that is looked at, in bytes.
const ANSWER: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Tcp {
    pub(super) send: Vec<u8>,
    pub(super) expect: Option<Expect>,
}

impl Tcp {
    pub(super) async fn run(&self, route: Route) -> Finding {
        let mut stream = match socket::connect(route, socket::End::Reset).await {
            Ok(stream) => stream,
            Err(error) => return Finding::down(refused(&error)),
        };
        if !self.send.is_empty()
            && let Err(error) = stream.write_all(&self.send).await
        {
            return Finding::down(format!("cannot send: {}", refused(&error)));
        }
        match &self.expect {
            Some(expect) => hear(&mut stream, expect).await,
            None => Finding::up(),
        }
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
            Err(error) => return Finding::down(refused(&error)),
        }
    }
}
