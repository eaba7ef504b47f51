use super::*;
use proptest::prelude::*;

fn plan() -> Plan {
    Plan {
        proxy_uid: 2102,
        outbound_port: 15001,
        inbound_port: 15006,
        exclude_inbound_ports: BTreeSet::from([15020]),
        exclude_outbound_ports: BTreeSet::from([5432]),
        exclude_outbound_networks: vec!["169.254.169.254/32".parse().unwrap(), "fd00::/8".parse().unwrap()],
    }
}

#[test]
fn the_whole_ipv4_transaction() {
    let text = plan().transaction(Family::V4, &[]).unwrap();
    assert_eq!(
        text,
        "*nat\n:WEFT_IN - [0:0]\n:WEFT_OUT - [0:0]\n\
         -A WEFT_IN -p tcp -m multiport --dports 15020 -j RETURN\n\
         -A WEFT_IN -p tcp -j REDIRECT --to-ports 15006\n\
         -A WEFT_OUT -m owner --uid-owner 2102 -j RETURN\n\
         -A WEFT_OUT -o lo -j RETURN\n\
         -A WEFT_OUT -p tcp -m multiport --dports 5432 -j RETURN\n\
         -A WEFT_OUT -d 169.254.169.254/32 -j RETURN\n\
         -A WEFT_OUT -p tcp -j REDIRECT --to-ports 15001\n\
         -A PREROUTING -p tcp -j WEFT_IN\n-A OUTPUT -p tcp -j WEFT_OUT\nCOMMIT\n"
    );
}

#[test]
fn networks_go_to_their_own_family() {
    let v6 = plan().rules(Family::V6).unwrap().join("\n");
    assert!(v6.contains("-d fd00::/8") && !v6.contains("169.254"), "{v6}");
}

#[test]
fn jumps_that_are_there_are_replaced_each_as_often_as_it_stands() {
    let jump = "-A OUTPUT -p tcp -j WEFT_OUT".to_string();
    let text = plan().transaction(Family::V4, &[jump.clone(), jump]).unwrap();
    assert_eq!(text.matches("-D OUTPUT -p tcp -j WEFT_OUT\n").count(), 2);
    assert_eq!(text.matches("-A OUTPUT -p tcp -j WEFT_OUT\n").count(), 1);
}

#[test]
fn the_proxy_is_exempt_before_anything_is_redirected() {
    let rules = plan().rules(Family::V4).unwrap();
    let at = |s: &str| rules.iter().position(|r| r.contains(s)).unwrap();
    assert!(at("--uid-owner") < at("--to-ports 15001") && at("-o lo") < at("--to-ports 15001"));
}

#[test]
fn plans_that_cannot_work_are_refused_with_the_reason() {
    let bad = |f: fn(&mut Plan)| {
        let mut p = plan();
        f(&mut p);
        p.rules(Family::V4).unwrap_err()
    };
    assert_eq!(bad(|p| p.proxy_uid = 0), PlanError::RootProxy);
    assert_eq!(bad(|p| p.outbound_port = 0), PlanError::ZeroPort("outbound-port"));
    assert_eq!(bad(|p| p.inbound_port = p.outbound_port), PlanError::SamePort(15001));
    assert_eq!(
        bad(|p| p.exclude_inbound_ports = (1..=151).collect()),
        PlanError::TooManyPorts { field: "exclude-inbound-ports", count: 151 }
    );
    assert_eq!(bad(|p| p.exclude_outbound_ports = [0].into()), PlanError::PortZero { field: "exclude-outbound-ports" });
}

proptest! {
    /// Whatever a plan says, its text holds only the words of the rule language: nothing a user writes can become an option of its own.
    #[test]
    fn text_is_closed(uid in 1u32.., out in 1u16..=40000, ports in proptest::collection::btree_set(1u16.., 0..=MAX_PORTS),
                      nets in proptest::collection::vec((any::<u128>(), 0u8..=128, any::<bool>()), 0..20)) {
        let exclude_outbound_networks = nets.into_iter().map(|(a, p, v4)| -> IpNet {
            if v4 { ipnet::Ipv4Net::new((a as u32).into(), p.min(32)).unwrap().into() }
            else { ipnet::Ipv6Net::new(a.into(), p).unwrap().into() }
        }).collect();
        let plan = Plan { proxy_uid: uid, outbound_port: out, inbound_port: out + 1, exclude_inbound_ports: ports.clone(),
                          exclude_outbound_ports: ports.clone(), exclude_outbound_networks };
        for family in [Family::V4, Family::V6] {
            let rules = plan.rules(family).unwrap();
            let listed: usize = rules.iter().filter(|r| r.contains(IN) && r.contains("--dports"))
                .map(|r| { let n = r.split("--dports ").nth(1).unwrap().split(' ').next().unwrap().split(',').count(); assert!(n <= 15); n }).sum();
            prop_assert_eq!(listed, ports.len());
            for r in rules {
                prop_assert!(r.starts_with("-A WEFT_") && r.is_ascii() && !r.contains(['\n', '"', ';']), "{}", r);
            }
        }
    }
}
