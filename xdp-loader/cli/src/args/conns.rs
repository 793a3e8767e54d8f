//! What can be typed of connections.

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use lvx_api::{ConnFilter, ConnState};
use lvx_model::{BackendAddress, Prefix, ServiceAddress};

#[derive(Debug, Args)]
pub struct Conns {
    #[command(subcommand)]
    pub command: Option<ConnsCommand>,
    #[command(flatten)]
    pub filter: Filter,
    /// Only how many they are
    #[arg(long)]
    pub count: bool,
}

#[derive(Debug, Subcommand)]
pub enum ConnsCommand {
    /// Forget entries of the flow table: their next packets are scheduled anew
    #[command(after_help = "Examples:
  lvx conns flush --service udp://10.0.0.100:53
  lvx conns flush --client 192.0.2.7
  lvx conns flush --all")]
    Flush {
        #[command(flatten)]
        filter: Filter,
        /// Forget every entry
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub struct Filter {
    /// Only connections to this service
    #[arg(long)]
    pub service: Option<ServiceAddress>,
    /// Only connections to this backend; without a port, on any port
    #[arg(long)]
    pub backend: Option<BackendAddress>,
    /// Only connections that are so far
    #[arg(long, value_parser = state())]
    pub state: Option<ConnState>,
    /// Only connections from this client, or from the clients of this network
    #[arg(long, value_name = "IP[/N]")]
    pub client: Option<Prefix>,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

impl From<Filter> for ConnFilter {
    fn from(filter: Filter) -> Self {
        let Filter {
            service,
            backend,
            state,
            client,
            limit,
        } = filter;
        Self {
            service,
            backend,
            state,
            client,
            limit,
        }
    }
}

fn state() -> impl TypedValueParser<Value = ConnState> {
    PossibleValuesParser::new(ConnState::ALL.map(ConnState::name)).try_map(|name| {
        let known = ConnState::ALL.into_iter().find(|known| known.name() == name);
        known.ok_or("no such state")
    })
}
