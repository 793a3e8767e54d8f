#![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

use super::*;

fn read(toml: &str) -> Result<Check, String> {
    toml::from_str::<Check>(toml).map_err(|error| error.message().to_owned())
}

#[test]
fn a_check_is_written_as_it_was_read() {
    let texts = [
        "type = \"icmp\"\n",
        "type = \"tcp\"\ninterval = \"500ms\"\nrise = 1\nport = 8080\nsend = \"PING\"\nexpect = \"PONG\"\n",
        "type = \"https\"\npath = \"/healthz\"\nhost = \"a.example\"\nstatus = \"200-299\"\nverify = false\n",
        "type = \"dns\"\nname = \"example.org\"\nrecord = \"A\"\nanswer = \"192.0.2.1\"\n",
        "type = \"exec\"\ncommand = [\"/bin/check\", \"-v\"]\n",
    ];
    for text in texts {
        let check = read(text).unwrap();
        assert_eq!(toml::to_string(&check).unwrap(), text);
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let check = read("type = \"tcp\"").unwrap();
    assert_eq!(
        (check.interval().to_string(), check.timeout().to_string()),
        ("2s".into(), "1s".into())
    );
    assert_eq!((check.rise(), check.fall(), check.jitter()), (2, 3, 10));
    let fast = read("type = \"tcp\"\ninterval = \"200ms\"").unwrap();
    assert_eq!(
        (fast.timeout(), fast.retry()),
        (Period::from_millis(200), Period::from_millis(200))
    );
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let cases = [
        ("type = \"ping\"", "unknown variant `ping`"),
        ("type = \"tcp\"\npaht = \"/\"", "unknown field `paht`"),
        ("type = \"tcp\"\npath = \"/\"", "health check tcp: has no field `path`"),
        ("type = \"tcp\"\ninterval = \"1ms\"", "interval 1ms is too short"),
        (
            "type = \"tcp\"\ninterval = \"1s\"\ntimeout = \"2s\"",
            "timeout 2s is longer than the interval 1s",
        ),
        (
            "type = \"tcp\"\ndelay_before_retry = \"10ms\"",
            "delay_before_retry 10ms is shorter than the timeout",
        ),
        ("type = \"tcp\"\nrise = 0", "rise 0 is out of range"),
        ("type = \"tcp\"\njitter = 90", "jitter 90 is out of range"),
        ("type = \"tcp\"\nport = 0", "port 0"),
        ("type = \"tcp\"\nsend_hex = \"abc\"", "send_hex is not hexadecimal"),
        (
            "type = \"tcp\"\nexpect = \"a\"\nexpect_regex = \"b\"",
            "more than one of expect",
        ),
        ("type = \"http\"\npath = \"status\"", "path `status` is not a path"),
        ("type = \"http\"\nmethod = \"GET IT\"", "is not an HTTP method"),
        ("type = \"http\"\nstatus = \"2xx\"", "`2xx` is no set of HTTP statuses"),
        ("type = \"http\"\nload_limit = 90", "without load_field"),
        ("type = \"http\"\nload_field = \"/l\"\nload_full = 0", "greater than 0"),
        ("type = \"http\"\nhost = \"a\\nb\"", "cannot be sent as a header"),
        ("type = \"dns\"", "needs a name"),
        (
            "type = \"dns\"\nname = \"a\"\nrecord = \"AAAAA\"",
            "is not a record type",
        ),
        (
            "type = \"dns\"\nname = \"a\"\nrcode = \"fine\"",
            "rcode `fine` is not known",
        ),
        ("type = \"exec\"", "needs a command"),
        ("type = \"exec\"\ncommand = [\"true\"]", "is not an absolute path"),
        ("type = \"agent\"", "needs the port"),
        ("type = \"udp\"", "needs something to send"),
        ("type = \"grpc\"\nsni = \"a\"", "without TLS"),
    ];
    for (text, part) in cases {
        let message = read(text).unwrap_err();
        assert!(message.contains(part), "{message:?} does not say {part:?}");
        assert_eq!(message.lines().count(), 1, "{message:?}");
    }
}

#[test]
fn a_pattern_that_is_a_bomb_is_refused_at_once() {
    let begin = std::time::Instant::now();
    for bomb in [
        "(.{1000}){1000}",
        "(a{500}){500}",
        "((((((((((a{9}){9}){9}){9}){9}){9}){9}){9}){9}){9})",
    ] {
        let message = read(&format!("type = \"http\"\nbody_regex = \"{bomb}\"")).unwrap_err();
        assert!(message.contains("would need more than"), "{message}");
    }
    let nested = "(".repeat(300) + &")".repeat(300);
    assert!(read(&format!("type = \"http\"\nbody_regex = \"{nested}\"")).is_err());
    assert!(
        read("type = \"http\"\nbody_regex = \"(\"")
            .unwrap_err()
            .contains("unclosed group")
    );
    assert!(begin.elapsed().as_secs() < 5);
}

#[test]
fn hexadecimal_is_read_with_and_without_spaces() {
    assert_eq!(from_hex("0aFF"), Some(vec![10, 255]));
    assert_eq!(from_hex("0a ff"), Some(vec![10, 255]));
    assert_eq!(from_hex("0g"), None);
}
