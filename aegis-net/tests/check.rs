//! The start-up check, against this machine and against ones that are set up wrongly (network namespaces).

mod common;

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use aegis_core::net::{PortRange, Protocol};
use aegis_net::check::{Finding, Method, Request, Severity, check};
use aegis_net::sock_diag::{Filter, SockDiag, State};
use common::{egress_ip, eventually, fresh_ports, netns, origin};

fn found(request: &Request) -> Vec<Finding> {
    check(request).unwrap()
}

fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(Finding::to_string).collect()
}

/// Without what depends on how the machine that runs the tests is set up.
fn about_sockets(request: &Request) -> Vec<Finding> {
    let mut findings = found(request);
    findings.retain(|found| matches!(found, Finding::PortTaken { .. } | Finding::Connections { .. }));
    findings
}

fn one_share(ports: PortRange) -> Request {
    Request::new([(egress_ip(), ports)])
}

/// Documentation address (RFC 5737), local in the namespace once there is a route.
const EGRESS: &str = "192.0.2.7";

fn share(ports: &str) -> Request {
    Request::new([(EGRESS.parse().unwrap(), ports.parse().unwrap())])
}

/// A machine that is set up for `share("20480-22527")`.
fn set_up() {
    netns::sh("ip route add local 192.0.2.7/32 dev lo");
    netns::sysctl("net.ipv4.ip_local_reserved_ports", "20480-22527");
}

/// No TCP socket of the namespace is left. A child that another test has forked may have one until it calls `exec`.
fn nothing_is_left() {
    let all = Filter::new([PortRange::ALL]).protocol(Protocol::Tcp);
    let mut kernel = SockDiag::new().unwrap();
    eventually(|| kernel.list(&all).unwrap().is_empty());
}

#[test]
fn this_kernel_does_what_the_defaults_rely_on() {
    let range: PortRange = {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        text.split_whitespace().collect::<Vec<_>>().join("-").parse().unwrap()
    };
    for method in [Method::Explicit, Method::KernelRange] {
        let mut shares = vec![(egress_ip(), range)];
        if TcpListener::bind("[::1]:0").is_ok() {
            shares.push(("::1".parse().unwrap(), range));
        }
        let mut findings = found(&Request::new(shares).method(method));
        findings.retain(|found| matches!(found, Finding::KernelDiffers { .. } | Finding::NotTested { .. }));
        assert_eq!(findings, [], "{:?}", texts(&findings));
    }
}

#[test]
fn a_machine_that_is_fine_has_no_findings_and_nothing_is_left_behind() {
    netns::in_fresh("a_machine_that_is_fine_has_no_findings", || {
        set_up();
        let findings = found(&share("20480-22527"));
        assert_eq!(findings, [], "{:?}", texts(&findings));
        let by_range = share("40960-43007").method(Method::KernelRange);
        let findings = found(&by_range);
        assert_eq!(findings, [], "{:?}", texts(&findings));
        nothing_is_left();
        // IPv6, too.
        if Path::new("/proc/sys/net/ipv6").exists() {
            netns::sh("ip -6 route add local 2001:db8:77::/64 dev lo");
            let v6 = Request::new([("2001:db8:77::1".parse().unwrap(), PortRange::ALL)]);
            let findings = found(&v6);
            assert_eq!(findings, [], "{:?}", texts(&findings));
            let v6 = Request::new([("2001:db8:77::1".parse().unwrap(), "40960-43007".parse().unwrap())]);
            let findings = found(&v6.method(Method::KernelRange));
            assert_eq!(findings, [], "{:?}", texts(&findings));
            nothing_is_left();
        }
    });
}

#[test]
fn the_remedies_for_sysctls_and_routes_make_a_machine_fine() {
    netns::in_fresh("the_remedies_make_a_machine_fine", || {
        netns::sysctl("net.ipv4.tcp_timestamps", "0");
        netns::sysctl("net.ipv4.tcp_fin_timeout", "75");
        netns::sysctl("net.ipv4.ip_local_port_range", "40000 50000");
        netns::sysctl("net.ipv4.ip_local_reserved_ports", "111,41000-42000");
        for request in
            [share("38912-40959").method(Method::Explicit), share("38912-43007").method(Method::KernelRange)]
        {
            let findings = found(&request);
            assert!(!findings.is_empty());
            for remedy in findings.iter().map(Finding::remedy) {
                match remedy.strip_prefix("sysctl -w ").and_then(|set| set.split_once('=')) {
                    Some((name, value)) => netns::sysctl(name, value.trim_matches('\'')),
                    None => netns::sh(&remedy),
                }
            }
            let findings = found(&request);
            assert_eq!(findings, [], "{:?}", texts(&findings));
        }
    });
}

#[test]
fn a_missing_local_route_blocks() {
    netns::in_fresh("a_missing_local_route_blocks", || {
        netns::sysctl("net.ipv4.ip_local_reserved_ports", "20480-22527");
        let v4 = [Finding::AddressNotLocal { ip: EGRESS.parse().unwrap() }];
        assert_eq!(found(&share("20480-22527")), v4);
        assert_eq!(
            (v4[0].severity(), v4[0].remedy().as_str()),
            (Severity::Blocks, "ip route add local 192.0.2.7/32 dev lo")
        );
        assert!(v4[0].to_string().contains("192.0.2.7"));

        // `bind` would succeed now, and answers would still not arrive.
        netns::sysctl("net.ipv4.ip_nonlocal_bind", "1");
        assert_eq!(found(&share("20480-22527")), v4);
        // A route somewhere else is not one to this host.
        netns::sh("ip route add 192.0.2.0/24 dev lo");
        assert_eq!(found(&share("20480-22527")), v4);
        netns::sysctl("net.ipv4.ip_nonlocal_bind", "0");
        // Takes packets, but `bind` does not see it.
        netns::sh("ip route add local 192.0.2.7/32 dev lo table 100");
        netns::sh("ip rule add pref 10 lookup 100");
        assert_eq!(found(&share("20480-22527")), v4);
        netns::sh("ip route add local 192.0.2.0/24 dev lo");
        assert_eq!(found(&share("20480-22527")), []);

        if Path::new("/proc/sys/net/ipv6").exists() {
            let ip = "2001:db8:77::1".parse().unwrap();
            let request = Request::new([(ip, "20480-22527".parse().unwrap())]);
            let v6 = [Finding::AddressNotLocal { ip }];
            assert_eq!(found(&request), v6);
            netns::sh(&v6[0].remedy());
            assert_eq!(found(&request), []);
        }
    });
}

#[test]
fn timestamps_that_are_off_block_unless_the_quarantine_knows() {
    netns::in_fresh("timestamps_that_are_off_block", || {
        set_up();
        netns::sysctl("net.ipv4.tcp_timestamps", "0");
        assert_eq!(found(&share("20480-22527")), [Finding::TimestampsOff]);
        let knows = share("20480-22527").assuming(false, Duration::from_secs(60));
        assert_eq!(found(&knows), []);
        nothing_is_left();
    });
}

#[test]
fn a_longer_fin_timeout_than_assumed_blocks() {
    netns::in_fresh("a_longer_fin_timeout_than_assumed_blocks", || {
        set_up();
        netns::sysctl("net.ipv4.tcp_fin_timeout", "30");
        let shorter = share("20480-22527").assuming(true, Duration::from_secs(20));
        let (actual, assumed) = (Duration::from_secs(30), Duration::from_secs(20));
        assert_eq!(found(&shorter), [Finding::FinTimeoutTooLong { actual, assumed }]);
        assert_eq!(found(&share("20480-22527")), []);
    });
}

#[test]
fn a_range_that_the_kernel_does_not_keep_to_blocks_and_the_port_it_chose_is_shown() {
    netns::in_fresh("a_range_that_the_kernel_does_not_keep_to_blocks", || {
        set_up();
        netns::sysctl("net.ipv4.ip_local_reserved_ports", "");
        let findings = found(&share("20480-22527").method(Method::KernelRange));
        let [Finding::OutsideLocalPortRange { ports, local, chosen: Some(chosen), set }] = &findings[..]
        else {
            panic!("{findings:?}")
        };
        assert_eq!(*ports, ["20480-22527".parse().unwrap()]);
        assert!(local.contains(*chosen), "{findings:?}");
        assert_eq!((set.lo(), set.hi()), (20_480, local.hi()));
        assert!(texts(&findings)[0].ends_with(&format!("it chose {chosen}")), "{:?}", texts(&findings));
    });
}

#[test]
fn reserved_ports_block_the_kernels_choice() {
    netns::in_fresh("reserved_ports_block_the_kernels_choice", || {
        set_up();
        netns::sysctl("net.ipv4.ip_local_reserved_ports", "20480-22527,40960-43007");
        let request = share("40960-43007").method(Method::KernelRange);
        let findings = found(&request);
        assert!(matches!(findings[..], [Finding::ReservedFromKernel { .. }]), "{findings:?}");
        netns::sysctl("net.ipv4.ip_local_reserved_ports", "20480-22527");
        assert_eq!(found(&request), []);
    });
}

#[test]
fn without_loopback_the_check_says_that_it_knows_nothing_about_the_kernel() {
    netns::in_fresh("without_loopback", || {
        netns::sh("ip link set lo down");
        let findings = found(&share("20480-22527"));
        let not_tested = findings.iter().find(|found| matches!(found, Finding::NotTested { .. }));
        assert_eq!(not_tested.expect("a finding").remedy(), "ip link set lo up", "{findings:?}");
        assert_eq!(findings[0].severity(), Severity::Blocks, "no local route either: {findings:?}");
    });
}

#[test]
fn tracked_connections_are_found() {
    netns::in_fresh("tracked_connections_are_found", || {
        if !Path::new("/usr/sbin/nft").exists() {
            return eprintln!("SKIPPED tracked_connections_are_found: no nft");
        }
        set_up();
        assert_eq!(found(&share("20480-22527")), []);
        let nft = |rules: &str| {
            let output = std::process::Command::new("/usr/sbin/nft").arg(rules).output().unwrap();
            assert!(output.status.success(), "{rules}: {output:?}");
        };
        nft(
            "table inet stranger { chain out { type filter hook output priority 0; ct state new accept; }; }",
        );
        let findings = found(&share("20480-22527"));
        let [Finding::ConnectionTracking { flows, .. }] = &findings[..] else { panic!("{findings:?}") };
        assert!(*flows > 0);
        // The remedy is a command that nft takes.
        let remedy = findings[0].remedy();
        nft(remedy.strip_prefix("nft '").and_then(|rules| rules.strip_suffix('\'')).expect("an nft command"));
    });
}

#[test]
fn listeners_and_bound_sockets_in_a_share_are_found_by_name() {
    let ports = fresh_ports(4);
    let at = |ip: &str, n: u16| SocketAddr::new(ip.parse().unwrap(), ports.lo() + n);
    let own = egress_ip().to_string();
    let _listeners = [at(&own, 1), at("127.0.0.1", 2)].map(|at| TcpListener::bind(at).unwrap());
    let _datagrams = UdpSocket::bind(at(&own, 3)).unwrap();
    // On all addresses the kernel chooses: another test may have any other port on one of them.
    let wildcard = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = wildcard.local_addr().unwrap().port();
    let second = PortRange::new(port, port).unwrap();

    let findings = about_sockets(&Request::new([(egress_ip(), ports), (egress_ip(), second)]));
    let mut taken: Vec<_> = findings
        .iter()
        .map(|found| match found {
            Finding::PortTaken { socket, ip, ports: of } => {
                assert_eq!((*ip, found.severity()), (egress_ip(), Severity::Warns));
                (*of, socket.protocol, socket.source, socket.state)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    taken.sort();
    let mut expected = [
        (second, Protocol::Tcp, SocketAddr::new("0.0.0.0".parse().unwrap(), port), State::Listen),
        (ports, Protocol::Tcp, at(&own, 1), State::Listen),
        (ports, Protocol::Udp, at(&own, 3), State::Bound),
    ];
    expected.sort();
    assert_eq!(taken, expected, "not the one on another address");
    let text = texts(&findings).join("\n");
    assert!(text.contains(&format!("a tcp listener on 0.0.0.0:{port}")), "{text}");
    assert!(text.contains(&format!("a udp socket on {}", at(&own, 3))), "{text}");
    assert!(findings[0].remedy().contains("ss -Hna"), "{:?}", findings[0].remedy());
}

#[test]
fn a_dual_stack_listener_stands_in_the_way_of_an_ipv4_share() {
    let Ok(listener) = TcpListener::bind("[::]:0") else {
        return eprintln!("SKIPPED a_dual_stack_listener_stands_in_the_way_of_an_ipv4_share: no IPv6");
    };
    let port = listener.local_addr().unwrap().port();
    let ports = PortRange::new(port, port).unwrap();
    let findings = about_sockets(&one_share(ports));
    assert!(matches!(&findings[..], [Finding::PortTaken { ip, .. }] if *ip == egress_ip()), "{findings:?}");
}

#[test]
fn connections_from_a_share_are_counted() {
    let ports = fresh_ports(2);
    let (listener, address) = origin();
    let share = common::Share::at(egress_ip(), ports, aegis_core::lease::Config::default());
    let streams = [share.connect(address).unwrap(), share.connect(address).unwrap()];
    let request = Request::new([(egress_ip(), ports), ("127.0.0.1".parse().unwrap(), ports)]);
    let findings = about_sockets(&request);
    let [Finding::Connections { protocol, ip, ports: of, count, example }] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert_eq!((*protocol, *ip, *of, *count), (Protocol::Tcp, egress_ip(), ports, 2));
    assert_eq!((example.peer, example.state), (Some(address), State::Established));
    assert_eq!(findings[0].severity(), Severity::Note);
    drop((streams, listener));

    let udp = UdpSocket::bind((egress_ip(), ports.lo())).unwrap();
    udp.connect(address).unwrap();
    let findings = about_sockets(&request);
    let udp: Vec<_> = findings.iter().filter(|found| found.severity() == Severity::Warns).collect();
    assert!(matches!(udp[..], [Finding::Connections { protocol: Protocol::Udp, count: 1, .. }]), "{udp:?}");
}

#[test]
fn many_checks_at_once_do_not_disturb_each_other() {
    netns::in_fresh("many_checks_at_once", || {
        set_up();
        let check = || {
            for _ in 0..25 {
                let findings = found(&share("20480-22527"));
                assert_eq!(findings, [], "{:?}", texts(&findings));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(check);
            }
        });
        nothing_is_left();
    });
}

#[test]
fn mapped_addresses_are_the_ipv4_ones() {
    let ports = fresh_ports(1);
    let mapped: IpAddr = format!("::ffff:{}", egress_ip()).parse().unwrap();
    assert_eq!(Request::new([(mapped, ports)]), one_share(ports));
}
