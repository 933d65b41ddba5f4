//! What is redirected, and what is never touched.

use std::net::UdpSocket;

use anyhow::{Result, ensure};
use mirador_support::backends::client::until;
use mirador_support::rig::{Class, Driver};
use serde_json::json;

use crate::{CLIENT, WAIT, counted, rig};

#[tokio::test(flavor = "multi_thread")]
async fn connects_over_ipv4_and_ipv6_go_to_the_agent_and_the_application_still_sees_the_gateway() -> Result<()> {
    let Some((mut rig, gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let agent = rig.agent(json!({}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    let found = pod.python(
        CLIENT,
        &[
            "connect",
            "203.0.113.9",
            "4317",
            "::ffff:203.0.113.9",
            "4318",
            "2001:db8:213::9",
            "4317",
            "203.0.113.9",
            "4319",
        ],
    )?;
    let expected = json!([
        {"peer": ["203.0.113.9", 4317], "own": "10.213.1.2", "who": "agent"},
        {"peer": ["::ffff:203.0.113.9", 4318], "own": "::ffff:10.213.1.2", "who": "agent"},
        {"peer": ["2001:db8:213::9", 4317], "own": "fd42:213:1::2", "who": "agent"},
        {"peer": ["203.0.113.9", 4319], "own": "10.213.1.2", "who": "gateway"},
    ]);
    ensure!(found == expected, "{found}");
    let only = pod.python(CLIENT, &["v6only", "2001:db8:213::9", "4318"])?;
    ensure!(only[0]["who"] == "agent", "a socket without IPv4 goes to the agent's IPv6 address: {only}");
    ensure!(gateway.accepted() == 1, "only the port that is not steered reached the gateway");
    counted(&agent, 4.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_in_the_family_a_connect_is_left_alone() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Cgroupfs) else { return Ok(()) };
    let agent = rig.agent(json!({"addresses": ["10.213.0.1"]}), None).await?;
    let pod = rig.pod(Class::Guaranteed)?;
    let found = pod.python(CLIENT, &["connect", "2001:db8:213::9", "4317", "::ffff:203.0.113.9", "4317"])?;
    ensure!(found[0]["who"] == "gateway" && found[1]["who"] == "agent", "{found}");
    counted(&agent, 2.0).await?;
    crate::until_metric(&agent, "mirador_steering_passed_total", &[("reason", "no_address")], 1.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peers_name_follows_the_last_connect_of_a_socket() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let _agent = rig.agent(json!({}), None).await?;
    let pod = rig.pod(Class::BestEffort)?;
    let found = pod.python(
        CLIENT,
        &["again", "203.0.113.9", "4317", "203.0.113.9", "4319", "203.0.113.9", "4318", "10.213.1.1", "22"],
    )?;
    ensure!(found[0]["peer"] == json!(["203.0.113.9", 4317]), "{found}");
    ensure!(found[1]["peer"] == json!(["203.0.113.9", 4319]), "{found}");
    ensure!(found[2]["peer"] == json!(["203.0.113.9", 4318]), "{found}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_loopback_and_processes_outside_the_pods_are_never_touched() -> Result<()> {
    let Some((mut rig, gateway)) = rig(Driver::Systemd) else { return Ok(()) };
    let agent = rig.agent(json!({}), None).await?;
    let pod = rig.pod(Class::Burstable)?;
    let socket = UdpSocket::bind("203.0.113.9:4317")?;
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = [0_u8; 8];
        for _ in 0..2 {
            let (_, from) = socket.recv_from(&mut buffer)?;
            socket.send_to(b"gateway", from)?;
        }
        Ok(())
    });
    let found = pod.python(CLIENT, &["udp", "203.0.113.9", "4317"])?;
    ensure!(found == json!({"connected": "gateway", "sendto": "gateway"}), "{found}");
    server.join().map_err(|_| anyhow::anyhow!("the datagram server failed"))??;
    let local = pod.python(CLIENT, &["connect", "127.0.0.1", "4317", "::1", "4317"])?;
    ensure!(local[0]["who"] == "ECONNREFUSED" && local[1]["who"] == "ECONNREFUSED", "a sidecar's port: {local}");
    ensure!(gateway.accepted() == 0);
    // This process is in no pod.
    std::net::TcpStream::connect("203.0.113.9:4317")?;
    until("a connect from outside the pods to reach the gateway", WAIT, async || {
        Ok((gateway.accepted() == 1).then_some(()))
    })
    .await?;
    crate::until_metric(&agent, "mirador_steering_passed_total", &[("reason", "destination")], 2.0).await?;
    counted(&agent, 2.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_spreads_connections_over_threads_is_steered_to_and_passed_by_like_any_other() -> Result<()> {
    let Some((mut rig, _gateway)) = rig(Driver::Cgroupfs) else { return Ok(()) };
    let spread = json!({"receiver": {"spread": {"threads": 4}}});
    let mut agent = rig.agent_with(json!({}), spread, None).await?;
    let pod = rig.pod(Class::Burstable)?;
    let count = "40";
    let found = pod.python(CLIENT, &["storm", "203.0.113.9", "4317", count, "4"])?;
    ensure!(found == json!({"agent": 40}), "{found}");
    crate::until_metric(&agent, "mirador_steering_accepted_total", &[("caller", "pod")], 40.0).await?;
    counted(&agent, 40.0).await?;
    agent.kill().await?;
    ensure!(crate::who(&pod, "203.0.113.9", 4317)? == "gateway", "no thread's listener is left");
    agent.restart().await?;
    crate::until_answered(&pod, "agent").await?;
    agent.stop().await?;
    ensure!(crate::who(&pod, "203.0.113.9", 4317)? == "gateway");
    Ok(())
}
