//! The sequence with doubles of the programs, which note how they are called; no cluster is made.

use std::cell::Cell;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;

/// Doubles of the programs in a folder of their own. Each call is a line in `calls`; a call whose line holds a word of
/// the file `failing` fails, and `kind get clusters` prints the file `clusters`.
struct Doubles {
    folder: TempDir,
}

const DOUBLE: &str = "#!/bin/sh
line=\"$(basename \"$0\") $*\"
folder=\"$(dirname \"$0\")/..\"
echo \"$line\" >> \"$folder/calls\"
[ \"$line\" = 'kind get clusters' ] && cat \"$folder/clusters\"
while read -r word; do
  case \"$line\" in *\"$word\"*) exit 1 ;; esac
done < \"$folder/failing\"
exit 0
";

/// Writes a program by another process: one that this process has written cannot be run while a child that is just
/// being made holds its descriptor (`ETXTBSY`).
fn install(text: &str, to: &Path) {
    let mut command = Command::new("sh");
    command.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(to).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

impl Doubles {
    fn of(programs: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for program in programs {
            install(DOUBLE, &bin.join(program));
        }
        // What the doubles themselves call, and nothing else of this machine.
        for tool in ["sh", "basename", "dirname", "cat"] {
            let found =
                ["/bin", "/usr/bin"].map(|place| Path::new(place).join(tool)).into_iter().find(|path| path.exists());
            std::os::unix::fs::symlink(found.unwrap(), bin.join(tool)).unwrap();
        }
        for name in ["calls", "clusters", "failing"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        Self { folder }
    }

    fn say(&self, file: &str, text: &str) {
        fs::write(self.folder.path().join(file), format!("{text}\n")).unwrap();
    }

    fn found(&self) -> Result<Tools, String> {
        Tools::new(self.folder.path().join("bin").into()).found()
    }

    /// The calls after those that ask whether a program is there.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("calls")).unwrap();
        let asked = ["docker info", "podman info", "kind version", "kubectl version --client", "helm version"];
        text.lines().filter(|line| !asked.contains(line)).map(str::to_owned).collect()
    }

    fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// Everything but building and asking the stores; whether it came to asking them.
    fn carry_out(&self, options: &Options) -> (Result<()>, bool) {
        let checked = Cell::new(false);
        let images = || Ok(vec!["/images/agent.tar".into(), "/images/central.tar".into()]);
        let tools = self.found().unwrap();
        let outcome = carry_out(&tools, options, &self.logs(), images, |_| {
            checked.set(true);
            Ok(())
        });
        (outcome, checked.get())
    }
}

const ALL: [&str; 4] = ["docker", "kind", "kubectl", "helm"];
const ORDINARY: Options = Options { keep: false, dockerfiles: false, without_steering: false };

#[test]
fn what_is_missing_is_named_and_podman_serves_as_well() {
    assert!(
        Doubles::of(&["kind", "kubectl", "helm"]).found().is_err_and(|missing| missing.contains("container engine"))
    );
    assert!(
        Doubles::of(&["docker", "kubectl", "helm"]).found().is_err_and(|missing| missing.starts_with("kind is not"))
    );
    assert!(Doubles::of(&["podman", "kind", "kubectl", "helm"]).found().is_ok());
    let silent = Doubles::of(&ALL);
    silent.say("failing", "docker info");
    assert!(silent.found().is_err(), "an engine that does not answer is none");
}

#[test]
fn the_steps_are_these_in_this_order() {
    let doubles = Doubles::of(&ALL);
    let (outcome, checked) = doubles.carry_out(&ORDINARY);
    outcome.unwrap();
    assert!(checked);
    let expected = [
        "kind get clusters",
        "kind create cluster --name mirador-e2e --config tests/kubernetes/e2e/kind.yaml",
        "kind load image-archive --name mirador-e2e /images/agent.tar",
        "kind load image-archive --name mirador-e2e /images/central.tar",
        "kubectl create namespace miradorstack",
        "kubectl apply -n miradorstack -f tests/kubernetes/e2e/backends.yaml",
        "kubectl wait -n miradorstack --timeout=600s --for=condition=available deployment --all",
        "helm install mirador charts/mirador -n miradorstack --values tests/kubernetes/e2e/values.yaml",
        "kubectl wait -n miradorstack --timeout=600s --for=condition=complete job",
        "helm test mirador",
        "kubectl apply -f tests/kubernetes/e2e/stranger.yaml",
        "kind delete cluster --name mirador-e2e",
    ];
    let calls = doubles.calls();
    assert_eq!(calls.len(), expected.len(), "{calls:#?}");
    for (call, begin) in calls.iter().zip(expected) {
        assert!(call.starts_with(begin), "{call:?} does not begin with {begin:?}");
    }
    assert!(calls[7].contains("--set agent.steering.enabled=true") && calls[7].contains("--wait"), "{}", calls[7]);
    assert!(!doubles.logs().exists(), "nothing failed");
}

#[test]
fn every_file_that_a_step_names_is_in_the_checkout() {
    for name in ["kind.yaml", "backends.yaml", "values.yaml", "stranger.yaml"] {
        assert!(root().join("tests/kubernetes/e2e").join(name).is_file(), "{name}");
    }
    assert!(root().join("charts/mirador/Chart.yaml").is_file());
}

#[test]
fn a_cluster_of_somebody_else_is_not_touched() {
    let doubles = Doubles::of(&ALL);
    doubles.say("clusters", "other\nmirador-e2e");
    let (outcome, checked) = doubles.carry_out(&ORDINARY);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("is there already and is not touched") && !checked, "{error}");
    assert_eq!(doubles.calls(), ["kind get clusters"]);
}

#[test]
fn images_that_cannot_be_built_cost_no_cluster() {
    let doubles = Doubles::of(&ALL);
    let tools = doubles.found().unwrap();
    let outcome = carry_out(&tools, &ORDINARY, &doubles.logs(), || anyhow::bail!("it does not compile"), |_| Ok(()));
    assert!(format!("{:#}", outcome.unwrap_err()).contains("does not compile"));
    assert_eq!(doubles.calls(), ["kind get clusters"]);
}

#[test]
fn whatever_fails_the_cluster_is_deleted_and_what_it_said_is_kept() {
    for (failing, logs) in [
        ("kind create", false),
        ("kind load", true),
        ("kubectl wait", true),
        ("helm install", true),
        ("helm test", true),
    ] {
        let doubles = Doubles::of(&ALL);
        doubles.say("failing", failing);
        let (outcome, checked) = doubles.carry_out(&ORDINARY);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(failing) && error.contains("ended with") && !checked, "{failing}: {error}");
        assert_eq!(doubles.calls().last().unwrap(), "kind delete cluster --name mirador-e2e", "{failing}");
        assert_eq!(doubles.logs().join("logs.txt").exists(), logs, "{failing}");
        assert_eq!(doubles.calls().iter().any(|call| call.starts_with("kind export logs")), logs, "{failing}");
    }
}

#[test]
fn a_check_that_fails_is_a_failure_as_well() {
    let doubles = Doubles::of(&ALL);
    let tools = doubles.found().unwrap();
    let outcome = carry_out(&tools, &ORDINARY, &doubles.logs(), || Ok(Vec::new()), |_| anyhow::bail!("no spans"));
    assert!(outcome.unwrap_err().to_string().contains("no spans"));
    assert!(doubles.logs().join("pods.txt").exists());
    assert_eq!(doubles.calls().last().unwrap(), "kind delete cluster --name mirador-e2e");
}

#[test]
fn a_cluster_that_is_to_be_kept_stays_and_without_steering_there_is_no_stranger() {
    let doubles = Doubles::of(&ALL);
    let (outcome, _) = doubles.carry_out(&Options { keep: true, without_steering: true, ..ORDINARY });
    outcome.unwrap();
    let calls = doubles.calls();
    assert!(!calls.iter().any(|call| call.contains("delete cluster") || call.contains("stranger")), "{calls:#?}");
    assert!(calls.iter().any(|call| call.contains("--set agent.steering.enabled=false")), "{calls:#?}");
}

#[test]
fn by_dockerfiles_the_images_have_the_names_that_the_kubelet_looks_for() {
    let doubles = Doubles::of(&ALL);
    let archives = by_dockerfiles(&doubles.found().unwrap()).unwrap();
    let calls = doubles.calls();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        calls[0],
        format!("docker build --file agent/Dockerfile --tag docker.io/library/mirador-agent:{version} .")
    );
    assert!(calls[1].starts_with("docker save --output ") && calls[1].ends_with(&format!("mirador-agent:{version}")));
    assert_eq!((calls.len(), archives.len()), (4, 2));
}

#[test]
fn a_command_that_hangs_is_ended_at_its_limit() {
    let tools = Tools::new(std::env::var_os("PATH").unwrap_or_default());
    let error = tools::run(&mut tools.command("sleep", &["3600"]), Duration::from_millis(50)).unwrap_err();
    assert!(format!("{error:#}").contains("`sleep 3600`: has not ended"), "{error:#}");
}
