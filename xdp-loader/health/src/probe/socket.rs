//! Sockets for probes: bound to a source and marked before they connect.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{SockRef, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::Route;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a reset: nothing is left behind, on neither side.
    Reset,
    /// In the usual way.
    Close,
}

/// Connects over TCP.
pub(super) async fn connect(route: Route, end: End) -> io::Result<TcpStream> {
    let socket = match route.to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    prepare(SockRef::from(&socket), route)?;
    if end == End::Reset {
        // Thousands of probes per second would else fill the table of connections in TIME_WAIT.
        SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    }
    if let Some(from) = route.from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(route.to).await
}

/// A UDP socket that hears of ICMP errors.
pub(super) async fn datagrams(route: Route) -> io::Result<UdpSocket> {
    let unspecified = match route.to {
        SocketAddr::V4(_) => IpAddr::from([0; 4]),
        SocketAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let socket = UdpSocket::bind(SocketAddr::new(route.from.unwrap_or(unspecified), 0)).await?;
    prepare(SockRef::from(&socket), route)?;
    hear_errors(&socket, route.to)?;
    socket.connect(route.to).await?;
    Ok(socket)
}

/// A raw ICMP socket, connected, in non-blocking mode.
pub(super) fn icmp(route: Route) -> io::Result<socket2::Socket> {
    let (domain, protocol) = match route.to {
        SocketAddr::V4(_) => (socket2::Domain::IPV4, socket2::Protocol::ICMPV4),
        SocketAddr::V6(_) => (socket2::Domain::IPV6, socket2::Protocol::ICMPV6),
    };
    let socket = socket2::Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // A flood of answers is not kept.
    socket.set_recv_buffer_size(16 * 1024)?;
    prepare(SockRef::from(&socket), route)?;
    if let Some(from) = route.from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect(&SocketAddr::new(route.to.ip(), 0).into())?;
    Ok(socket)
}

fn prepare(socket: SockRef<'_>, route: Route) -> io::Result<()> {
    match route.mark {
        Some(mark) => socket.set_mark(mark),
        None => Ok(()),
    }
}

/// Sets IP_RECVERR (ip(7)): host and network unreachable are errors of the socket, not only port unreachable.
fn hear_errors(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let (level, option) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open while `socket` is borrowed; the value is an int that outlives the call, and its
    // size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
