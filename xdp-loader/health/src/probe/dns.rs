//! `dns`: a query over UDP (RFC 1035), its response code, and a record of its answer.

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RecordType},
};

use super::{Finding, ProbeError, Route, socket};
use lvx_model::{CheckForm, check};

/// The longest answer that is read, in bytes.
const ANSWER: usize = 4_096;

#[derive(Debug)]
pub(super) struct Dns {
    query: Query,
    rcode: ResponseCode,
    answer: Option<String>,
}

impl Dns {
    pub(super) fn new(form: &CheckForm) -> Result<Self, ProbeError> {
        let name = form.name.as_deref().unwrap_or(".");
        let mut name = Name::from_ascii(name).map_err(|error| ProbeError(error.to_string()))?;
        name.set_fqdn(true);
        let record = form.record.as_deref().unwrap_or("A").to_ascii_uppercase();
        let record: RecordType = record
            .parse()
            .map_err(|_| ProbeError(format!("no record type `{record}`")))?;
        Ok(Self {
            query: Query::query(name, record),
            rcode: form
                .rcode
                .as_deref()
                .and_then(check::rcode)
                .unwrap_or(ResponseCode::NoError),
            answer: form.answer.clone(),
        })
    }

    pub(super) async fn run(&self, route: Route) -> Finding {
        let mut message = Message::new();
        let id = rand::random();
        message
            .set_id(id)
            .set_recursion_desired(true)
            .add_query(self.query.clone());
        let Ok(query) = message.to_vec() else {
            return Finding::down("the query cannot be written");
        };
        let socket = match socket::datagrams(route).await {
            Ok(socket) => socket,
            Err(error) => return Finding::refused(&error),
        };
        if let Err(error) = socket.send(&query).await {
            return Finding::refused(&error);
        }
        let mut answer = vec![0; ANSWER];
        loop {
            match socket.recv(&mut answer).await {
                Err(error) => return Finding::refused(&error),
                Ok(length) => match Message::from_vec(&answer[..length]) {
                    Ok(message) if message.id() == id && message.message_type() == MessageType::Response => {
                        return self.judge(&message);
                    }
                    // Someone else's, or a late one.
                    Ok(_) => {}
                    Err(error) => return Finding::down(format!("the answer is not DNS: {error}")),
                },
            }
        }
    }

    fn judge(&self, message: &Message) -> Finding {
        if message.response_code() != self.rcode {
            return Finding::down(format!(
                "answers {} ({}), not {}",
                message.response_code(),
                u16::from(message.response_code()),
                self.rcode
            ));
        }
        let Some(wanted) = &self.answer else {
            return Finding::up();
        };
        let has = |text: String| {
            text.trim_end_matches('.')
                .eq_ignore_ascii_case(wanted.trim_end_matches('.'))
        };
        if message.answers().iter().any(|record| has(record.data().to_string())) {
            Finding::up()
        } else {
            Finding::down(format!(
                "{wanted} is not among the {} records of the answer",
                message.answers().len()
            ))
        }
    }
}
