//! Flows as connections: numbers become services and backends again.

use std::{cell::Cell, collections::BTreeMap, net::SocketAddr, ops::ControlFlow, sync::Arc};

use tokio::{sync::mpsc, task::spawn_blocking};
use tracing::error;
use xdp_common::tcp_state::State;

use super::Shared;
use crate::DataplaneError;
use lvx_api::{Conn, ConnCount, ConnFilter, ConnState};
use lvx_dataplane::{Clock, Error, flow::Flow, flows};
use lvx_model::{Backend, BackendKey, Forward, Netmask, ServiceAddress};

/// The connections that the filter admits, as they are read.
pub(super) fn list(shared: Arc<Shared>, filter: ConnFilter) -> mpsc::Receiver<Conn> {
    let (sender, receiver) = mpsc::channel(256);
    spawn_blocking(move || {
        let lister = Lister::new(&shared, filter);
        let listed = flows::list(&shared.maps, |flow| {
            if lister.is_done() {
                return ControlFlow::Break(());
            }
            let sent = lister.conn(flow).map_or(Ok(()), |conn| sender.blocking_send(conn));
            if sent.is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        if let Err(error) = listed {
            error!(%error, "the flows could not be listed");
        }
    });
    receiver
}

/// How many connections the filter admits.
pub(super) async fn count(shared: Arc<Shared>, filter: ConnFilter) -> Result<ConnCount, DataplaneError> {
    aside(move || {
        let lister = Lister::new(&shared, filter);
        let mut count = ConnCount::default();
        flows::list(&shared.maps, |flow| {
            if let Some(conn) = lister.conn(flow) {
                count.add(&conn, is_over(&flow, &conn));
            }
            if lister.is_done() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        Ok(count)
    })
    .await
}

/// Forgets the connections that the filter admits, and says how many they were; and where clients persist, if all that
/// persist there are meant.
pub(super) async fn flush(shared: Arc<Shared>, filter: ConnFilter) -> Result<u64, DataplaneError> {
    aside(move || {
        let lister = Lister::new(&shared, filter);
        let rules = Arc::clone(&shared.published.get().tables.rules);
        let templates = Cell::new(0);
        let flushed = flows::flush(&shared.maps, &rules, |flow| {
            let persists = lister.persists(flow);
            templates.set(templates.get() + u64::from(persists));
            persists || lister.conn(*flow).is_some()
        })?;
        Ok(flushed.saturating_sub(templates.get()))
    })
    .await
}

/// Reads the flow tables aside from the tasks that serve requests.
async fn aside<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, DataplaneError> {
    let read = spawn_blocking(read).await;
    Ok(read.map_err(|error| DataplaneError::Kernel(error.to_string()))??)
}

/// Turns flows into connections that a filter admits.
struct Lister {
    backends: BTreeMap<u32, BackendKey>,
    forwards: BTreeMap<BackendKey, Forward>,
    /// How many leading bits of a client's address its persistence goes by.
    netmasks: BTreeMap<ServiceAddress, Netmask>,
    clock: Clock,
    filter: ConnFilter,
    left: Cell<usize>,
}

impl Lister {
    /// With the numbers and services of now.
    fn new(shared: &Shared, filter: ConnFilter) -> Self {
        let snapshot = shared.published.get();
        let desired = snapshot.desired.clone().unwrap_or_default();
        let netmasks = desired.services().values();
        let netmasks = netmasks.map(|service| (service.address, service.netmask())).collect();
        let forwards = desired
            .services()
            .values()
            .flat_map(|service| {
                let forward = |backend: &Backend| (backend.key(service), backend.forward(service));
                service.backends.iter().map(forward).collect::<Vec<_>>()
            })
            .collect();
        Self {
            backends: snapshot
                .tables
                .backends
                .iter()
                .map(|(backend, number)| (*number, *backend))
                .collect(),
            forwards,
            netmasks,
            clock: snapshot.tables.clock,
            left: Cell::new(filter.limit.unwrap_or(usize::MAX)),
            filter,
        }
    }

    /// Whether a flow says where clients persist, all of whom are asked for, on any of their connections.
    fn persists(&self, flow: &Flow) -> bool {
        let ConnFilter {
            service,
            backend,
            state: None,
            client,
            limit: None,
        } = self.filter
        else {
            return false;
        };
        let Some((own, ip, port)) = self.backends.get(&flow.backend) else {
            return false;
        };
        flow.is_template()
            && service.is_none_or(|service| service == *own)
            && backend.is_none_or(|backend| backend.ip == *ip && backend.port.is_none_or(|asked| asked == *port))
            && client.is_none_or(|client| {
                let netmask = self.netmasks.get(own);
                netmask.is_some_and(|Netmask(length)| client.contains_network(flow.client, *length))
            })
    }

    /// Whether as many were admitted as were asked for.
    fn is_done(&self) -> bool {
        self.left.get() == 0
    }

    /// The connection of a flow, if it is asked for and its service and backend still exist.
    fn conn(&self, flow: Flow) -> Option<Conn> {
        let key = self.backends.get(&flow.backend)?;
        let service = key.0;
        let conn = Conn {
            protocol: service.protocol,
            client: SocketAddr::new(flow.client, flow.port),
            service,
            backend: SocketAddr::new(key.1, key.2),
            state: match flow.state {
                State::Udp => ConnState::Udp,
                State::SynReceived => ConnState::Opening,
                State::Established => ConnState::Established,
                State::FinClient | State::FinBackend | State::TimeWait | State::Closed => ConnState::Closing,
                State::Template => return None,
            },
            forward: *self.forwards.get(key)?,
            idle_seconds: flows::idle_seconds(flow, &self.clock),
        };
        if !self.filter.admits(&conn) || self.left.get() == 0 {
            return None;
        }
        self.left.set(self.left.get() - 1);
        Some(conn)
    }
}

/// How long a connection that the client has closed still counts as one that its backend has to do with, seconds, where the
/// backend's side is not seen: if it goes on sending, the client's acknowledgements go on.
const LINGER_SECONDS: u64 = 1;

/// Whether a connection's backend has no more to do with it.
fn is_over(flow: &Flow, conn: &Conn) -> bool {
    match flow.state {
        State::Udp | State::SynReceived | State::Established | State::Template => false,
        State::FinClient | State::FinBackend => match conn.forward {
            Forward::Dr => conn.idle_seconds > LINGER_SECONDS,
            // The other side's FIN is yet to come, however long it takes to answer; a flow that has none is forgotten in the end.
            Forward::Nat => false,
        },
        State::TimeWait | State::Closed => true,
    }
}
