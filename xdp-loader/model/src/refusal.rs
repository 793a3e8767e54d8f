//! Why a change of the desired state was refused.

use std::{fmt, net::IpAddr};

use super::{
    BackendAddress, Family, Netmask, Period, Scheduler, ServiceAddress, TimeoutOf,
    check::CheckError,
    limits::{MAX_BACKENDS_PER_SERVICE, MAX_CHECKS, MAX_SERVICES},
    scheduler::MH_SLOTS,
};

/// Why a change of the desired state was refused; the state is as it was before.
///
/// Each message names the thing, the reason and, where there is one, the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A service was added that is there.
    #[error("service {0} exists already: use `lvx service set` to change it")]
    ServiceExists(ServiceAddress),
    /// A document describes the same service twice.
    #[error("service {0} is there twice: merge the two")]
    ServiceTwice(ServiceAddress),
    /// A service was named that is not there.
    #[error("service {0} does not exist: `lvx service list` shows those that do")]
    ServiceUnknown(ServiceAddress),
    /// A backend was added that is there.
    #[error("backend {backend} exists already in service {service}: use `lvx backend set` to change it")]
    BackendExists {
        /// The service.
        service: ServiceAddress,
        /// The backend.
        backend: BackendAddress,
    },
    /// A document describes the same backend twice in one service.
    #[error("backend {backend} is there twice in service {service}: keep one")]
    BackendTwice {
        /// The service.
        service: ServiceAddress,
        /// The backend.
        backend: BackendAddress,
    },
    /// A backend was named that is not there.
    #[error("backend {backend} does not exist in service {service}: `lvx backend list {service}` shows those that do")]
    BackendUnknown {
        /// The service.
        service: ServiceAddress,
        /// The backend.
        backend: BackendAddress,
    },
    /// A backend is not of its service's address family.
    #[error(
        "backend {backend} is {}, service {service} is {}: a service and its backends must be of one address family",
        Family::of(backend.ip), service.family()
    )]
    MixedFamilies {
        /// The service.
        service: ServiceAddress,
        /// The backend.
        backend: BackendAddress,
    },
    /// A backend under direct routing has another port than its service.
    #[error(
        "backend {backend} of service {service} has another port, and dr cannot rewrite ports: \
         use --forward nat or the service's port {}", service.port
    )]
    PortMismatch {
        /// The service.
        service: ServiceAddress,
        /// The backend.
        backend: BackendAddress,
    },
    /// A weight does not fit.
    #[error("weight {weight} of backend {backend} is out of range: it must be 0 to 65535")]
    WeightOutOfRange {
        /// The backend.
        backend: BackendAddress,
        /// The weight that was asked for.
        weight: i64,
    },
    /// A backend's port is 0.
    #[error("backend {backend} has port 0: ports are 1 to 65535; leave it out to use the service's")]
    PortZero {
        /// The backend.
        backend: BackendAddress,
    },
    /// A backend has one port in its address and another in its field.
    #[error("backend {backend} has a second port {port}: give the port once")]
    TwoPorts {
        /// The backend.
        backend: BackendAddress,
        /// The port in the field.
        port: u16,
    },
    /// A service's port is 0.
    #[error("service {service} has port 0: ports are 1 to 65535")]
    ServicePortZero {
        /// The service.
        service: ServiceAddress,
    },
    /// A VIP is not a unicast address.
    #[error("service {service}: {} is {kind}: a VIP must be a unicast address", service.ip)]
    ServiceNotUnicast {
        /// The service.
        service: ServiceAddress,
        /// What the address is.
        kind: NotUnicast,
    },
    /// A backend's address is not a unicast address.
    #[error("backend {backend}: {} is {kind}: a backend must have a unicast address", backend.ip)]
    BackendNotUnicast {
        /// The backend.
        backend: BackendAddress,
        /// What the address is.
        kind: NotUnicast,
    },
    /// A service's VIP is one of its backends.
    #[error("backend {backend} is the VIP of service {service} itself: name the real server's own address")]
    BackendIsVip {
        /// The service.
        service: ServiceAddress,
        /// The backend.
        backend: BackendAddress,
    },
    /// A Maglev table cannot have that many slots.
    #[error(
        "mh_slots {slots} of service {service} will not do: it must be a prime between {} and {}, such as 65537",
        MH_SLOTS.start(), MH_SLOTS.end()
    )]
    MhSlots {
        /// The service.
        service: ServiceAddress,
        /// The number that was asked for.
        slots: u32,
    },
    /// A service's health policy cannot be.
    #[error("availability of service {service}: {reason}")]
    Availability {
        /// The service.
        service: ServiceAddress,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A probe cannot be what a change makes of it.
    #[error("{whose}: {error}")]
    Check {
        /// The service or the backend that has it.
        whose: String,
        /// What is wrong with it.
        error: CheckError,
    },
    /// Fields of a probe are to change where there is none.
    #[error("{whose} has no health check of its own that could be changed: give its type too, as in --health http")]
    NoCheck {
        /// The service or the backend.
        whose: String,
    },
    /// Fields of a probe are to change where there are several.
    #[error(
        "{whose} has {count} health checks: give a type too, as in --health http, to replace them by one, \
         or change one of them in a document and `lvx apply` it"
    )]
    ManyChecks {
        /// The service or the backend.
        whose: String,
        /// How many there are.
        count: usize,
    },
    /// A service or one of its backends has too many probes.
    #[error("too many health checks in service {service}: {MAX_CHECKS} are the most; an exec check can combine more")]
    TooManyChecks {
        /// The service.
        service: ServiceAddress,
    },
    /// A probe would have to be sent from the other address family.
    #[error(
        "health check of service {service}: source {from} is {}, the service is {}: they must be of one address family",
        Family::of(*from), service.family()
    )]
    CheckSource {
        /// The service.
        service: ServiceAddress,
        /// The address to probe from. (Not called `source`, which would make it an error's cause.)
        from: IpAddr,
    },
    /// A hash is asked for of a scheduler that does not hash the client.
    #[error(
        "hash of service {service}: scheduler {scheduler} does not hash the client: leave it out, or use --scheduler mh or sh"
    )]
    HashWithoutHashing {
        /// The service.
        service: ServiceAddress,
        /// Its scheduler.
        scheduler: Scheduler,
    },
    /// Persistence is too short or too long.
    #[error(
        "persistence {period} of service {service} is out of range: it must be 1s to 31d; \
         to take it off, `lvx service set {service} --persistence 0s`"
    )]
    Persistence {
        /// The service.
        service: ServiceAddress,
        /// What was asked for.
        period: Period,
    },
    /// Something of persistence is asked for, and persistence is not.
    #[error("{what} of service {service} means nothing without persistence: give --persistence 300s too")]
    WithoutPersistence {
        /// The service.
        service: ServiceAddress,
        /// What was asked for.
        what: &'static str,
    },
    /// A netmask is longer than an address, or empty.
    #[error("netmask {length} of service {service} will not do: it must be 1 to {longest} for {}", service.family())]
    NetmaskLength {
        /// The service.
        service: ServiceAddress,
        /// What was asked for.
        length: u8,
        /// The longest there is.
        longest: Netmask,
    },
    /// A mark is 0.
    #[error("mark of service {service} is 0, which means none: leave it out, or use 1 or more")]
    MarkZero {
        /// The service.
        service: ServiceAddress,
    },
    /// Two services share their persistence and do not have the same.
    #[error(
        "service {service} and service {other} share mark {mark}, and their {what} is not the same: change both with \
         `lvx apply`, or take the mark off first (`lvx service set {service} --mark 0`)"
    )]
    MarkApart {
        /// The service.
        service: ServiceAddress,
        /// One that has the mark already.
        other: ServiceAddress,
        /// The mark.
        mark: u32,
        /// In what they differ.
        what: &'static str,
    },
    /// One-packet scheduling is asked for of a service that is not UDP.
    #[error("one_packet of service {service}: one-packet scheduling is for UDP: leave it out")]
    OnePacketProtocol {
        /// The service.
        service: ServiceAddress,
    },
    /// One-packet scheduling and persistence are asked for at once.
    #[error("service {service} cannot have both one_packet and persistence: one forgets what the other keeps")]
    OnePacketPersistence {
        /// The service.
        service: ServiceAddress,
    },
    /// A timeout is too short or too long.
    #[error("timeout {of} {period} of service {service} is out of range: it must be 1s to 31d")]
    Timeout {
        /// The service.
        service: ServiceAddress,
        /// Whose timeout.
        of: TimeoutOf,
        /// What was asked for.
        period: Period,
    },
    /// A lower threshold is not below the upper one.
    #[error("thresholds of backend {backend}: lower {lower} must be less than upper {upper}")]
    Thresholds {
        /// The backend.
        backend: BackendAddress,
        /// The upper threshold, connections.
        upper: u32,
        /// The lower threshold, connections.
        lower: u32,
    },
    /// A lower threshold without an upper one.
    #[error("lower {lower} of backend {backend} means nothing without upper: give --upper too")]
    LowerWithoutUpper {
        /// The backend.
        backend: BackendAddress,
        /// The lower threshold, connections.
        lower: u32,
    },
    /// A probe has a program that may not run.
    #[error("service {service}: health check exec: {reason}")]
    CommandNotAllowed {
        /// The service.
        service: ServiceAddress,
        /// Which program, and what to do.
        reason: String,
    },
    /// There would be more services than identifiers.
    #[error("too many services: LVX takes {MAX_SERVICES}; remove one first")]
    TooManyServices,
    /// A service would have more backends than it may.
    #[error("too many backends in service {service}: a service takes {MAX_BACKENDS_PER_SERVICE}; remove one first")]
    TooManyBackends {
        /// The service.
        service: ServiceAddress,
    },
}

/// What an address is that is not unicast, or not one that can be balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotUnicast {
    /// 0.0.0.0 or ::.
    Unspecified,
    /// 127.0.0.0/8 or ::1.
    Loopback,
    /// 224.0.0.0/4 or ff00::/8.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// fe80::/10: means nothing without an interface.
    LinkLocal,
    /// ::ffff:0:0/96: never on the wire.
    Mapped,
}

impl fmt::Display for NotUnicast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "the unspecified address",
            Self::Loopback => "a loopback address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::LinkLocal => "a link-local address, which means nothing without its interface",
            Self::Mapped => "an IPv4 address written as IPv6",
        })
    }
}

/// What keeps an address from being balanced, if anything does.
pub(super) fn not_unicast(ip: IpAddr) -> Option<NotUnicast> {
    if ip.is_unspecified() {
        return Some(NotUnicast::Unspecified);
    }
    if ip.is_loopback() {
        return Some(NotUnicast::Loopback);
    }
    if ip.is_multicast() {
        return Some(NotUnicast::Multicast);
    }
    match ip {
        IpAddr::V4(ip) if ip.is_broadcast() => Some(NotUnicast::Broadcast),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(NotUnicast::LinkLocal),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some(NotUnicast::Mapped),
        _ => None,
    }
}
