//! As whom, and within which limits, a probe's program runs: as a user who owns nothing, without capabilities or a way to get them.

use std::{fs, io, sync::LazyLock, time::Duration};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs},
};
use tokio::process::Command;

/// The user that the package makes for programs of probes.
const USER: &str = "lvx-exec";

/// The kernel's user and group for those who have none here (`/proc/sys/kernel/overflowuid`): `nobody`.
const NOBODY: User = User {
    uid: 65_534,
    gid: 65_534,
};

/// Programs run as this user. Looked up once.
static RUN_AS: LazyLock<User> = LazyLock::new(|| {
    let known = fs::read_to_string("/etc/passwd").unwrap_or_default();
    find(USER, &known).unwrap_or_else(|| {
        tracing::warn!("there is no user {USER}, so programs of exec probes run as nobody: make it, and restart lvx");
        NOBODY
    })
});

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
}

/// The user of that name in a file of the form of passwd(5); never one who is root or of root's group.
fn find(name: &str, passwd: &str) -> Option<User> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (uid != 0 && gid != 0).then_some(User { uid, gid })
}

/// What a program may use at most; less, where the daemon itself may use less.
fn limits(time: Duration) -> [(Resource, u64); 7] {
    const MIB: u64 = 1 << 20;
    [
        (Resource::Cpu, time.as_secs() + 1),
        (Resource::Data, 512 * MIB),
        (Resource::Fsize, MIB),
        (Resource::Nofile, 256),
        (Resource::Nproc, 512),
        (Resource::Memlock, 0),
        (Resource::Core, 0),
    ]
}

/// Confines a program that has `time` to answer.
pub(super) fn confine(command: &mut Command, time: Duration) {
    let user = *RUN_AS;
    let limits = limits(time);
    // The standard library sets the group and drops supplementary groups before it sets the user.
    command.uid(user.uid).gid(user.gid);
    let give_up = move || -> io::Result<()> {
        for (resource, most) in limits {
            let most = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
            let most = Some(most);
            setrlimit(
                resource,
                Rlimit {
                    current: most,
                    maximum: most,
                },
            )?;
        }
        set_no_new_privs(true)?;
        clear_ambient_capability_set()?;
        // A change of the user from root to another clears these; one from another user does not (capabilities(7)).
        let none = CapabilitySet::empty();
        set_capabilities(
            None,
            CapabilitySets {
                effective: none,
                permitted: none,
                inheritable: none,
            },
        )?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls: it takes no lock and allocates nothing.
    unsafe { command.pre_exec(give_up) };
}

/// What to do where a program cannot be started like that.
pub(super) fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; the daemon needs CAP_SETUID and CAP_SETGID to run it as another user",
        Some(libc::EACCES) => "; it runs as the user lvx-exec, or as nobody where there is none",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packaged_user_is_found_and_never_root() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nlvx-exec2:x:7:7::/:\nlvx-exec:x:997:996::/nonexistent:/usr/sbin/nologin\n";
        assert_eq!(find(USER, passwd), Some(User { uid: 997, gid: 996 }));
        for passwd in [
            "",
            "lvx-exec:x:0:0::/:",
            "lvx-exec:x:5:0::/:",
            "lvx-exec:x",
            "lvx-exec:x:a:b::/:",
        ] {
            assert_eq!(find(USER, passwd), None, "{passwd}");
        }
    }
}
