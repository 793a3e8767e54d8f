//! Errors that are this node's own trouble: a backend has no part in them, and they say nothing of it.

use std::{error::Error, io};

/// No descriptors, memory, buffers, processes or local ports are left, or the node forbids what was tried. No ICMP error of another
/// host becomes one of these (Linux: `icmp_err_convert` in net/ipv4/icmp.c, `tab_unreach` in net/ipv6/icmp.c).
const OWN: &[i32] = &[
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOMEM,
    libc::ENOBUFS,
    libc::EAGAIN,
    libc::EADDRNOTAVAIL,
    libc::EADDRINUSE,
    libc::EPERM,
];

/// Whether an error, or what caused it, is one of this node's own.
pub(super) fn is_own(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let errno = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if errno.is_some_and(|errno| OWN.contains(&errno)) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("a library's words")]
    struct Wrapped(#[source] io::Error);

    #[test]
    fn a_shortage_is_the_nodes_own_and_what_a_backend_answers_is_not() {
        for errno in OWN {
            assert!(is_own(&io::Error::from_raw_os_error(*errno)), "{errno}");
            assert!(is_own(&Wrapped(io::Error::from_raw_os_error(*errno))), "{errno}");
        }
        for errno in [
            libc::ECONNREFUSED,
            libc::ECONNRESET,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::EACCES,
            libc::ETIMEDOUT,
            libc::EPIPE,
        ] {
            assert!(!is_own(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
        assert!(!is_own(&Wrapped(io::Error::other("sends more than 192 KiB"))));
    }
}
