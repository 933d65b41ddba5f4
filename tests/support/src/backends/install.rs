//! Builds a program into the cache when it is not there: one call, safe to make from many processes.
//!
//! Never: installs a toolchain, switches a checksum off, retries in silence. A failure shows the end of
//! the build's log, where the whole log is, and what would be right.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::cache::{self, Cache};
use super::catalog::{Build, Program};

/// Changes when the way of building changes, so that what an older recipe built is not taken for ours.
const RECIPE: &str = "1";

/// The plugin that copies Cassandra's class path together.
const MAVEN_COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";

/// What an installation is doing.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Another process is building it.
    Waiting,
    /// The build runs since so long.
    Building(Duration),
    /// It has been built in that time.
    Built(Duration),
}

/// Is told what happens; called at least once a second while a build runs.
pub type Report<'a> = &'a mut dyn FnMut(&Program, Step);

/// Where `program` is installed, or `None` when it is not.
pub fn installed(cache: &Cache, program: &Program) -> Result<Option<PathBuf>> {
    let entry = entry(cache, program)?;
    Ok(Cache::is_complete(&entry).then_some(entry))
}

/// Makes sure that `program` is installed and returns its folder.
pub fn install(cache: &Cache, program: &Program, report: Report<'_>) -> Result<PathBuf> {
    let entry = entry(cache, program)?;
    if Cache::is_complete(&entry) {
        return Ok(entry);
    }
    let _lock = cache.lock(program.name, || report(program, Step::Waiting))?;
    if Cache::is_complete(&entry) {
        return Ok(entry);
    }
    let started = Instant::now();
    let build = |to: &Path| {
        for command in commands(program, to) {
            run(cache, program, command, started, report)?;
        }
        Ok(())
    };
    match program.build {
        Build::Python => Cache::put_in_place(&entry, build),
        Build::Go(_) | Build::GoSet(_) | Build::Maven | Build::Node => cache.put(&entry, build),
    }
    .with_context(|| format!("cannot install {} ({})", program.name, program.about))?;
    report(program, Step::Built(started.elapsed()));
    Ok(entry)
}

/// [`install`] by name into the cache that the environment names, with plain lines on stderr: what a
/// test calls. The path is the binary's for a single Go program and the folder's otherwise.
#[expect(clippy::print_stderr, reason = "a build of minutes inside a test must say why nothing moves")]
pub fn ensure(name: &str) -> Result<PathBuf> {
    let program = Program::find(name)?;
    let mut announced = false;
    let folder = install(&Cache::locate()?, &program, &mut |program, step| match step {
        Step::Waiting => eprintln!("backends: {} is being built by another process, waiting", program.name),
        Step::Building(_) if !std::mem::replace(&mut announced, true) => {
            eprintln!("backends: building {} ({})", program.name, program.about);
        }
        Step::Building(_) => {}
        Step::Built(took) => eprintln!("backends: built {} in {:.0} s", program.name, took.as_secs_f64()),
    })?;
    Ok(program_path(&program, &folder))
}

/// What is run or used inside the folder of an installed program.
pub fn program_path(program: &Program, folder: &Path) -> PathBuf {
    match program.build {
        Build::Go(_) => folder.join(program.name),
        Build::GoSet(_) => folder.to_owned(),
        Build::Maven => folder.join("lib"),
        Build::Python => folder.join("bin").join("python"),
        Build::Node => folder.join("node_modules"),
    }
}

fn entry(cache: &Cache, program: &Program) -> Result<PathBuf> {
    let key = cache::key(RECIPE, &program.folder(), program.endings())?;
    Ok(cache.entry(program.name, &key))
}

fn commands(program: &Program, to: &Path) -> Vec<Command> {
    let folder = program.folder();
    match program.build {
        Build::Go(package) => vec![go(&folder, &to.join(program.name), package)],
        Build::GoSet(packages) => packages.iter().map(|(name, package)| go(&folder, &to.join(name), package)).collect(),
        Build::Maven => {
            let mut mvn = Command::new("mvn");
            mvn.args(["-B", "-q", "-f"]).arg(folder.join("pom.xml")).arg(MAVEN_COPY).arg("-DincludeScope=runtime");
            mvn.arg(format!("-DoutputDirectory={}", to.join("lib").display()));
            vec![in_folder(mvn, &folder)]
        }
        Build::Python => {
            let mut venv = Command::new("python3");
            venv.args(["-m", "venv"]).arg(to);
            let mut pip = Command::new(to.join("bin").join("python"));
            pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet", "-r"]);
            pip.arg(folder.join("requirements.txt"));
            vec![in_folder(venv, &folder), in_folder(pip, &folder)]
        }
        Build::Node => {
            let mut copy = Command::new("cp");
            copy.args([folder.join("package.json"), folder.join("package-lock.json")]).arg(to);
            let mut npm = Command::new("npm");
            npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
            vec![copy, in_folder(npm, to)]
        }
    }
}

fn go(folder: &Path, binary: &Path, package: &str) -> Command {
    let mut go = Command::new("go");
    // The installed toolchain or none: a module that wants a newer one fails with its version.
    go.env("GOFLAGS", "-trimpath -buildvcs=false").env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0");
    let flags = format!("-s -w{}", stamp(&fs::read_to_string(folder.join("go.mod")).unwrap_or_default()));
    go.args(["build", "-p", "2", "-ldflags", &flags, "-o"]).arg(binary).arg(package);
    in_folder(go, folder)
}

/// Linker flags that tell Kubernetes' programs their version, which they know from nowhere else and refuse
/// to be without; empty for a module that does not pin Kubernetes.
fn stamp(go_mod: &str) -> String {
    let version = go_mod.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
    let Some(version) = version else { return String::new() };
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let of = |package: &str| {
        format!(" -X {package}.gitVersion=v{version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}")
    };
    of("k8s.io/component-base/version") + &of("k8s.io/client-go/pkg/version")
}

fn in_folder(mut command: Command, folder: &Path) -> Command {
    command.current_dir(folder);
    command
}

fn run(cache: &Cache, program: &Program, mut command: Command, started: Instant, report: Report<'_>) -> Result<()> {
    let log = cache.log(program.name);
    fs::create_dir_all(cache.root().join("log"))?;
    let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("cannot run {name}: {}", missing(&name)))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        report(program, Step::Building(started.elapsed()));
        std::thread::sleep(Duration::from_millis(100));
    };
    if status.success() {
        return Ok(());
    }
    let text = fs::read_to_string(&log).unwrap_or_default();
    bail!("{name} ended with {status}\n{}\nwhole log: {}\n{}", tail(&text, 25), log.display(), advice(&text))
}

/// What to do when the program `name` cannot be started.
fn missing(name: &str) -> &'static str {
    match name {
        "go" => "install Go 1.26 or newer and put it on PATH",
        "mvn" => "install Maven 3.8 or newer and JDK 17 (Debian: apt-get install maven openjdk-17-jdk-headless)",
        "python3" => "install Python 3 (Debian: apt-get install python3 python3-venv)",
        "npm" => "install Node 20 with npm (Debian: apt-get install nodejs npm)",
        _ => "it must be on PATH",
    }
}

/// What would be right, judged by what a failed build has written.
fn advice(log: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| log.contains(word));
    if has(&["no space left on device"]) {
        "Free some disk, or set MIRADOR_CACHE (and GOCACHE) to a folder that has it."
    } else if has(&["checksum mismatch", "missing go.sum entry"]) {
        "go.mod and go.sum disagree with what is served: run `go mod tidy` in the program's folder after a version change, and look closely when there was none."
    } else if has(&["requires go >=", "toolchain not available"]) {
        "The module wants a newer Go than the one on PATH: install the version that the log names."
    } else if has(&["ensurepip is not available", "No module named venv"]) {
        "Python has no venv module (Debian: apt-get install python3-venv)."
    } else if has(&["JAVA_HOME", "Unsupported class file", "No compiler is provided"]) {
        "Maven needs JDK 17: install it or set JAVA_HOME to it."
    } else if has(&[
        "dial tcp",
        "no such host",
        "i/o timeout",
        "Connection refused",
        "Could not transfer",
        "NewConnectionError",
        "403 Forbidden",
        "npm error code E403",
        "ENOTFOUND",
        "ECONNREFUSED",
        "unknown host",
    ]) {
        "The package registry cannot be reached or refuses: check the network, or point GOPROXY, Maven's settings.xml, PIP_INDEX_URL or npm's `registry` to a mirror."
    } else {
        "The end of the log names the cause; the pinned version stands in the program's folder under tests."
    }
}

/// The last `lines` lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_build_says_what_would_be_right() {
        assert!(advice("go: module x requires go >= 1.99").contains("newer Go"));
        assert!(advice("write /x: no space left on device").contains("MIRADOR_CACHE"));
        assert!(advice("dial tcp: lookup: no such host").contains("GOPROXY"));
        assert!(advice("verifying x: checksum mismatch").contains("go.sum"));
    }

    #[test]
    fn kubernetes_is_linked_with_its_version_and_nothing_else_is() {
        let flags = stamp("require (\n\tk8s.io/kubernetes v1.36.3\n)");
        assert!(flags.contains("-X k8s.io/component-base/version.gitVersion=v1.36.3 "), "{flags}");
        assert!(flags.ends_with("-X k8s.io/client-go/pkg/version.gitMinor=36"), "{flags}");
        assert_eq!(stamp("require x v1.0.0"), "");
    }

    #[test]
    fn the_tail_is_the_end_of_the_text() {
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn a_command_that_cannot_run_names_what_to_install() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let program = Program::find("jaeger").unwrap();
        let command = Command::new("mirador-no-such-program");
        let error = run(&cache, &program, command, Instant::now(), &mut |_, _| ()).unwrap_err();
        assert!(format!("{error:#}").contains("must be on PATH"), "{error:#}");
    }

    #[test]
    fn a_command_that_fails_shows_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let program = Program::find("jaeger").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo no space left on device >&2; exit 3"]);
        let error = run(&cache, &program, command, Instant::now(), &mut |_, _| ()).unwrap_err().to_string();
        for part in ["exit status: 3", "first\nno space left", "jaeger.log", "Free some disk"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
