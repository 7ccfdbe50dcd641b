//! The kernel chooses the port, inside a leased range or, where it is set up wrongly, outside. In network namespaces.

mod common;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aegis_core::lease::{
    Closed, CompleteError, Config, Conflict, Method, Pool, PoolKey, Seed, Table, Worker,
};
use aegis_core::net::{Origin, PortRange, Protocol};
use aegis_net::clock;
use aegis_net::recipe::{Refusal, begin_range};
use common::{netns, origin};

const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 66, 0, 1));

fn leases(range: PortRange) -> (Worker, Pool) {
    let config = Config { granule_ports: 64, granules: 1, origins: 8, pages: 8, ..Config::default() };
    let table = Arc::new(Table::new(config, Seed::default()).unwrap());
    let slots = table.add_granules(Method::KernelRange, [(IP, range)]).unwrap();
    let pool = table.pool(PoolKey(0), slots).unwrap();
    (Worker::attach(table, clock::seed().unwrap()).unwrap(), pool)
}

fn accept(listener: &TcpListener, socket: OwnedFd) -> (std::net::TcpStream, OwnedFd) {
    (listener.accept().unwrap().0, socket)
}

#[test]
fn the_kernel_chooses_each_port_of_the_range_once_for_an_origin() {
    netns::in_fresh("the_kernel_chooses_each_port_of_the_range_once_for_an_origin", || {
        netns::sysctl("net.ipv4.ip_local_port_range", "32768 60999");
        let range = PortRange::new(40_000, 40_063).unwrap();
        let (mut worker, pool) = leases(range);
        let origins = [origin(), origin()];
        for (listener, address) in &origins {
            let origin = Origin::new(Protocol::Tcp, *address).unwrap();
            let mut open = Vec::new();
            for _ in range.ports() {
                let leased = worker.acquire_range(&pool, &origin, clock::now()).unwrap();
                let (socket, port) = begin_range(&leased).unwrap();
                let lease = worker.complete(&leased, port, clock::now()).unwrap();
                open.push((lease, accept(listener, socket)));
            }
            worker.acquire_range(&pool, &origin, clock::now()).unwrap_err();
            let (lease, sockets) = open.pop().unwrap();
            drop(sockets);
            worker.release(lease, Closed::Unused, clock::now()).unwrap();
            // The origin has closed first, so the port is free; but it is one, and here are two who want it.
            let mut range = || worker.acquire_range(&pool, &origin, clock::now()).unwrap();
            let (first, second) = (range(), range());
            let _socket = begin_range(&first).unwrap();
            let refusal = begin_range(&second).unwrap_err();
            assert!(matches!(refusal, Refusal::Conflict { conflict: Conflict::TupleInUse, .. }), "{refusal}");
        }
    });
}

#[test]
fn a_port_outside_the_range_is_found_before_it_is_used() {
    netns::in_fresh("a_port_outside_the_range_is_found_before_it_is_used", || {
        netns::sysctl("net.ipv4.ip_local_port_range", "32768 33767");
        let range = PortRange::new(40_000, 40_063).unwrap();
        let (mut worker, pool) = leases(range);
        let (_listener, address) = origin();
        let origin = Origin::new(Protocol::Tcp, address).unwrap();
        let leased = worker.acquire_range(&pool, &origin, clock::now()).unwrap();
        let (socket, chosen) = begin_range(&leased).unwrap();
        assert!((32_768..33_768).contains(&chosen), "{chosen}");
        let error = worker.complete(&leased, chosen, clock::now()).unwrap_err();
        assert_eq!(error, CompleteError::Outside { port: chosen, range });
        drop(socket);
        assert_eq!(worker.table().granted(), 0);
    });
}
