//! The web server on every backend.
//!
//! It listens on ports 80 and 8080 and answers any path with the backend's name on a line; every answer also carries
//! the name in the header `X-Backend`. Below `/data/` it serves the bodies `1m.bin` and `16m.bin`, the same bytes on
//! every backend; below `/slow/` the same at [`SLOW_RATE`] bytes a second.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Result;

use crate::{Namespace, process::Running, process::wait_until};

/// Bytes in a second of a download below `/slow/`: 1 MiB takes a little less than five seconds.
pub const SLOW_RATE: u32 = 256 * 1024;

/// The bodies by name, with their sizes in bytes.
pub const BODIES: [(&str, usize); 2] = [("1m.bin", 1 << 20), ("16m.bin", 16 << 20)];

/// A running nginx; dropping it ends it.
#[derive(Debug)]
pub struct Nginx {
    _process: Running,
}

impl Nginx {
    /// Starts an nginx that answers `name`, and waits until it does. Its files lie below the lab's `directory`.
    pub fn start(namespace: &Namespace, name: &str, directory: &Path) -> Result<Self> {
        let prefix = directory.join(name);
        fs::create_dir(&prefix)?;
        fs::write(prefix.join("nginx.conf"), configuration(name, &bodies(directory)))?;
        let log = File::create(prefix.join("stderr"))?;
        let process = Running::start(
            namespace
                .command("nginx")
                .arg("-p")
                .arg(&prefix)
                .args(["-c", "nginx.conf", "-e", "stderr"])
                .stdout(Stdio::null())
                .stderr(log),
        )?;
        wait_until(&format!("nginx answers on {name}"), Duration::from_secs(10), || {
            namespace.inside(|| TcpStream::connect("127.0.0.1:80").is_ok())
        })?;
        Ok(Self { _process: process })
    }
}

/// Where the bodies lie below the lab's `directory`.
pub fn bodies(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// Writes the bodies, of bytes that do not repeat within the size of a packet or a window.
pub fn write_bodies(directory: &Path) -> Result<()> {
    fs::create_dir(bodies(directory))?;
    for (name, size) in BODIES {
        let mut file = BufWriter::new(File::create(bodies(directory).join(name))?);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ size as u64;
        for _ in 0..size / 8 {
            // xorshift64, G. Marsaglia, "Xorshift RNGs", 2003.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            file.write_all(&state.to_le_bytes())?;
        }
        file.flush()?;
    }
    Ok(())
}

/// One process that stays in the foreground, so that killing it leaves nothing behind.
fn configuration(name: &str, bodies: &Path) -> String {
    let bodies = bodies.display();
    format!(
        r#"daemon off;
master_process off;
user root;
pid nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  default_type application/octet-stream;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen 80 backlog=1024;
    listen [::]:80 backlog=1024;
    listen 8080;
    listen [::]:8080;
    add_header X-Backend {name} always;
    location / {{ return 200 "{name}\n"; }}
    location /data/ {{ alias {bodies}/; }}
    location /slow/ {{ alias {bodies}/; limit_rate {SLOW_RATE}; }}
  }}
}}
"#
    )
}
