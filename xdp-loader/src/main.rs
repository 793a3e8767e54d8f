//! The binary `lvx`: the daemon and the command-line tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    xdp_loader::cli::main()
}
