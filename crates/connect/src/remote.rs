//! Whom the server may speak to on behalf of a statement.
//!
//! Addresses that only a machine's own services have (link-local, among them those that hand out the machine's
//! credentials in a cloud) are refused unless they are named. What a name resolves to is not looked at, nor are
//! the brokers that a broker names.

use crate::settings::bad;
use std::net::IpAddr;
use std::str::FromStr;
use weir_base::Code;
use weir_plan::StreamError;

/// Names under which clouds give a machine its credentials.
const METADATA_NAMES: [&str; 3] = ["metadata", "metadata.google.internal", "instance-data"];

/// Hosts that may be spoken to. The default: all but those above.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteHosts {
    /// Names or addresses; `*.name` is every host below it. `None` = all.
    allowed: Option<Vec<String>>,
}

impl FromStr for RemoteHosts {
    type Err = String;

    /// `'kafka-1, *.example.com'`; nothing forbids all.
    fn from_str(text: &str) -> Result<Self, String> {
        let hosts = text.split(',').map(str::trim).filter(|h| !h.is_empty());
        let all: Vec<String> = hosts.map(str::to_ascii_lowercase).collect();
        match all.iter().find(|h| h.contains(['/', ' ']) || h.strip_prefix("*.").unwrap_or(h).contains('*')) {
            Some(wrong) => Err(format!("{wrong} is no host; give names, addresses or *.domain")),
            None => Ok(RemoteHosts { allowed: Some(all) }),
        }
    }
}

fn is_link_local(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(at)) => at.is_link_local() || at.is_unspecified(),
        Ok(IpAddr::V6(at)) => {
            let mapped = at.to_ipv4_mapped().is_some_and(|v4| v4.is_link_local());
            at.segments()[0] & 0xffc0 == 0xfe80 || mapped || at.is_unspecified()
        }
        Err(_) => false,
    }
}

impl RemoteHosts {
    /// # Errors
    /// 497 for a host that may not be spoken to.
    pub fn check(&self, host: &str) -> Result<(), StreamError> {
        let host = host.trim_start_matches('[').trim_end_matches([']', '.']).to_ascii_lowercase();
        let refused =
            |why: &str| Err(StreamError { code: Code::AccessDenied, message: format!("{host}: {why}") });
        match &self.allowed {
            Some(allowed) => {
                let fits = |rule: &String| match rule.strip_prefix('*') {
                    Some(domain) => host.ends_with(domain),
                    None => *rule == host,
                };
                if allowed.iter().any(fits) {
                    return Ok(());
                }
                refused("not among the hosts of --allowed-remote-hosts")
            }
            None if is_link_local(&host) || METADATA_NAMES.contains(&host.as_str()) => refused(
                "an address of the machine's own surroundings; name it in --allowed-remote-hosts if it is meant",
            ),
            None => Ok(()),
        }
    }

    /// Of a list as Kafka's clients take it: `[protocol://]host[:port], …`.
    ///
    /// # Errors
    /// As [`Self::check`]; 36 for what is no host.
    pub fn check_brokers(&self, brokers: &str) -> Result<(), StreamError> {
        for broker in brokers.split(',').map(str::trim) {
            let place = broker.split_once("://").map_or(broker, |(_, place)| place);
            let host = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((host, _)) => host,
                None => place.rsplit_once(':').map_or(place, |(host, _)| host),
            };
            if host.is_empty() {
                return Err(bad(format!(
                    "brokers holds '{broker}', which names no host; write host:port, with commas between"
                )));
            }
            self.check(host)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_let_through_or_not() {
        let some: RemoteHosts = "kafka-1, *.Example.com, 169.254.7.7".parse().unwrap();
        let none: RemoteHosts = "".parse().unwrap();
        let all = RemoteHosts::default();
        // (rule, brokers, allowed)
        let cases = [
            (&all, "localhost:9092, b", true),
            (&all, "SSL://10.0.0.1:9093", true),
            (&all, "a:1,169.254.169.254:80", false),
            (&all, "[fe80::1]:9092", false),
            (&all, "[::ffff:169.254.169.254]:9092", false),
            (&all, "Metadata.Google.Internal.:80", false),
            (&some, "KAFKA-1:9092,b.example.com", true),
            (&some, "169.254.7.7:1", true),
            (&some, "example.com:1", false),
            (&some, "badexample.com:1", false),
            (&none, "localhost:1", false),
        ];
        for (rule, brokers, allowed) in cases {
            assert_eq!(rule.check_brokers(brokers).is_ok(), allowed, "{brokers}");
        }
        assert_eq!(all.check_brokers("a:1,,b:1").unwrap_err().code, Code::BadArguments);
        assert!("a*b".parse::<RemoteHosts>().is_err() && "http://a/".parse::<RemoteHosts>().is_err());
    }
}
