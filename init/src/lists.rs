//! Lists of ports and networks as users write them: in annotations, which the injector reads, and in the init container's arguments. One reading for both, so what is admitted
//! is what is carried out.

use crate::plan::{MAX_NETWORKS, MAX_PORTS};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};

/// A list that is refused. The text names the part and what would be right.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ListError {
    #[error("{0:?} is no port: expected numbers from 1 to 65535 or ranges such as 8000-8010, comma-separated")]
    Port(String),
    #[error("the range {0:?} ends before it begins; write {2}-{1}")]
    Reversed(String, u16, u16),
    #[error("{0} ports are listed, at most {MAX_PORTS} are possible")]
    TooManyPorts(usize),
    #[error("{0:?} is no network: expected CIDRs such as 10.0.0.0/8 or addresses, comma-separated")]
    Network(String),
    #[error("{0} networks are listed, at most {MAX_NETWORKS} are possible")]
    TooManyNetworks(usize),
}

/// The longest part that is quoted back.
const QUOTED: usize = 40;

fn quote(part: &str) -> String {
    part.chars().take(QUOTED).collect()
}

fn port(part: &str) -> Option<u16> {
    // `parse` alone would take a plus sign
    let digits = (1..=5).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    part.parse().ok().filter(|p| digits && *p != 0)
}

/// `80, 443, 8000-8010`. Spaces around parts are nothing; an empty list has no ports.
pub fn ports(text: &str) -> Result<BTreeSet<u16>, ListError> {
    let mut all = BTreeSet::new();
    if text.trim().is_empty() {
        return Ok(all);
    }
    for part in text.split(',').map(str::trim) {
        let bad = || ListError::Port(quote(part));
        let (from, to) = match part.split_once('-') {
            Some((from, to)) => (port(from).ok_or_else(bad)?, port(to).ok_or_else(bad)?),
            None => port(part).map(|p| (p, p)).ok_or_else(bad)?,
        };
        if from > to {
            return Err(ListError::Reversed(quote(part), from, to));
        }
        // counted before anything is kept: a range may name all of them
        let count = all.len() + usize::from(to - from) + 1;
        if count > MAX_PORTS && !(from..=to).all(|p| all.contains(&p)) {
            return Err(ListError::TooManyPorts(count));
        }
        all.extend(from..=to);
    }
    Ok(all)
}

/// `10.0.0.0/8, fd00::/8, 192.0.2.1`.
pub fn networks(text: &str) -> Result<Vec<IpNet>, ListError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let one = |part: &str| {
        let part = part.trim();
        let address = || part.parse::<IpAddr>().map(IpNet::from);
        part.parse::<IpNet>().or_else(|_| address()).map_err(|_| ListError::Network(quote(part)))
    };
    let all = text.split(',').map(one).collect::<Result<Vec<_>, _>>()?;
    match all.len() {
        n if n > MAX_NETWORKS => Err(ListError::TooManyNetworks(n)),
        _ => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(ports("").unwrap(), BTreeSet::new());
        assert_eq!(ports(" 80, 443 ,8000-8002").unwrap(), BTreeSet::from([80, 443, 8000, 8001, 8002]));
        assert_eq!(ports("80,80,79-81").unwrap(), BTreeSet::from([79, 80, 81]));
        assert_eq!(ports("1-150").unwrap().len(), 150);
        assert_eq!(networks("10.0.0.0/8, fd00::/8,192.0.2.1").unwrap().len(), 3);
        assert_eq!(networks("10.1.2.3/8").unwrap()[0].to_string(), "10.1.2.3/8");
    }

    #[test]
    fn row_54_values_that_could_be_something_else_are_refused() {
        for text in [
            "80 443",
            "80;443",
            "80; rm -rf /",
            "--proxy-uid=0",
            "80,--backend",
            "-1",
            "+80",
            "0",
            "65536",
            "http",
            "80,",
            ",",
            "8000-",
            "-80",
            "1-2-3",
            "８０",
            "80\n443",
            "0x50",
            "80-0",
        ] {
            assert!(matches!(ports(text), Err(ListError::Port(_))), "{text:?}: {:?}", ports(text));
        }
        assert_eq!(
            ports("8010-8000").unwrap_err().to_string(),
            "the range \"8010-8000\" ends before it begins; write 8000-8010"
        );
        let many = (1..=10_000u16).map(|p| p.to_string()).collect::<Vec<_>>().join(",");
        for text in [many.as_str(), "1-10000", "1-65535", "1-100,200-300"] {
            assert!(matches!(ports(text), Err(ListError::TooManyPorts(_))), "{:?}", ports(text));
        }
        for text in [
            "10.0.0.0/33",
            "10.0.0.0/8 -j ACCEPT",
            "10.0.0.0/8;",
            "::1/129",
            "!10.0.0.0/8",
            "localhost",
            "10.0.0.0/8,,",
            "--to-ports 1",
        ] {
            assert!(matches!(networks(text), Err(ListError::Network(_))), "{text:?}");
        }
        let many = vec!["10.0.0.0/8"; 101].join(",");
        assert_eq!(networks(&many), Err(ListError::TooManyNetworks(101)));
        // what is quoted back is bounded
        assert!(ports(&"9".repeat(100_000)).unwrap_err().to_string().len() < 200);
    }
}
