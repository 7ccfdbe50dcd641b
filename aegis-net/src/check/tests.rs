//! The check against made-up machines.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;

/// A folder like `/proc`, of a machine as Linux sets it up; gone with the value.
struct Machine(PathBuf);

impl Machine {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("aegis-net-check-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let this = Self(std::env::temp_dir().join(name));
        this.with("sys/net/ipv4/tcp_timestamps", "1\n")
            .with("sys/net/ipv4/tcp_fin_timeout", "60\n")
            .with("sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
            .with("sys/net/ipv4/ip_local_reserved_ports", "\n")
    }

    fn with(self, file: &str, text: &str) -> Self {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn reserves(self, ports: &str) -> Self {
        self.with("sys/net/ipv4/ip_local_reserved_ports", ports)
    }

    fn chooses(self, ports: &str) -> Self {
        self.with("sys/net/ipv4/ip_local_port_range", ports)
    }

    fn findings(&self, request: &Request) -> Vec<Finding> {
        Sysctls::read(&Proc::at(&self.0), request).findings
    }

    /// The only finding.
    fn finding(&self, request: &Request) -> Finding {
        let findings = self.findings(request);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        finding.clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn shares(ports: &[&str]) -> Request {
    Request::new(ports.iter().map(|ports| ("192.0.2.1".parse().unwrap(), ports.parse().unwrap())))
}

#[test]
fn a_machine_that_is_fine_has_no_findings() {
    let machine = Machine::new().reserves("2048-4095\n");
    assert_eq!(machine.findings(&shares(&["2048-4095"])), []);
    let by_range = shares(&["34816-36863", "40960-43007"]).method(Method::KernelRange);
    assert_eq!(machine.findings(&by_range), []);
}

#[test]
fn ports_that_the_kernel_may_choose_are_to_be_reserved_with_those_that_are() {
    let machine = Machine::new().reserves("111,40000-40010");
    let found = machine.finding(&shares(&["36864-38911", "38912-40959"]));
    assert_eq!(found.severity(), Severity::Warns);
    assert_eq!(
        found.to_string(),
        "ports 36864-39999,40011-40959 of the shares are in net.ipv4.ip_local_port_range 32768-60999 and not \
         reserved: the kernel may give them to other programs"
    );
    assert_eq!(found.remedy(), "sysctl -w net.ipv4.ip_local_reserved_ports=111,36864-40959");
}

#[test]
fn ports_that_the_kernel_would_not_choose_anyway_are_a_note() {
    let found = Machine::new().finding(&shares(&["2048-4095"]));
    assert_eq!(found.severity(), Severity::Note);
    assert_eq!(found.remedy(), "sysctl -w net.ipv4.ip_local_reserved_ports=2048-4095");

    // A share that is half inside is both.
    let findings = Machine::new().findings(&shares(&["30720-34815"]));
    let texts: Vec<_> = findings.iter().map(|found| found.to_string()).collect();
    assert!(texts[0].starts_with("ports 32768-34815 "), "{texts:?}");
    assert!(texts[1].starts_with("ports 30720-32767 ") && texts.len() == 2, "{texts:?}");
}

#[test]
fn a_host_is_left_with_ports_for_its_other_programs() {
    let findings = Machine::new().findings(&shares(&["32768-65535"]));
    let found @ Finding::KernelMayChoose { move_to, .. } = &findings[0] else { panic!("{findings:?}") };
    assert_eq!(*move_to, Some("1024-32767".parse().unwrap()));
    assert_eq!(found.remedy(), "sysctl -w net.ipv4.ip_local_port_range='1024 32767'");
    assert!(found.to_string().contains("too few"), "{found}");
}

#[test]
fn an_ipv6_share_does_not_reserve_the_ports_of_the_whole_host() {
    let request = Request::new([("2001:db8::1".parse().unwrap(), PortRange::ALL)]);
    assert_eq!(Machine::new().findings(&request), []);
}

#[test]
fn ports_outside_the_sysctl_block_where_the_kernel_chooses() {
    let request = shares(&["2048-4095", "34816-36863", "61440-63487"]).method(Method::KernelRange);
    let found = Machine::new().finding(&request);
    assert_eq!(found.severity(), Severity::Blocks);
    let text = found.to_string();
    assert!(text.starts_with("ports 2048-4095,61440-63487 of the shares are outside"), "{text}");
    assert!(text.contains("net.ipv4.ip_local_port_range 32768-60999"), "{text}");
    assert_eq!(found.remedy(), "sysctl -w net.ipv4.ip_local_port_range='2048 63487'");

    // The sysctl takes no ports below 1024.
    let found = Machine::new().finding(&shares(&["0-65535"]).method(Method::KernelRange));
    assert_eq!(found.remedy(), "sysctl -w net.ipv4.ip_local_port_range='1024 65535'");

    // One port too few counts.
    let request = shares(&["32768-60999"]).method(Method::KernelRange);
    assert_eq!(Machine::new().findings(&request), []);
    let found = Machine::new().chooses("32768 60998").finding(&request);
    assert!(found.to_string().starts_with("ports 60999 "), "{found}");
}

#[test]
fn reserved_ports_block_where_the_kernel_chooses() {
    let request = shares(&["34816-36863"]).method(Method::KernelRange);
    let found = Machine::new().reserves("111,34000-35000").finding(&request);
    assert_eq!(found.severity(), Severity::Blocks);
    assert!(found.to_string().starts_with("ports 34816-35000 of the shares are in"), "{found}");
    assert_eq!(found.remedy(), "sysctl -w net.ipv4.ip_local_reserved_ports=111,34000-34815");
}

#[test]
fn a_quarantine_that_assumes_too_little_blocks_and_one_that_assumes_too_much_does_not() {
    let machine = Machine::new()
        .reserves("2048-4095")
        .with("sys/net/ipv4/tcp_timestamps", "0")
        .with("sys/net/ipv4/tcp_fin_timeout", "90");
    let request = shares(&["2048-4095"]);
    let found = machine.findings(&request);
    let actual = Duration::from_secs(90);
    let assumed = Duration::from_secs(60);
    assert_eq!(found, [Finding::TimestampsOff, Finding::FinTimeoutTooLong { actual, assumed }]);
    assert!(found.iter().all(|found| found.severity() == Severity::Blocks));
    assert_eq!(found[0].remedy(), "sysctl -w net.ipv4.tcp_timestamps=1");
    assert_eq!(found[1].remedy(), "sysctl -w net.ipv4.tcp_fin_timeout=60");
    assert_eq!(machine.findings(&request.assuming(false, Duration::from_secs(120))), []);
    // 2 is on, without the random offset.
    let machine = Machine::new().reserves("2048-4095").with("sys/net/ipv4/tcp_timestamps", "2");
    assert_eq!(machine.findings(&shares(&["2048-4095"])), []);
}

#[test]
fn what_cannot_be_read_is_a_finding_that_names_the_file() {
    let machine = Machine::new().reserves("2048-4095").chooses("many");
    fs::remove_file(machine.0.join("sys/net/ipv4/tcp_timestamps")).unwrap();
    let texts: Vec<_> =
        machine.findings(&shares(&["2048-4095"])).iter().map(|found| found.to_string()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].contains("sys/net/ipv4/tcp_timestamps could not be read"), "{texts:?}");
    assert!(texts[1].contains("ip_local_port_range") && texts[1].contains("\"many\" is not two ports"));
}

#[test]
fn signs_of_nat_are_found_in_tables_and_modules() {
    let machine = Machine::new().with("modules", "nf_conntrack 1 2\nnfnatural 1 2\n");
    let proc = Proc::at(&machine.0);
    assert_eq!((proc.sign_of_nat(), proc.tracked_flows()), (None, None));
    let machine = machine
        .with("modules", "nf_conntrack 1 2\nnft_masq 16384 1 - Live 0x0\n")
        .with("sys/net/netfilter/nf_conntrack_count", "12\n");
    assert!(proc.sign_of_nat().unwrap().ends_with("modules lists nft_masq"));
    assert_eq!(proc.tracked_flows(), Some(12));
    let _machine = machine.with("thread-self/net/ip_tables_names", "filter\nnat\n");
    assert!(proc.sign_of_nat().unwrap().ends_with("lists the table nat"));
}

#[test]
fn addresses_of_both_families_are_exempt_from_tracking_by_one_command() {
    let ips = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse().unwrap()).to_vec();
    let found = Finding::ConnectionTracking { flows: 3, nat: None, ips };
    assert_eq!(
        found.remedy(),
        "nft 'table inet aegis_egress { \
         chain out { type filter hook output priority raw; \
         ip saddr { 192.0.2.1, 192.0.2.2 } notrack; ip6 saddr { 2001:db8::1 } notrack; }; \
         chain in { type filter hook prerouting priority raw; \
         ip daddr { 192.0.2.1, 192.0.2.2 } notrack; ip6 daddr { 2001:db8::1 } notrack; }; }'"
    );
}
