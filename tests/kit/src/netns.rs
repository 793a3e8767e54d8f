//! What `ip netns` keeps: a file for each namespace that has a name.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};

use crate::process;

/// Where `ip netns` keeps one file for each namespace.
pub const DIRECTORY: &str = "/run/netns";

/// Kills what runs in the namespace `name` and deletes it. That it is gone already is no error.
pub fn delete(name: &str) -> Result<()> {
    let exists = || Path::new(DIRECTORY).join(name).exists();
    let deleted = || -> Result<()> {
        let inside = process::finish(Command::new("ip").args(["netns", "pids", name]))?;
        let inside: Vec<&str> = inside.split_whitespace().collect();
        if !inside.is_empty() {
            // A process that ended in between is no failure.
            let _ = process::finish(Command::new("kill").arg("-9").args(inside));
        }
        process::finish(Command::new("ip").args(["netns", "del", name]))?;
        Ok(())
    };
    match deleted() {
        Err(error) if exists() => {
            Err(error).with_context(|| format!("cannot delete the network namespace {name}: try `ip netns del {name}`"))
        }
        _ => Ok(()),
    }
}
