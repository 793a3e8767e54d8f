//! Every scheduler chooses as its reference does, whatever comes and goes.

use std::{env, time::Duration};

use lvx_dataplane::{Node, Sizes};
use lvx_model::Scheduler;
use lvx_test_kit::random::Random;
use xdp_common::tcp_state::State;

use crate::{balancer::Balancer, site::Site};

/// After this flows whose idle timeout is none have expired, and no others.
const SOON: Duration = Duration::from_secs(3);

/// New connections to all services together: fewer where the processor is emulated, as `scripts/vm-run` says.
fn arrivals() -> usize {
    match env::var_os("LVX_EMULATED") {
        Some(_) => 2_000,
        None => 10_000,
    }
}

/// Connections come, go on, end and are forgotten at four services, TCP and UDP over IPv4 and IPv6; weights change. Every
/// time the reference's server is chosen, and what packets count is what there is.
fn holds_against_the_reference(scheduler: Scheduler) {
    let mut random = Random::new(scheduler as u64 + 1);
    let mut balancer = Balancer::on(Sizes::new(16, 1024, 65_536, 65_536), Node::default());
    let names = [
        ("tcp://10.9.9.9:80", 3 + random.below(30)),
        ("udp://10.9.9.9:80", 256),
        ("tcp://[2001:db8:9::9]:80", 256),
        ("udp://[2001:db8:9::9]:80", 1 + random.below(8)),
    ];
    let mut sites = names.map(|(name, servers)| {
        let seed = random.word();
        Site::new(&mut balancer, name, scheduler, servers as u16, seed)
    });
    let mut states = Vec::new();
    for round in 0..arrivals() / 500 {
        for site in &mut sites {
            site.weigh(&mut balancer, if round == 0 { 100 } else { 25 });
        }
        balancer.apply();
        balancer.lengthen_idle_timeouts();
        for site in &mut sites {
            site.applied(&balancer);
        }
        for _ in 0..500 {
            let site = &mut sites[random.below(4)];
            site.arrive(&mut balancer);
            if random.happens(80) {
                site.go_on(&mut balancer);
            }
        }
        // What ended in one of these states expires at once.
        states.clear();
        for (state, share) in [
            (State::TimeWait, 100),
            (State::Closed, 80),
            (State::FinClient, 50),
            (State::FinBackend, 50),
            (State::SynReceived, 30),
            (State::Established, 10),
            (State::Udp, 10),
        ] {
            if random.happens(share) {
                states.push(state);
                balancer.set_idle_timeout(state, 1);
            }
        }
        let census = balancer.sweep_after(SOON);
        for site in &mut sites {
            site.swept(&states);
            site.assert_all_counted(&balancer, &census);
        }
        let connections: usize = sites.iter().map(Site::connections).sum();
        assert_eq!((census.v4 + census.v6) as usize, connections);
    }
}

macro_rules! schedulers {
    ($($test:ident: $scheduler:ident,)+) => {
        $(
            #[test]
            fn $test() {
                holds_against_the_reference(Scheduler::$scheduler);
            }
        )+
    };
}

schedulers! {
    round_robin_chooses_as_its_reference_among_thousands_of_connections: Rr,
    weighted_round_robin_chooses_as_its_reference_among_thousands_of_connections: Wrr,
    least_connections_chooses_as_its_reference_among_thousands_of_connections: Lc,
    weighted_least_connections_chooses_as_its_reference_among_thousands_of_connections: Wlc,
    shortest_expected_delay_chooses_as_its_reference_among_thousands_of_connections: Sed,
    never_queue_chooses_as_its_reference_among_thousands_of_connections: Nq,
    failover_chooses_as_its_reference_among_thousands_of_connections: Fo,
    overflow_chooses_as_its_reference_among_thousands_of_connections: Ovf,
    source_hashing_chooses_as_its_reference_among_thousands_of_connections: Sh,
    destination_hashing_chooses_as_its_reference_among_thousands_of_connections: Dh,
    maglev_chooses_as_its_reference_among_thousands_of_connections: Mh,
}
