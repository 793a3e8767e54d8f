//! Attaches the program to interfaces through links that are pinned, so that it forwards without the daemon and can be
//! replaced without a gap.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    programs::{
        ProgramError, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use rustix::net::{AddressFamily, SocketType, netdevice::index_to_name, socket};
use tracing::{info, warn};

use crate::{
    Error,
    error::{chain, permission},
    pin::Pin,
    pins::{LINK, remove},
    program::program,
};
use lvx_model::settings::{AttachMode, XdpMode as Choice};
use lvx_netlink::{Link, occupant::occupant};

/// An interface that the program is attached to.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Where in the receive path the program runs; `None` if that cannot be told.
    pub mode: AttachMode,
    /// Why the mode is not the better one.
    pub note: Option<String>,
    /// The link. It is held, so that an interface does not lose its program with the pin.
    pin: Arc<Pin>,
}

impl Attachment {
    fn new(link: &Link, mode: AttachMode, note: Option<String>, pins: &Path) -> Result<Self, Error> {
        Ok(Self {
            name: link.name.clone(),
            ifindex: link.index,
            mode,
            note,
            pin: Arc::new(Pin::hold(&pin_of(pins, link.index, mode))?),
        })
    }

    /// Whether the program is still on the interface: somebody may have detached the link, or the interface has gone.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.pin.interface().is_none_or(|ifindex| ifindex == self.ifindex)
    }

    /// Puts the link's pin back if somebody has removed it. Whether it was gone.
    ///
    /// # Errors
    ///
    /// If it cannot be put back.
    pub fn restore_pin(&self) -> Result<bool, Error> {
        self.pin.restore()
    }
}

/// Where the link to an interface is pinned, and how it is attached. A name may have a dot, which BPF's file system does
/// not take, so the index is used.
fn pin_of(pins: &Path, ifindex: u32, mode: AttachMode) -> PathBuf {
    pins.join(format!("{LINK}{ifindex}_{}", mode.name()))
}

/// The interfaces that links are pinned for.
fn pinned(pins: &Path) -> Result<Vec<(u32, AttachMode, PathBuf)>, Error> {
    let entries = match fs::read_dir(pins) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(Error::Pins {
                action: "read",
                path: pins.to_owned(),
                source,
            });
        }
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (ifindex, mode) = name.strip_prefix(LINK)?.split_once('_')?;
            let mode = [AttachMode::Native, AttachMode::Generic]
                .into_iter()
                .find(|known| known.name() == mode)?;
            Some((ifindex.parse().ok()?, mode, entry.path()))
        })
        .collect())
}

/// Attaches the loaded program to these interfaces: where an earlier daemon's link is pinned, the program is replaced in it,
/// between two packets. That comes last, as it is what fails least.
///
/// # Errors
///
/// If an interface does not take the program. Then what was attached before is again, with the predecessor's program if there
/// is one.
pub fn attach(
    ebpf: &mut Ebpf,
    predecessor: Option<&mut Xdp>,
    pins: &Path,
    links: &[Link],
    choice: Choice,
) -> Result<Vec<Attachment>, Error> {
    let program = program(ebpf, "lvx")?;
    let before = pinned(pins)?;
    let known = |link: &Link| before.iter().find(|(ifindex, ..)| *ifindex == link.index);
    let stays = |link: &&Link| known(link).is_some_and(|(_, mode, _)| allows(choice, *mode));
    let (staying, others): (Vec<&Link>, Vec<&Link>) = links.iter().partition(stays);
    let mut attachments = Vec::new();
    for link in others.into_iter().chain(staying) {
        match attach_to(program, pins, link, known(link), choice) {
            Ok(attachment) => attachments.push(attachment),
            Err(error) => {
                // A link that is held stays attached, whatever becomes of its pin.
                drop(attachments);
                restore(program, predecessor, pins, &before);
                return Err(error);
            }
        }
    }
    // In the order in which they were asked for.
    attachments.sort_by_key(|attachment| links.iter().position(|link| link.index == attachment.ifindex));
    Ok(attachments)
}

/// Attaches the loaded program to one interface more.
///
/// # Errors
///
/// If the interface does not take the program.
pub fn attach_one(ebpf: &mut Ebpf, pins: &Path, link: &Link, choice: Choice) -> Result<Attachment, Error> {
    let before = pinned(pins)?;
    let known = before.iter().find(|(ifindex, ..)| *ifindex == link.index);
    attach_to(program(ebpf, "lvx")?, pins, link, known, choice)
}

/// Attaches the program to an interface, for which a link may be pinned.
fn attach_to(
    program: &mut Xdp,
    pins: &Path,
    link: &Link,
    known: Option<&(u32, AttachMode, PathBuf)>,
    choice: Choice,
) -> Result<Attachment, Error> {
    if let Some((_, mode, path)) = known {
        let replaced = allows(choice, *mode).then(|| replace(program, path));
        match replaced {
            Some(Ok(())) => {
                info!(interface = link.name, mode = mode.name(), "took the interface over");
                return Attachment::new(link, *mode, None, pins);
            }
            Some(Err(error)) if errno(&error) != Some(libc::ENOLINK) => return Err(error),
            // The link is dead, or of a mode that is not wanted any more: an interface has programs in one mode only, so the one
            // there must go before another can come.
            _ => remove(path)?,
        }
    }
    create(program, pins, link, choice)
        .inspect(|attachment| info!(interface = link.name, mode = attachment.mode.name(), "attached"))
}

/// Whether a program is attached to any interface.
pub fn is_attached(pins: &Path) -> bool {
    pinned(pins).is_ok_and(|links| !links.is_empty())
}

/// The kernel's number of an error, if it has one.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// Makes the links what they were before. What cannot be is told: there is nothing else to be done.
fn restore(program: &mut Xdp, predecessor: Option<&mut Xdp>, pins: &Path, before: &[(u32, AttachMode, PathBuf)]) {
    let program = predecessor.unwrap_or(program);
    for (ifindex, mode, path) in pinned(pins).unwrap_or_default() {
        if !before.contains(&(ifindex, mode, path.clone()))
            && let Err(error) = remove(&path)
        {
            warn!(%error, "an interface could not be left as it was");
        }
    }
    for (ifindex, mode, path) in before {
        let restored = match path.exists() {
            true => replace(program, path),
            false => create_in(program, pins, *ifindex, *mode).map_err(Error::from),
        };
        if let Err(error) = restored {
            warn!(%error, interface = name_of(*ifindex), "an interface could not be left as it was");
        }
    }
}

/// The name of an interface, which is what people know it by.
pub(crate) fn name_of(ifindex: u32) -> String {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None);
    let name = socket.and_then(|socket| index_to_name(socket, ifindex));
    name.unwrap_or_else(|_| format!("interface {ifindex}"))
}

/// Takes the program off all interfaces but these.
///
/// # Errors
///
/// If a link is there and cannot be removed.
pub fn release(pins: &Path, indices: &[u32]) -> Result<(), Error> {
    for (ifindex, _, path) in pinned(pins)? {
        if !indices.contains(&ifindex) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Puts the program in the place of the one that a pinned link holds.
fn replace(program: &mut Xdp, path: &Path) -> Result<(), Error> {
    let link: FdLink = PinnedLink::from_pin(path)?.into();
    let link: XdpLink = link.try_into()?;
    let id = program.attach_to_link(link)?;
    // The pin keeps the link; this end of it need not.
    drop(program.take_link(id)?);
    Ok(())
}

/// Attaches the program anew and pins the link.
fn create(program: &mut Xdp, pins: &Path, link: &Link, choice: Choice) -> Result<Attachment, Error> {
    let mut refused = None;
    for mode in modes(choice) {
        match create_in(program, pins, link.index, *mode) {
            Ok(()) => {
                let note =
                    refused.map(|reason: String| format!("generic mode, as the driver takes no program: {reason}"));
                if let Some(note) = &note {
                    warn!(interface = link.name, "{note}");
                }
                return Attachment::new(link, *mode, note, pins);
            }
            Err(error) if permission(&error) => return Err(Error::NotPermitted("attach XDP programs")),
            Err(error) => refused = Some(reason(&error, *mode, link)),
        }
    }
    Err(Error::Attach {
        interface: link.name.clone(),
        mode: name(choice),
        reason: refused.unwrap_or_else(|| "no mode was tried".to_owned()),
    })
}

/// How long a link that was removed may take to be gone: the kernel takes it off its interface a moment later.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// Attaches the program in a mode and pins the link.
fn create_in(program: &mut Xdp, pins: &Path, ifindex: u32, mode: AttachMode) -> Result<(), ProgramError> {
    let flag = match mode {
        AttachMode::Native => XdpMode::Driver,
        AttachMode::Generic => XdpMode::Skb,
    };
    let end = Instant::now() + GONE_WITHIN;
    let id = loop {
        match program.attach_to_if_index(ifindex, flag) {
            Err(error) if matches!(errno(&error), Some(libc::EBUSY | libc::EEXIST)) && Instant::now() < end => {
                thread::sleep(Duration::from_millis(1));
            }
            attached => break attached?,
        }
    };
    let io = |error: &dyn std::error::Error| ProgramError::IOError(io::Error::other(error.to_string()));
    let link = FdLink::try_from(program.take_link(id)?).map_err(|error| io(&error))?;
    // Dropping the pinned link closes this end; the pin stays.
    drop(link.pin(pin_of(pins, ifindex, mode)).map_err(|error| io(&error))?);
    Ok(())
}

/// Why an interface did not take the program, and what to do.
fn reason(error: &ProgramError, mode: AttachMode, link: &Link) -> String {
    let errno = match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    match (errno, mode) {
        (Some(libc::EOPNOTSUPP), AttachMode::Native) => {
            "its driver has no XDP (use --xdp-mode auto or generic)".to_owned()
        }
        (Some(libc::EBUSY | libc::EEXIST), _) => {
            let id = occupant(link.index).map_or(String::new(), |id| format!(" with id {id}"));
            let name = &link.name;
            format!(
                "another XDP program{id} is attached there; if nobody needs it, take it off: `ip link set dev {name} xdp off`, or `bpftool link detach` for what `bpftool net show dev {name}` lists"
            )
        }
        (Some(libc::ENODEV), _) => "the interface is gone".to_owned(),
        (Some(libc::ERANGE | libc::EINVAL), AttachMode::Native) => {
            format!("{} (is its MTU too large for XDP in one page, 3498?)", chain(error))
        }
        _ => chain(error),
    }
}

/// Takes the program off all interfaces whose links are pinned.
///
/// # Errors
///
/// If a pin cannot be removed.
pub fn detach(pins: &Path) -> Result<Vec<u32>, Error> {
    let links = pinned(pins)?;
    for (_, _, path) in &links {
        remove(path)?;
    }
    Ok(links.into_iter().map(|(ifindex, ..)| ifindex).collect())
}

/// The modes that a choice lets try, in order.
fn modes(choice: Choice) -> &'static [AttachMode] {
    match choice {
        Choice::Auto => &[AttachMode::Native, AttachMode::Generic],
        Choice::Native => &[AttachMode::Native],
        Choice::Generic => &[AttachMode::Generic],
    }
}

/// Whether an interface may stay attached in this mode.
fn allows(choice: Choice, mode: AttachMode) -> bool {
    modes(choice).contains(&mode)
}

/// A choice as the user writes it.
fn name(choice: Choice) -> &'static str {
    match choice {
        Choice::Auto => "auto",
        Choice::Native => "native",
        Choice::Generic => "generic",
    }
}
