use super::*;

#[test]
fn what_the_tools_say_becomes_a_cause_with_a_fix() {
    let say = |b, s: &str| refused(b, Family::V4, s).to_string();
    let nft = Backend::Nft;
    assert!(
        say(
            nft,
            "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)"
        )
        .contains("NET_ADMIN")
    );
    assert!(
        say(Backend::Legacy, "can't initialize iptables table `nat': Permission denied (you must be root)")
            .contains("NET_RAW")
    );
    assert!(say(Backend::Legacy, "iptables v1.8.9 (legacy): can't initialize iptables table `nat': Table does not exist (do you need to insmod?)").contains("modprobe iptable_nat"));
    assert!(
        say(nft, "Warning: Extension owner revision 0 not supported, missing kernel module?")
            .contains("modprobe xt_owner")
    );
    assert!(say(nft, "iptables: Failed to initialize nft: Protocol not supported").contains("modprobe nf_tables"));
    assert!(say(nft, "line 4 failed").contains("line 4 failed"));
}

#[test]
fn only_jumps_to_our_chains_are_ours() {
    let list: Vec<String> = [
        "-P OUTPUT ACCEPT",
        "-N WEFT_OUT",
        "-A OUTPUT -p tcp -j WEFT_OUT",
        "-A OUTPUT -j OTHER_WEFT_OUT",
        "-A WEFT_OUT -o lo -j RETURN",
        "-A PREROUTING -p tcp -j WEFT_IN",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(ours(&list), ["-A OUTPUT -p tcp -j WEFT_OUT", "-A PREROUTING -p tcp -j WEFT_IN"]);
}
