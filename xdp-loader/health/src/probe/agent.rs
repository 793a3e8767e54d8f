//! `agent`: HAProxy's agent-check (HAProxy configuration manual, `agent-check`): a line of words such as `up 75%`.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Finding, Outcome, Route, socket};

/// The longest line that is read, in bytes.
const LINE: usize = 1_024;

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) send: String,
}

impl Agent {
    pub(super) async fn run(&self, route: Route) -> Finding {
        let mut stream = match socket::connect(route, socket::End::Close).await {
            Ok(stream) => stream,
            Err(error) => return Finding::refused(&error),
        };
        if let Err(error) = stream.write_all(self.send.as_bytes()).await {
            return Finding::refused(&error);
        }
        let mut line = Vec::new();
        while !line.contains(&b'\n') && line.len() < LINE {
            match stream.read_buf(&mut line).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Finding::refused(&error),
            }
        }
        let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
        read(&String::from_utf8_lossy(&line[..end.min(LINE)]))
    }
}

/// What an agent's line means; words that mean nothing here (`maxconn:30`) are passed over.
fn read(line: &str) -> Finding {
    let mut outcome = None;
    // What comes after `#` is a description.
    let words = line.split('#').next().unwrap_or_default();
    for word in words.split([' ', '\t', ',', '\r']).filter(|word| !word.is_empty()) {
        let said = match word.to_ascii_lowercase().as_str() {
            "down" | "stopped" | "fail" | "failed" | "maint" => return Finding::down(format!("the agent says {line}")),
            "drain" => Outcome::Drain,
            "up" | "ready" => Outcome::Up,
            other => match other.strip_suffix('%').and_then(|percent| percent.parse::<u32>().ok()) {
                // No share at all is what "drain" says.
                Some(0) => Outcome::Drain,
                Some(percent) => Outcome::Share(percent.min(100)),
                None => continue,
            },
        };
        outcome = match (outcome, said) {
            (Some(Outcome::Drain), _) | (_, Outcome::Drain) => Some(Outcome::Drain),
            (Some(Outcome::Share(share)), Outcome::Up) => Some(Outcome::Share(share)),
            (_, said) => Some(said),
        };
    }
    match outcome {
        Some(outcome) => Finding::said(outcome, format!("the agent says {line}")),
        None if words.trim().is_empty() => Finding::down("the agent said nothing"),
        None => Finding::down(format!(
            "the agent says {line}, which is none of up, ready, drain, down, 0% to 100%"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_words_are_understood() {
        let outcome = |line| read(line).outcome;
        assert_eq!(outcome("75%"), Outcome::Share(75));
        assert_eq!(outcome("up 30% maxconn:10 # busy, down soon"), Outcome::Share(30));
        assert_eq!(outcome("30% up\r"), Outcome::Share(30));
        assert_eq!(outcome("ready"), Outcome::Up);
        assert_eq!(outcome("DRAIN 50%"), Outcome::Drain);
        assert_eq!(outcome("0%"), Outcome::Drain);
        assert_eq!(outcome("100% stopped"), Outcome::Down);
        assert_eq!(outcome("maint"), Outcome::Down);
        assert_eq!(outcome(""), Outcome::Down);
        assert_eq!(outcome("hello"), Outcome::Down);
    }
}
