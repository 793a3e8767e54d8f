//! `cargo xtask bench`: what LVX costs, and what it costs others.
//!
//! The programs that measure print a report as JSON; here it becomes a table, a file and a plot in `target/bench/`.

mod book;
mod plot;
mod table;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use lvx_bench_report::Report;

use crate::{
    build::{self, Measuring},
    command, packages,
    setup::{self, Wanted},
};

/// What to measure. Without one: a list of what there is.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    bench: Option<Bench>,
}

/// Arguments for the program that measures.
#[derive(Debug, clap::Args)]
struct Further {
    /// Passed on to the program that measures; `--help` shows what it takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    further: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The program alone: net ns per packet by BPF_PROG_TEST_RUN
    #[command(disable_help_flag = true)]
    Program(Further),
    /// Packets through a balancer between namespaces, side by side with the kernel's own
    #[command(disable_help_flag = true)]
    Forward(Further),
    /// The same on Debian's kernel in a virtual machine, in instructions per packet, with IPVS
    #[command(disable_help_flag = true)]
    Vm(Further),
    /// Requests and bytes per second, side by side with HAProxy, nginx and nftables
    #[command(disable_help_flag = true)]
    Http(Further),
    /// New connections per second, and how long they take
    #[command(disable_help_flag = true)]
    Connections(Further),
    /// Applying, changing, restarting and sweeping large configurations
    #[command(disable_help_flag = true)]
    Control(Further),
    /// What the daemon takes to probe 2,000 backends every second
    Health(Further),
    /// Put the latest tables of target/bench/ into the book (docs/measurements.md)
    Book,
}

impl Bench {
    /// Its name, and the program that measures; none if nothing is measured.
    fn measured_by(&self) -> Option<(&'static str, Program, &[String])> {
        Some(match self {
            Self::Program(args) => ("program", Program::Bench, &args.further),
            Self::Forward(args) => ("forward", Program::Load, &args.further),
            Self::Vm(args) => ("vm", Program::Vm, &args.further),
            Self::Http(args) => ("http", Program::Load, &args.further),
            Self::Connections(args) => ("connections", Program::Load, &args.further),
            Self::Control(args) => ("control", Program::Load, &args.further),
            Self::Health(args) => ("health", Program::Bench, &args.further),
            Self::Book => return None,
        })
    }
}

/// The programs that measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// `lvx-bench`, which runs the XDP program.
    Bench,
    /// `lvx-load`, which runs `lvx` and others between namespaces.
    Load,
    /// `lvx-load` in a virtual machine.
    Vm,
}

/// Measures, and shows what was measured.
pub fn bench(arguments: &Arguments) -> Result<ExitCode> {
    let Some(bench) = &arguments.bench else {
        list();
        return Ok(ExitCode::SUCCESS);
    };
    let Some((name, program, further)) = bench.measured_by() else {
        let chapter = command::root().join(book::CHAPTER);
        let tables = book::update(&build::target()?.join("bench"), &chapter)?;
        println!("{}: {}", chapter.display(), tables.join(", "));
        return Ok(ExitCode::SUCCESS);
    };
    command::ensure_root(&format!("bench {name}"), "network namespaces, BPF")?;
    setup::ensure(Wanted {
        programs: program != Program::Bench || name == "health",
        vm: program == Program::Vm,
        benches: true,
        checks: false,
    })?;
    let built = build::measuring(program != Program::Bench)?;
    if further.iter().any(|word| word == "--help" || word == "-h") {
        let program = if program == Program::Bench {
            &built.bench
        } else {
            &built.load
        };
        command::run(Command::new(program).args([name, "--help"]))?;
        return Ok(ExitCode::SUCCESS);
    }
    let printed = measure(name, program, &built, further)?;
    let report = Report::read(&printed).context("the measuring program printed no report that can be read")?;
    if report.rows.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    table::print(&report);
    let directory = built.target.join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    // What was asked for in particular leaves the whole measurement's files as they are.
    let stem = match further.is_empty() {
        true => report.bench.clone(),
        false => format!("{}-part", report.bench),
    };
    for file in write(&report, &directory, &stem)? {
        println!("{}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what there is.
fn list() {
    println!("cargo xtask bench BENCH [OPTIONS OF THE MEASURING PROGRAM, --help shows them]\n");
    for command in <Bench as Subcommand>::augment_subcommands(clap::Command::new("bench")).get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        println!("  {:<12} {about}", command.get_name());
    }
    println!("\nEach prints a table, and writes JSON and a plot to target/bench/. For a look while tuning:");
    println!("  cargo xtask bench program --quick --only 'DR UDP IPv4, 1 flow' --only syn");
}

/// Runs the program that measures: what it prints.
fn measure(name: &str, program: Program, built: &Measuring, further: &[String]) -> Result<String> {
    let mut command = match program {
        Program::Bench => Command::new(&built.bench),
        Program::Load => Command::new(&built.load),
        Program::Vm => {
            let mut command = Command::new(command::root().join("scripts/vm-run"));
            command.args(["-i", "-t", "3600"]).arg(&built.load);
            command
        }
    };
    command.arg(name);
    if program != Program::Bench {
        command
            .arg("--lvx")
            .arg(&built.lvx)
            .arg("--lvx-bench")
            .arg(&built.bench);
    }
    command.args(further).stdin(Stdio::null()).stderr(Stdio::inherit());
    if let Ok(path) = env::join_paths(command::search_path()) {
        command.env("PATH", path);
    }
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", command::line(&command)))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // A virtual machine's words are no report.
    ensure!(
        output.status.success() && said.contains('{'),
        "{}{} ended without a report ({})",
        said,
        command::line(&command),
        output.status
    );
    Ok(said)
}

/// Writes the report and its plot to files with this name: the files.
fn write(report: &Report, directory: &Path, stem: &str) -> Result<Vec<PathBuf>> {
    let file = |extension: &str| directory.join(format!("{stem}.{extension}"));
    let (json, svg, png) = (file("json"), file("svg"), file("png"));
    fs::write(&json, serde_json::to_string_pretty(report)?)?;
    fs::write(&svg, plot::svg(report))?;
    let mut files = vec![json, svg.clone()];
    if command::find("rsvg-convert").is_some() {
        command::output(Command::new("rsvg-convert").arg(&svg).arg("--output").arg(&png))?;
        files.push(png);
    } else {
        eprintln!("bench: no PNG without rsvg-convert (Debian's {})", packages::PLOTTER.1);
    }
    Ok(files)
}
