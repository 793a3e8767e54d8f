//! The Unix socket that the control API listens on.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
};

use axum::serve::Listener;
use lvx_model::exec::Author;
use tokio::net::{UnixListener, UnixStream};

/// Who may connect: the owner and the group.
const MODE: u32 = 0o660;

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another lvx daemon answers at {0}: a node has one daemon; stop that one first")]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{0} is there and is no socket: move it away, or give another --socket")]
    NotASocket(PathBuf),
    /// The kernel refused.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A listening socket whose file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

impl Socket {
    /// Listens at `path`, in place of a socket that a dead daemon left there.
    ///
    /// # Errors
    /// When a live daemon answers there, when something else is there, when the kernel refuses.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        refuse_what_is_there(path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(failed)?;
        }
        // Made beside and renamed over, so that whoever finds the socket finds it with its mode and answered.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let _ = fs::remove_file(&beside);
        let listener = StdListener::bind(&beside).map_err(failed)?;
        let placed = fs::set_permissions(&beside, fs::Permissions::from_mode(MODE))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| fs::rename(&beside, path))
            .and_then(|()| UnixListener::from_std(listener));
        match placed {
            Ok(listener) => Ok(Self {
                listener,
                file: SocketFile(path.to_owned()),
            }),
            Err(error) => {
                let _ = fs::remove_file(&beside);
                Err(failed(error))
            }
        }
    }

    /// The listener, and what removes the socket's file when it is dropped.
    pub fn into_parts(self) -> (Peers, SocketFile) {
        (Peers(self.listener), self.file)
    }
}

/// A listener that knows who connects.
#[derive(Debug)]
pub struct Peers(UnixListener);

impl Listener for Peers {
    type Io = UnixStream;
    type Addr = Author;

    async fn accept(&mut self) -> (UnixStream, Author) {
        let (stream, _) = Listener::accept(&mut self.0).await;
        let is_root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
        (stream, if is_root { Author::Root } else { Author::Other })
    }

    fn local_addr(&self) -> io::Result<Author> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The file of a socket; removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(socket = %self.0.display(), %error, "the socket's file could not be removed");
        }
    }
}

fn refuse_what_is_there(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(SocketError::Io {
                path: path.to_owned(),
                source,
            });
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(source) => Err(SocketError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_owner_and_group_and_goes_with_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lvx.sock");
        let (listener, file) = Socket::bind(&path).unwrap().into_parts();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        drop((listener, file));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lvx.sock");
        drop(StdListener::bind(&path).unwrap());
        let live = Socket::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
        assert!(StdStream::connect(&path).is_ok());
        drop(live);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lvx.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
