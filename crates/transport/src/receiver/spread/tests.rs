//! Listeners on the kernel that runs here; the threads over them are tested in `tests/receiver/spread.rs`.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::*;

const LOCAL: &str = "127.0.0.1:0";

/// Connects from a thread that stays on `cpu`.
fn connect_from(cpu: usize, to: SocketAddr) -> TcpStream {
    let connecting = std::thread::spawn(move || {
        let mut set = CpuSet::new();
        set.set(cpu).unwrap();
        sched_setaffinity(Pid::from_raw(0), &set).unwrap();
        TcpStream::connect(to).unwrap()
    });
    connecting.join().unwrap()
}

/// Which listener has a connection for us; waits for one.
fn accepted(listeners: &[TcpListener]) -> (usize, TcpStream) {
    let end = Instant::now() + Duration::from_mins(1);
    while Instant::now() < end {
        for (index, listener) in listeners.iter().enumerate() {
            if let Ok((stream, _)) = listener.accept() {
                return (index, stream);
            }
        }
        std::thread::yield_now();
    }
    panic!("no listener has a connection");
}

#[tokio::test]
async fn a_connection_comes_to_the_listener_of_its_clients_processor() {
    let cpus = cpus();
    let listeners = listen(LOCAL, cpus.len().clamp(2, MAX_THREADS)).await.unwrap();
    let address = listeners[0].local_addr().unwrap();
    for round in 0..20 {
        for (index, cpu) in cpus.iter().enumerate().take(listeners.len()) {
            let _client = connect_from(*cpu, address);
            assert_eq!(accepted(&listeners).0, index, "round {round}, processor {cpu}");
        }
    }
}

#[tokio::test]
async fn a_listener_that_is_gone_leaves_no_connection_waiting_for_it() {
    let mut listeners = listen(LOCAL, 4).await.unwrap();
    let address = listeners[0].local_addr().unwrap();
    let cpus = cpus();
    while listeners.len() > 1 {
        listeners.remove(0);
        for _ in 0..50 {
            for cpu in &cpus {
                let _client = connect_from(*cpu, address);
                accepted(&listeners);
            }
        }
    }
}

#[tokio::test]
async fn what_waits_in_the_queue_of_a_listener_that_closes_is_reset_and_never_left_hanging() {
    let mut listeners = listen(LOCAL, 2).await.unwrap();
    let address = listeners[0].local_addr().unwrap();
    let mut clients: Vec<TcpStream> = (0..8).map(|_| connect_from(cpus()[0], address)).collect();
    let first = listeners.remove(0);
    drop(first);
    // The other listener may have been given some: by migration, or because two processors share one.
    let mut kept = Vec::new();
    let end = Instant::now() + Duration::from_mins(1);
    for client in &mut clients {
        client.set_nonblocking(true).unwrap();
        loop {
            if let Ok((stream, _)) = listeners[0].accept() {
                kept.push(stream);
            }
            let mut byte = [0];
            match client.read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let own = client.local_addr().unwrap();
                    if kept.iter().any(|stream| stream.peer_addr().unwrap() == own) {
                        break;
                    }
                }
                other => panic!("{other:?}"),
            }
            assert!(Instant::now() < end, "a connection waits for nobody");
        }
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_refused_whether_its_owner_spreads_or_not() {
    let spread = listen(LOCAL, 2).await.unwrap();
    let one = listen(LOCAL, 1).await.unwrap();
    for taken in [&spread[0], &one[0]] {
        let address = taken.local_addr().unwrap().to_string();
        for count in [1, 2] {
            let error = listen(&address, count).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{count}");
        }
    }
}

#[test]
fn no_thread_ever_holds_more_than_twice_what_another_does_once_all_hold_one() {
    for count in [2, 3, 4, 16] {
        let balance = Balance::new(vec![Gauge::default(); count]);
        let mut seats = Vec::new();
        for number in 0..400_usize {
            // Everything comes in on one processor, the worst case; then everywhere.
            seats.push(balance.place(if number < 200 { 0 } else { number % count }));
            let held = balance.held.lock().unwrap().clone();
            let (most, least) = (held.iter().max().unwrap(), held.iter().min().unwrap());
            assert!(*most <= 2 * least.max(&1), "{held:?}");
        }
        seats.clear();
        assert_eq!(*balance.held.lock().unwrap(), vec![0; count]);
    }
}

#[test]
fn the_program_names_a_listener_for_each_processor_and_none_for_another() {
    let program = program(&[3, 5, 9], 2);
    let returned: Vec<u32> = program.iter().filter(|step| step.code == RETURN).map(|step| step.k).collect();
    assert_eq!(returned, [0, 1, 0, ANY]);
    assert_eq!(program[0].k, 0xffff_f024);
}
