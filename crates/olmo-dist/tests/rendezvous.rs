//! How ranks find each other, and who is kept out.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::{folder, run_ranks, settings};
use olmo_base::Diagnose as _;
use olmo_dist::{DistError, Join, ProcessGroup, Rendezvous, Secret, conformance};

/// An address of this host at which nobody listens.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Joins each of `joins` in a thread, and closes the groups.
fn join_all(joins: Vec<Join>) -> Vec<Result<(), DistError>> {
    let join = |join: Join| ProcessGroup::join(&join).and_then(ProcessGroup::close);
    let threads: Vec<_> = joins.into_iter().map(|settings| thread::spawn(move || join(settings))).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// Joins a group, runs every operation in it, and closes it.
fn check(join: &Join) {
    let group = ProcessGroup::join(join).unwrap();
    conformance::check_rank(&group, &[3]);
    group.close().unwrap();
}

fn at(address: &str, rank: usize, size: usize) -> Join {
    settings(Rendezvous::Address(address.to_owned()), rank, size)
}

#[test]
fn ranks_meet_at_an_address_despite_strangers() {
    let address = free_address();
    let first = thread::spawn({
        let join = at(&address, 0, 3);
        move || check(&join)
    });
    let connect = || loop {
        if let Ok(stream) = TcpStream::connect(&address) {
            break stream;
        }
        thread::sleep(Duration::from_millis(5));
    };
    // One says nothing, one speaks HTTP, one knows the protocol but not the secret and announces a
    // message of 4 GiB, one leaves at once.
    let _silent = connect();
    connect().write_all(b"GET / HTTP/1.1\r\nHost: rank-0\r\n\r\n").unwrap();
    let mut knowing = connect();
    let mut greeting = [0; 44];
    knowing.read_exact(&mut greeting).unwrap();
    greeting[20] ^= 1;
    knowing.write_all(&[&greeting[..], &[0xff; 4]].concat()).unwrap();
    drop(connect());
    let others: Vec<_> = [1, 2]
        .map(|rank| {
            let join = at(&address, rank, 3);
            thread::spawn(move || check(&join))
        })
        .into();
    for thread in others.into_iter().chain([first]) {
        thread.join().unwrap();
    }
}

#[test]
fn a_wrong_secret_is_an_error_and_keeps_the_rank_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut joins: Vec<Join> = (0..2).map(|rank| settings(folder(dir.path()), rank, 2)).collect();
    joins[0].limits.join = Duration::from_millis(700);
    joins[1].secret = Secret::new(b"another one");
    let results = join_all(joins);
    let missing = results[0].as_ref().unwrap_err();
    assert_eq!(missing.code(), "dist::missing");
    let text = missing.to_string();
    assert!(text.contains("rank 1 of 2 did not join") && text.contains("it has another secret"), "{text}");
    assert_eq!(results[1].as_ref().unwrap_err().code(), "dist::secret");
    assert_ne!(Secret::generate().unwrap(), Secret::generate().unwrap());
}

#[test]
fn a_program_that_is_no_rank_is_not_taken_for_rank_0() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        // Let the answer arrive before the connection ends.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = join_all(vec![at(&address, 1, 2)]).remove(0).unwrap_err();
    assert_eq!(error.code(), "dist::stranger");
    assert!(error.to_string().contains(&address), "{error}");
    server.join().unwrap();
}

#[test]
fn a_port_in_use_is_an_error_of_rank_0() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let error = join_all(vec![at(&address, 0, 2)]).remove(0).unwrap_err();
    assert_eq!(error.code(), "dist::port_in_use");
    assert!(error.to_string().contains(&address) && error.hint().unwrap().contains("MASTER_PORT"), "{error}");
}

#[test]
fn ranks_that_differ_name_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut joins: Vec<Join> = (0..3).map(|rank| settings(folder(dir.path()), rank, 3)).collect();
    joins[2].facts.insert("build".into(), "2".into());
    for join in &mut joins {
        join.limits.join = Duration::from_secs(2);
    }
    let results = join_all(joins);
    for (rank, result) in results.iter().enumerate().filter(|(rank, _)| *rank != 1) {
        let error = result.as_ref().unwrap_err();
        assert_eq!(error.code(), "dist::different", "rank {rank}: {error}");
        let text = error.to_string();
        assert!(text.contains("2") && text.contains("have a different build: `"), "{text}");
    }
    // Rank 1 may not meet rank 2 any more.
    assert!(results[1].is_err());
    let dir = tempfile::tempdir().unwrap();
    let joins = [2, 3].map(|size| settings(folder(dir.path()), size - 2, size)).into();
    for result in join_all(joins) {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("have a different number of ranks"), "{text}");
    }
}

#[test]
fn missing_ranks_are_named_to_everyone() {
    let dir = tempfile::tempdir().unwrap();
    for (place, expected) in
        [(folder(dir.path()), "ranks 2 and 3"), (Rendezvous::Address(free_address()), "ranks 2 and 3")]
    {
        let mut joins: Vec<Join> = (0..2).map(|rank| settings(place.clone(), rank, 4)).collect();
        for join in &mut joins {
            join.limits.join = Duration::from_millis(600);
        }
        for result in join_all(joins) {
            let text = result.unwrap_err().to_string();
            assert!(text.contains(expected) && text.contains("of 4 did not join within"), "{text}");
        }
    }
}

#[test]
fn a_rank_cannot_be_taken_twice_and_several_hosts_need_an_interface() {
    let dir = tempfile::tempdir().unwrap();
    let mut join = settings(folder(dir.path()), 0, 2);
    join.limits.join = Duration::from_millis(50);
    assert!(ProcessGroup::join(&join).is_err());
    let error = ProcessGroup::join(&join).unwrap_err();
    assert_eq!(error.code(), "dist::rank_taken");
    let address = free_address();
    let mut joins = vec![at(&address, 0, 3), at(&address, 1, 3), at(&address, 1, 3)];
    joins[1].limits.join = Duration::from_secs(2);
    joins[2].limits.join = Duration::from_secs(2);
    let error = join_all(joins).remove(0).unwrap_err();
    assert_eq!(error.to_string(), "rank 0: two processes joined as rank 1");
    join.world.local_size = 1;
    let error = ProcessGroup::join(&join).unwrap_err();
    assert_eq!(error.code(), "dist::several_hosts");
    assert!(error.hint().unwrap().contains("OLMO_PIPE_INTERFACE"));
    join.interface = Some("none0".into());
    assert_eq!(ProcessGroup::join(&join).unwrap_err().code(), "dist::listen");
}

#[test]
fn an_interface_can_be_named() {
    let results = run_ranks(2, |join| join.interface = Some("lo".into()), ProcessGroup::close);
    for result in results {
        result.unwrap().unwrap();
    }
}
