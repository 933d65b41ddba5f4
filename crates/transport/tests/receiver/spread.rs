//! Connections that are spread over threads of their own.

use std::net::TcpStream as Blocking;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::payload::traces;
use crate::rig::{H1, H2, Rig, TRACES, config, soon, until};

async fn spread(threads: usize) -> Rig {
    let mut config = config();
    config.spread.threads = threads;
    Rig::with(config, 64 << 20).await
}

fn held(rig: &Rig, thread: usize) -> u64 {
    rig.count("mirador_receiver_thread_connections", &[&format!("thread=\"{thread}\"")])
}

#[tokio::test]
async fn sixty_four_long_channels_are_spread_evenly_over_four_threads_and_each_is_answered() {
    let rig = spread(4).await;
    let mut channels = Vec::new();
    for _ in 0..64 {
        let mut channel = H2::connect(rig.grpc).await;
        assert_eq!(channel.export(TRACES, &traces(1)).await.grpc_status(), Some(0));
        channels.push(channel);
    }
    let spread: Vec<u64> = (0..4).map(|thread| held(&rig, thread)).collect();
    let (most, least) = (spread.iter().max().unwrap(), spread.iter().min().unwrap());
    assert!(spread.iter().sum::<u64>() == 64 && *most <= 2 * least, "{spread:?}");
    for channel in &mut channels {
        assert_eq!(channel.export(TRACES, &traces(1)).await.grpc_status(), Some(0));
    }
    assert_eq!(rig.given_count(), 128);
    drop(channels);
    until("every place is free again", || rig.count("mirador_receiver_thread_connections", &[]) == 0).await;
    rig.drain.start();
    soon("the end of every thread", rig.task).await.unwrap();
}

#[tokio::test]
async fn a_connection_is_served_by_the_thread_of_its_clients_processor() {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect();
    let threads = cpus.len().clamp(2, 8);
    let rig = spread(threads).await;
    let mut open = Vec::new();
    // One of each in turn, so that none is moved for the balance.
    for round in 1..=4 {
        for (thread, cpu) in cpus.iter().copied().enumerate().take(threads) {
            let to = rig.http;
            let connecting = std::thread::spawn(move || {
                let mut own = CpuSet::new();
                own.set(cpu).unwrap();
                sched_setaffinity(Pid::from_raw(0), &own).unwrap();
                Blocking::connect(to).unwrap()
            });
            open.push(connecting.join().unwrap());
            until("the processor's thread to hold it", || held(&rig, thread) == round).await;
        }
    }
    assert_eq!(rig.count("mirador_receiver_connections_moved_total", &[]), 0);
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_on_every_thread_and_closes_every_listener() {
    let rig = spread(3).await;
    rig.behave(crate::rig::Behaviour::Hold);
    let mut calls = Vec::new();
    for _ in 0..6 {
        let mut client = H1::connect(rig.http).await;
        calls.push(tokio::spawn(async move { client.post("/v1/traces", &[], &traces(1)).await.status }));
    }
    until("all calls to be held", || rig.given_count() == 6).await;
    rig.drain.start();
    until("both ports to be closed", || [rig.grpc, rig.http].iter().all(|port| Blocking::connect(port).is_err())).await;
    assert!(!rig.task.is_finished(), "calls are in flight");
    rig.consumer.gate.add_permits(6);
    for call in calls {
        assert_eq!(soon("an answer", call).await.unwrap(), 200);
    }
    soon("the end of every thread", rig.task).await.unwrap();
}

#[tokio::test]
async fn the_limit_on_connections_holds_for_all_threads_together() {
    let mut config = config();
    config.spread.threads = 2;
    config.connections.max_connections = 4;
    let rig = Rig::with(config, 64 << 20).await;
    let _open: Vec<Blocking> = (0..7).map(|_| Blocking::connect(rig.grpc).unwrap()).collect();
    let refused = || rig.count("mirador_receiver_connections_refused_total", &["reason=\"max_connections\""]);
    until("three to be refused", || refused() == 3).await;
    assert_eq!(rig.count("mirador_receiver_connections{", &["listener=\"grpc\""]), 4);
}
