//! Which VIPs this node offers. Pure: who announces them, and how, is another's concern.

use std::{collections::BTreeSet, net::IpAddr};

use lvx_model::Desired;

/// What this node is among those that could offer the VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It offers what it serves.
    Active,
    /// It offers nothing: others announce the VIPs, or nobody.
    Silent,
}

/// Which services have lost their quorum.
pub type LostQuorums = BTreeSet<lvx_model::ServiceAddress>;

/// Whether a VIP is withdrawn although its services are desired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Withdraw {
    /// Never.
    #[default]
    Never,
    /// When all of its services have lost their quorum.
    Quorum(LostQuorums),
}

/// The VIPs that this node offers: those of services that it has, but for the ones that are left out.
#[must_use]
pub fn offered(
    desired: &Desired,
    is_left_out: impl Fn(&lvx_model::ServiceAddress) -> bool,
    withdraw: &Withdraw,
    role: Role,
) -> BTreeSet<IpAddr> {
    if role == Role::Silent {
        return BTreeSet::new();
    }
    let serves = |service: &&lvx_model::ServiceAddress| match withdraw {
        Withdraw::Never => true,
        Withdraw::Quorum(lost) => !lost.contains(service),
    };
    desired
        .services()
        .keys()
        .filter(serves)
        .filter(|service| !is_left_out(service))
        .map(|service| service.ip)
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use lvx_model::{Service, ServiceAddress};

    use super::*;

    const SERVICES: [&str; 3] = ["tcp://10.0.0.100:80", "udp://10.0.0.100:53", "tcp://[2001:db8::1]:80"];

    fn desired() -> Desired {
        let mut desired = Desired::default();
        for service in SERVICES {
            desired.add_service(Service::new(service.parse().unwrap())).unwrap();
        }
        desired
    }

    fn vips(vips: &[&str]) -> BTreeSet<IpAddr> {
        vips.iter().map(|vip| vip.parse().unwrap()).collect()
    }

    fn lost(services: &[&str]) -> Withdraw {
        Withdraw::Quorum(
            services
                .iter()
                .map(|it| it.parse::<ServiceAddress>().unwrap())
                .collect(),
        )
    }

    #[test]
    fn an_active_node_offers_each_vip_once_and_a_silent_one_none() {
        let all = vips(&["10.0.0.100", "2001:db8::1"]);
        assert_eq!(offered(&desired(), |_| false, &Withdraw::Never, Role::Active), all);
        assert_eq!(
            offered(&desired(), |_| false, &Withdraw::Never, Role::Silent),
            vips(&[])
        );
        assert_eq!(
            offered(&Desired::default(), |_| false, &Withdraw::Never, Role::Active),
            vips(&[])
        );
    }

    #[test]
    fn a_vip_is_not_offered_for_a_service_that_has_no_room() {
        let no_room = |service: &ServiceAddress| service.to_string() == SERVICES[2];
        assert_eq!(
            offered(&desired(), no_room, &Withdraw::Never, Role::Active),
            vips(&["10.0.0.100"])
        );
    }

    #[test]
    fn a_vip_is_withdrawn_only_when_all_of_its_services_have_lost_their_quorum() {
        let both = vips(&["10.0.0.100", "2001:db8::1"]);
        assert_eq!(
            offered(&desired(), |_| false, &lost(&SERVICES[..1]), Role::Active),
            both
        );
        assert_eq!(
            offered(&desired(), |_| false, &lost(&SERVICES[..2]), Role::Active),
            vips(&["2001:db8::1"])
        );
        assert_eq!(
            offered(&desired(), |_| false, &lost(&SERVICES), Role::Active),
            vips(&[])
        );
    }
}
