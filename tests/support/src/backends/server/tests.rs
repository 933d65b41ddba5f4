//! A shell stands in for a backend: it is the same child to the code under test.

use super::*;
use crate::backends::ports;

fn shell(folder: &Path, script: &str, port: u16) -> Spec {
    Spec {
        name: "shell".into(),
        program: "sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("WORD".into(), "hello".into())],
        folder: folder.into(),
        ready: Ready::Tcp(SocketAddr::from(([127, 0, 0, 1], port))),
    }
}

fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_child_that_ends_early_is_reported_with_the_end_of_its_output() {
    let folder = tempfile::tempdir().unwrap();
    let spec = shell(folder.path(), "echo $WORD, no such flag >&2; exit 7", ports::free().unwrap());
    let error = Server::start(spec).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 7") && error.contains("hello, no such flag"), "{error}");
}

#[tokio::test]
async fn a_child_is_paused_resumed_stopped_restarted_and_dies_with_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let port = ports::free().unwrap();
    // The test itself listens: the child only has to live.
    let _listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut server = Server::start(shell(folder.path(), "exec sleep 600", port)).await.unwrap();
    let first = server.pid().unwrap();
    server.pause();
    server.resume();
    assert!(runs(first) && server.exited().unwrap().is_none());
    server.pause();
    server.stop().await.unwrap();
    assert!(!runs(first) && server.pid().is_none());
    server.restart().await.unwrap();
    let second = server.pid().unwrap();
    server.kill().await.unwrap();
    assert!(!runs(second));
    server.restart().await.unwrap();
    let third = server.pid().unwrap();
    drop(server);
    assert!(!runs(third));
}

#[test]
fn a_child_outlives_the_thread_that_asked_for_it() {
    let child = std::thread::spawn(|| {
        let mut command = guarded(Path::new("sleep"));
        command.arg("600");
        spawn(command).unwrap()
    });
    // The kernel's signal would come when the asking thread ends; joining has waited for that.
    let mut child = child.join().unwrap();
    assert!(runs(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
}
