//! What cannot be done is refused in one line that says what, why and what to do, and changes nothing.

use std::{
    fs,
    process::{Command, Output},
};

use anyhow::Result;
use lvx_tests::{Balancer, Lab, Options};

const SERVICE: &str = "tcp://10.0.0.101:80";

/// Asserts that `output` is a refusal with `status`: nothing on standard output, one line that begins with `lvx: ` and
/// holds each of `words` on standard error.
fn assert_refused(output: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("lvx: "), "{said}");
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

/// Asserts that the command is refused with exit status 1, and that the configuration stays what it is.
fn refuse(lvx: &Balancer<'_>, arguments: &[&str], words: &[&str]) -> Result<()> {
    let before = lvx.lvx(["export"])?;
    assert_refused(&lvx.output(arguments.iter().copied())?, 1, words);
    assert_eq!(lvx.lvx(["export"])?, before, "{arguments:?}");
    Ok(())
}

/// Asserts that a daemon started by `command` ends with a refusal, attached to nothing.
fn refuse_to_run(lab: &Lab, lvx: &Balancer<'_>, command: &mut Command, words: &[&str]) -> Result<()> {
    let before = lab.balancer.run("ip", ["address"])?;
    let output = lvx.run_in_vain(command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    // It may have logged before; it ends with the reason.
    let reason = said.lines().last().unwrap_or_default();
    assert!(reason.starts_with("lvx: "), "{said}");
    for word in words {
        assert!(reason.contains(word), "no `{word}` in: {said}");
    }
    assert_eq!(lab.balancer.run("ip", ["address"])?, before);
    assert!(!lvx.pins().exists(), "pins are left behind");
    Ok(())
}

#[test]
fn what_is_wrong_with_a_service_or_a_backend_is_said_and_nothing_changes() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve("tcp://10.0.0.100:80", "dr", "mh", ["10.0.0.11"])?;
    lvx.serve(SERVICE, "nat", "wrr", ["10.0.0.11:8080"])?;

    let dr = "tcp://10.0.0.100:80";
    refuse(&lvx, &["backend", "add", dr, "10.0.0.12:8080"], &["8080", "80", "dr"])?;
    refuse(&lvx, &["service", "add", SERVICE], &[SERVICE])?;
    refuse(
        &lvx,
        &["service", "del", "tcp://10.0.0.109:80"],
        &["tcp://10.0.0.109:80"],
    )?;
    refuse(
        &lvx,
        &["service", "set", "udp://10.0.0.101:80", "--scheduler", "rr"],
        &["udp://10.0.0.101:80"],
    )?;
    refuse(&lvx, &["backend", "del", SERVICE, "10.0.0.13"], &["10.0.0.13"])?;
    refuse(&lvx, &["backend", "drain", SERVICE, "10.0.0.13"], &["10.0.0.13"])?;
    refuse(&lvx, &["backend", "add", SERVICE, "10.0.0.11:8080"], &["10.0.0.11"])?;
    refuse(&lvx, &["backend", "add", SERVICE, "fd00::12"], &["fd00::12", "IPv"])?;
    refuse(
        &lvx,
        &["backend", "set", SERVICE, "10.0.0.11:8080", "--weight", "65536"],
        &["65536", "65535"],
    )?;
    refuse(&lvx, &["service", "add", "tcp://224.0.0.1:80"], &["224.0.0.1"])?;
    refuse(&lvx, &["service", "add", "tcp://0.0.0.0:80"], &["0.0.0.0"])?;
    refuse(&lvx, &["service", "add", "tcp://[ff02::1]:80"], &["ff02::1"])?;
    refuse(
        &lvx,
        &["backend", "add", SERVICE, "255.255.255.255"],
        &["255.255.255.255"],
    )?;
    // What was there still works.
    lvx_tests::client::requests(&lab.client, "10.0.0.100", 5)?;
    lvx_tests::client::requests(&lab.client, "10.0.0.101", 5)?;
    Ok(())
}

#[test]
fn a_document_with_one_mistake_changes_nothing() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve(SERVICE, "nat", "mh", ["10.0.0.11"])?;
    let file = lab.directory().join("services.toml");
    let path = file.to_str().unwrap_or_default();
    let good = "[[service]]\naddress = \"tcp://10.0.0.100:80\"\n";
    for (bad, words) in [
        (
            "[[service]]\naddress = \"tcp://10.0.0.102:80\"\nschedular = \"mh\"\n",
            ["schedular", "6"],
        ),
        ("[[service]]\naddress = \"tcp://10.0.0.300:80\"\n", ["10.0.0.300", "5"]),
        (
            "[[service]]\naddress = \"tcp://10.0.0.102:80\"\nscheduler = \"fastest\"\n",
            ["fastest", "mh"],
        ),
        (
            "[[service]]\naddress = \"tcp://10.0.0.100:80\"\n",
            ["tcp://10.0.0.100:80", ""],
        ),
        ("[[service]\n", ["services.toml", "4"]),
    ] {
        fs::write(&file, format!("{good}\n{bad}"))?;
        refuse(&lvx, &["apply", path], &words)?;
        refuse(&lvx, &["apply", "--dry-run", path], &words)?;
    }
    refuse(&lvx, &["apply", "/nowhere/services.toml"], &["/nowhere/services.toml"])?;
    Ok(())
}

#[test]
fn a_daemon_with_a_wrong_setting_does_not_start() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::prepare(&lab, Options::default())?;

    let mut unknown = lvx.run_command();
    unknown.args(["--interface", "eth7"]);
    refuse_to_run(&lab, &lvx, &mut unknown, &["eth7"])?;

    let file = lab.directory().join("lvx.toml");
    for (text, words) in [
        ("interfacess = [\"eth0\"]\n", ["lvx.toml:1", "interfacess"]),
        ("metrics = \"10.0.0.300:9100\"\n", ["lvx.toml:1", "address"]),
    ] {
        fs::write(&file, text)?;
        let mut misspelt = lvx.run_command();
        misspelt.arg("--config").arg(&file);
        refuse_to_run(&lab, &lvx, &mut misspelt, &words)?;
    }
    let mut absent = lvx.run_command();
    absent.args(["--config", "/nowhere/lvx.toml"]);
    refuse_to_run(&lab, &lvx, &mut absent, &["/nowhere/lvx.toml"])?;
    Ok(())
}

#[test]
fn a_driver_without_xdp_is_named_under_native_and_served_under_auto() -> Result<()> {
    let lab = Lab::one_armed()?;
    lab.balancer
        .ip("link add name plain0 type bridge\nlink set plain0 up\n")?;
    let mut lvx = Balancer::prepare(
        &lab,
        Options {
            interfaces: vec!["plain0".into()],
            ..Options::default()
        },
    )?;
    let mut native = lvx.run_command();
    native.args(["--xdp-mode", "native"]);
    refuse_to_run(&lab, &lvx, &mut native, &["plain0", "native", "generic"])?;

    lvx.run()?;
    let status = lvx.json(["status"])?;
    assert_eq!(status["interfaces"][0]["mode"], "generic", "{status}");
    assert!(status["interfaces"][0]["note"].is_string(), "{status}");
    assert!(lvx.log().contains("generic"), "{}", lvx.log());
    Ok(())
}

/// A command that runs `script` in the balancer's namespace, the daemon's command line being `"$@"`.
fn around(lab: &Lab, script: &str, daemon: &Command) -> Command {
    let mut command = lab.balancer.command("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    // Without the nsenter and its argument.
    command.args(daemon.get_args().skip(1));
    command
}

#[test]
fn without_privileges_the_daemon_says_which_it_needs() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::prepare(&lab, Options::default())?;
    let script = "exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
    let mut command = around(&lab, script, &lvx.run_command());
    refuse_to_run(&lab, &lvx, &mut command, &["root"])
}

#[test]
fn without_the_bpf_file_system_the_daemon_says_how_to_mount_it() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::prepare(&lab, Options::default())?;
    let script = "umount /sys/fs/bpf; exec \"$@\"";
    let mut command = around(&lab, script, &lvx.run_command());
    refuse_to_run(&lab, &lvx, &mut command, &["mount -t bpf"])
}

#[test]
fn without_a_daemon_a_command_says_how_to_start_it() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::prepare(&lab, Options::default())?;
    let socket = lvx.socket().display().to_string();
    assert_refused(&lvx.output(["status"])?, 1, &[&socket, "lvx run"]);
    Ok(())
}

#[test]
fn a_second_daemon_on_the_same_socket_does_not_start() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::start(&lab)?;
    lvx.serve(SERVICE, "nat", "mh", ["10.0.0.11"])?;
    let output = lvx.run_in_vain(&mut lvx.run_command())?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    lvx_tests::client::requests(&lab.client, "10.0.0.101", 5)?;
    assert!(lvx.output(["status"])?.status.success());
    Ok(())
}

#[test]
fn wrong_usage_is_told_in_one_line_with_status_2() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = Balancer::prepare(&lab, Options::default())?;
    for arguments in [
        ["service", "remove", SERVICE],
        ["backend", "add", SERVICE],
        ["service", "add", "--quickly"],
    ] {
        assert_refused(&lvx.output(arguments)?, 2, &["--help"]);
    }
    Ok(())
}
