//! Gratuitous ARP and unsolicited neighbour advertisements, as a neighbour hears them.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use lvx_netlink::{
    Links, Vips,
    announce::{gratuitous_arp, unsolicited_advertisement},
};
use tokio::time::sleep;

use crate::{
    lab::{BALANCER, PATIENCE, net},
    vips::wish,
};

/// A raw socket that receives every frame in the namespace of the calling thread.
fn sniffer() -> OwnedFd {
    // SAFETY: no pointers are passed.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            i32::from(0x0003_u16.to_be()),
        )
    };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor was just created and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(Duration::from_millis(100)),
    )
    .unwrap();
    socket
}

fn receive(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut frame = vec![0; 2048];
    // SAFETY: the buffer is writable for the length given, and outlives the call.
    let length = unsafe { libc::recv(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
    frame.truncate(usize::try_from(length).ok()?);
    Some(frame)
}

#[test]
fn a_new_vip_is_announced_twice_and_again_when_the_link_comes_up() {
    let net = &net();
    let (ready, start) = std::sync::mpsc::channel();
    let (first_heard, heard) = std::sync::mpsc::channel();
    let (arps, advertisements) = thread::scope(|scope| {
        let listener = scope.spawn(|| {
            net.backends[0].block_on(async move || {
                let socket = sniffer();
                ready.send(()).unwrap();
                let arp = gratuitous_arp(BALANCER[0], [10, 0, 0, 100].into());
                let advertisement = unsolicited_advertisement(BALANCER[0], "2001:db8::100".parse().unwrap(), false);
                let (mut arps, mut advertisements) = (Vec::new(), Vec::new());
                let deadline = Instant::now() + PATIENCE;
                while arps.len().min(advertisements.len()) < 4 && Instant::now() < deadline {
                    if let Some(frame) = receive(&socket) {
                        if frame.starts_with(&arp) {
                            arps.push(Instant::now());
                        } else if frame == advertisement {
                            advertisements.push(Instant::now());
                        }
                        if arps.len().min(advertisements.len()) == 2 {
                            let _ = first_heard.send(());
                        }
                    }
                }
                (arps, advertisements)
            })
        });
        start.recv().unwrap();
        net.balancer.block_on(async move || {
            let links = Links::follow().await.unwrap();
            let eth0 = links.find("eth0").unwrap().index;
            let vips = Vips::start().await.unwrap();
            vips.ensure(wish(&["10.0.0.100", "2001:db8::100"], eth0)).await.unwrap();
            let deadline = Instant::now() + PATIENCE;
            while heard.try_recv().is_err() {
                assert!(Instant::now() < deadline, "the first two announcements were not heard");
                sleep(Duration::from_millis(20)).await;
            }
            net.balancer.ip("link set eth0 down").unwrap();
            sleep(Duration::from_millis(200)).await;
            net.balancer.ip("link set eth0 up").unwrap();
            sleep(Duration::from_secs(2)).await;
            vips.remove_all().await.unwrap();
        });
        listener.join().unwrap()
    });
    for heard in [&arps, &advertisements] {
        assert!(
            heard.len() >= 4,
            "{} ARPs, {} advertisements",
            arps.len(),
            advertisements.len()
        );
        let between = heard[1] - heard[0];
        assert!(
            between > Duration::from_millis(800) && between < Duration::from_millis(1500),
            "{between:?}"
        );
    }
}
