//! What can be typed of a probe: every field `x_y` of `[service.health]` is `--health-x-y`.

use std::{net::IpAddr, path::PathBuf};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
    value_parser,
};

use super::setting::{Setting, boolean, named, setting, typed};
use lvx_model::{
    Check, CheckChange, CheckForm, CheckType, HealthChange, Period,
    check::{CheckError, CloseBy, Positive, ProbeTo, Statuses},
};

/// One probe; documents can have several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Health check (one; several: `lvx apply`)")]
pub struct HealthFields {
    /// A new probe of this type, in place of those that there were; none for no probe; default, for a backend, for the
    /// service's probes. Without it, the flags below change the probe that there is
    #[arg(long, visible_alias = "health-type", value_name = "TYPE", value_parser = setting(kind()))]
    pub health: Option<Setting<Kind>>,
    /// Time from the start of one probe to the start of the next [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = typed::<Period>())]
    pub health_interval: Option<Setting<Period>>,
    /// Time for an answer [default: 1s, or the interval if that is shorter]
    #[arg(long, value_name = "TIME", value_parser = typed::<Period>())]
    pub health_timeout: Option<Setting<Period>>,
    /// Successes in a row that make a backend up [default: 2]
    #[arg(long, value_name = "N", value_parser = setting(value_parser!(u32)))]
    pub health_rise: Option<Setting<u32>>,
    /// Failures in a row that make it down [default: 3]
    #[arg(long, value_name = "N", value_parser = setting(value_parser!(u32)))]
    pub health_fall: Option<Setting<u32>>,
    /// By how many percent an interval may be shortened at random [default: 10]
    #[arg(long, value_name = "PERCENT", value_parser = setting(value_parser!(u32)))]
    pub health_jitter: Option<Setting<u32>>,
    /// Time from a probe that failed to the next [default: the interval]
    #[arg(long, value_name = "TIME", value_parser = typed::<Period>())]
    pub health_delay_before_retry: Option<Setting<Period>>,
    /// One probe for all services that have the same check of the same backend [default: true; exec: false]
    #[arg(
        long, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean()
    )]
    pub health_share: Option<Setting<bool>>,
    /// The port that is probed [default: the backend's]
    #[arg(long, value_name = "PORT", value_parser = setting(value_parser!(u16)))]
    pub health_port: Option<Setting<u16>>,
    /// The address to ask from
    #[arg(long, value_name = "IP", value_parser = typed::<IpAddr>())]
    pub health_source: Option<Setting<IpAddr>>,
    /// Ask the VIP at the backend, or the backend's own address [default: the VIP under dr]
    #[arg(long, value_name = "WHAT", value_parser = setting(named(ProbeTo::ALL, ProbeTo::name)))]
    pub health_to: Option<Setting<ProbeTo>>,
    /// tcp, udp, agent: text to send
    #[arg(long, value_name = "TEXT", value_parser = typed::<String>())]
    pub health_send: Option<Setting<String>>,
    /// tcp, udp: bytes to send, in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = typed::<String>())]
    pub health_send_hex: Option<Setting<String>>,
    /// tcp, udp: text that the answer must contain
    #[arg(long, value_name = "TEXT", value_parser = typed::<String>())]
    pub health_expect: Option<Setting<String>>,
    /// tcp, udp: bytes that the answer must contain, in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = typed::<String>())]
    pub health_expect_hex: Option<Setting<String>>,
    /// tcp, udp: a pattern that the answer must match
    #[arg(long, value_name = "REGEX", value_parser = typed::<String>())]
    pub health_expect_regex: Option<Setting<String>>,
    /// http, https: the request's method [default: GET]
    #[arg(long, value_name = "METHOD", value_parser = typed::<String>())]
    pub health_method: Option<Setting<String>>,
    /// http, https: the request's path [default: /]
    #[arg(long, value_name = "PATH", value_parser = typed::<String>())]
    pub health_path: Option<Setting<String>>,
    /// http, https, grpc: the request's Host [default: the address that is asked]
    #[arg(long, value_name = "NAME", value_parser = typed::<String>())]
    pub health_host: Option<Setting<String>>,
    /// http, https: the statuses that mean healthy, such as 200-299,304
    #[arg(long, value_name = "STATUSES", value_parser = typed::<Statuses>())]
    pub health_status: Option<Setting<Statuses>>,
    /// http, https: the statuses that mean "drain me"
    #[arg(long, value_name = "STATUSES", value_parser = typed::<Statuses>())]
    pub health_drain_status: Option<Setting<Statuses>>,
    /// http, https: text that the body must contain
    #[arg(long, value_name = "TEXT", value_parser = typed::<String>())]
    pub health_body: Option<Setting<String>>,
    /// http, https: a pattern that the body must match
    #[arg(long, value_name = "REGEX", value_parser = typed::<String>())]
    pub health_body_regex: Option<Setting<String>>,
    /// grpc: speak TLS
    #[arg(
        long, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean()
    )]
    pub health_tls: Option<Setting<bool>>,
    /// https, grpc: the name to send in TLS, and to verify
    #[arg(long, value_name = "NAME", value_parser = typed::<String>())]
    pub health_sni: Option<Setting<String>>,
    /// https, grpc: verify the certificate
    #[arg(
        long, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean()
    )]
    pub health_verify: Option<Setting<bool>>,
    /// https, grpc: a file of CA certificates (PEM) to verify with [default: the system's]
    #[arg(long, value_name = "FILE", value_parser = typed::<PathBuf>())]
    pub health_ca: Option<Setting<PathBuf>>,
    /// dns: the name to query
    #[arg(long, value_name = "NAME", value_parser = typed::<String>())]
    pub health_name: Option<Setting<String>>,
    /// dns: the record type to query [default: A]
    #[arg(long, value_name = "TYPE", value_parser = typed::<String>())]
    pub health_record: Option<Setting<String>>,
    /// dns: the response code that means healthy [default: noerror]
    #[arg(long, value_name = "RCODE", value_parser = typed::<String>())]
    pub health_rcode: Option<Setting<String>>,
    /// dns: the text of a record that must be in the answer
    #[arg(long, value_name = "TEXT", value_parser = typed::<String>())]
    pub health_answer: Option<Setting<String>>,
    /// grpc: the service whose health is asked for
    #[arg(long, value_name = "NAME", value_parser = typed::<String>())]
    pub health_grpc_service: Option<Setting<String>>,
    /// tcp: how the connection ends: as a client's (fin, the default where something is said over it) or by a reset (rst)
    #[arg(long, value_name = "HOW", value_parser = setting(named(CloseBy::ALL, CloseBy::name)))]
    pub health_close: Option<Setting<CloseBy>>,
    /// exec: the program and its arguments, quoted as one word; within it, quotes work as in a shell
    #[arg(long, value_name = "COMMAND", value_parser = setting(command()))]
    pub health_command: Option<Setting<Words>>,
    /// exec: an exit status from 2 on is a weight, less 2
    #[arg(
        long, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean()
    )]
    pub health_weight_from_status: Option<Setting<bool>>,
    /// exec: the program is a Nagios plugin: 0 up, 1 degraded, 2 down, 3 unknown
    #[arg(
        long, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean()
    )]
    pub health_nagios: Option<Setting<bool>>,
    /// http, https: where in a JSON body the load is, such as /load
    #[arg(long, value_name = "POINTER", value_parser = typed::<String>())]
    pub health_load_field: Option<Setting<String>>,
    /// http, https: the load that is full
    #[arg(long, value_name = "NUMBER", value_parser = setting(positive()))]
    pub health_load_full: Option<Setting<Positive>>,
    /// http, https, agent: the load from which a backend gets no new connections
    #[arg(long, value_name = "PERCENT", value_parser = setting(value_parser!(u32)))]
    pub health_load_limit: Option<Setting<u32>>,
    /// http, https, agent: the part of its weight that a loaded backend keeps
    #[arg(long, value_name = "PERCENT", value_parser = setting(value_parser!(u32)))]
    pub health_load_floor: Option<Setting<u32>>,
}

/// The type of a probe, or that there is to be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    None,
    Of(CheckType),
}

/// A program and its arguments.
pub type Words = Vec<String>;

impl HealthFields {
    /// What is wrong with fields that have no probe to belong to; where something is added, there is none to change.
    pub fn fault(&self, adds: bool) -> Option<&'static str> {
        let only_type = Self {
            health: self.health.clone(),
            ..Self::default()
        };
        match self.health {
            _ if *self == only_type => None,
            None if adds => Some("a health check needs a type: give one, such as --health http"),
            Some(Setting::Default | Setting::To(Kind::None)) => {
                Some("no health check, and fields of one: leave out the other --health flags, or give a type")
            }
            _ => None,
        }
    }

    /// What is asked for, if anything is; the outer `None` leaves all as it is, the inner one is `default`.
    pub fn change(self) -> Result<Option<Option<HealthChange>>, CheckError> {
        let (kind, change) = self.split();
        Ok(Some(Some(match kind {
            Some(Setting::Default) => return Ok(Some(None)),
            Some(Setting::To(Kind::None)) => HealthChange::Probes(Vec::new()),
            Some(Setting::To(Kind::Of(kind))) => {
                let mut form = CheckForm::new(kind);
                change.apply_to(&mut form);
                HealthChange::Probes(vec![Check::try_from(form)?])
            }
            None if change == CheckChange::default() => return Ok(None),
            None => HealthChange::Probe(Box::new(change)),
        })))
    }

    /// The type, and all else.
    fn split(self) -> (Option<Setting<Kind>>, CheckChange) {
        let Self {
            health,
            health_interval,
            health_timeout,
            health_rise,
            health_fall,
            health_jitter,
            health_delay_before_retry,
            health_share,
            health_port,
            health_source,
            health_to,
            health_send,
            health_send_hex,
            health_expect,
            health_expect_hex,
            health_expect_regex,
            health_method,
            health_path,
            health_host,
            health_status,
            health_drain_status,
            health_body,
            health_body_regex,
            health_tls,
            health_sni,
            health_verify,
            health_ca,
            health_name,
            health_record,
            health_rcode,
            health_answer,
            health_grpc_service,
            health_close,
            health_command,
            health_weight_from_status,
            health_nagios,
            health_load_field,
            health_load_full,
            health_load_limit,
            health_load_floor,
        } = self;
        let change = CheckChange {
            interval: health_interval.map(Setting::value),
            timeout: health_timeout.map(Setting::value),
            rise: health_rise.map(Setting::value),
            fall: health_fall.map(Setting::value),
            jitter: health_jitter.map(Setting::value),
            delay_before_retry: health_delay_before_retry.map(Setting::value),
            share: health_share.map(Setting::value),
            port: health_port.map(Setting::value),
            source: health_source.map(Setting::value),
            to: health_to.map(Setting::value),
            send: health_send.map(Setting::value),
            send_hex: health_send_hex.map(Setting::value),
            expect: health_expect.map(Setting::value),
            expect_hex: health_expect_hex.map(Setting::value),
            expect_regex: health_expect_regex.map(Setting::value),
            method: health_method.map(Setting::value),
            path: health_path.map(Setting::value),
            host: health_host.map(Setting::value),
            status: health_status.map(Setting::value),
            drain_status: health_drain_status.map(Setting::value),
            body: health_body.map(Setting::value),
            body_regex: health_body_regex.map(Setting::value),
            tls: health_tls.map(Setting::value),
            sni: health_sni.map(Setting::value),
            verify: health_verify.map(Setting::value),
            ca: health_ca.map(Setting::value),
            name: health_name.map(Setting::value),
            record: health_record.map(Setting::value),
            rcode: health_rcode.map(Setting::value),
            answer: health_answer.map(Setting::value),
            grpc_service: health_grpc_service.map(Setting::value),
            close: health_close.map(Setting::value),
            command: health_command.map(Setting::value),
            weight_from_status: health_weight_from_status.map(Setting::value),
            nagios: health_nagios.map(Setting::value),
            load_field: health_load_field.map(Setting::value),
            load_full: health_load_full.map(Setting::value),
            load_limit: health_load_limit.map(Setting::value),
            load_floor: health_load_floor.map(Setting::value),
        };
        (health, change)
    }
}

fn kind() -> impl TypedValueParser<Value = Kind> {
    let names = CheckType::ALL.iter().map(|kind| kind.name());
    PossibleValuesParser::new(names.chain(["none"])).map(|name| {
        let known = CheckType::ALL.iter().find(|kind| kind.name() == name);
        known.map_or(Kind::None, |kind| Kind::Of(*kind))
    })
}

fn positive() -> impl TypedValueParser<Value = Positive> {
    (|text: &str| text.parse::<f64>()).try_map(Positive::try_from)
}

fn command() -> impl TypedValueParser<Value = Words> {
    |text: &str| shlex::split(text).ok_or("a quote in it is not closed")
}
