//! Every program that the tests and the bench run and have not written: what it is for and how it is
//! built. The version stands in the program's folder under `tests/backends` (or `tests/apps`), nowhere
//! else.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// A program that can be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its name on the command line, and the name of its folder.
    pub name: &'static str,
    /// What it is for, in a few words.
    pub about: &'static str,
    /// How it is built.
    pub build: Build,
    /// Who needs it.
    pub group: Group,
}

/// How a program is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// A Go module of ours; the package is built into one binary with the program's name.
    Go(&'static str),
    /// A Go module of ours; each named package becomes a binary with the given name.
    GoSet(&'static [(&'static str, &'static str)]),
    /// A Maven project whose runtime dependencies become the folder `lib`.
    Maven,
    /// A Python environment with what `requirements.txt` pins.
    Python,
    /// The packages that `package-lock.json` pins, in the folder `node_modules`.
    Node,
}

/// Who needs a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The tests, and `cargo xtask up --backends real`.
    Tests,
    /// Only the bench: what we compare ourselves with.
    Peers,
}

/// All programs, in the order in which they are installed (what most tests need comes first).
pub const PROGRAMS: &[Program] = &[
    Program {
        name: "victoriametrics",
        about: "the metric store",
        build: Build::Go("github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics"),
        group: Group::Tests,
    },
    Program {
        name: "victorialogs",
        about: "a log store that speaks OTLP/HTTP",
        build: Build::Go("github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs"),
        group: Group::Tests,
    },
    Program { name: "cassandra", about: "the log store", build: Build::Maven, group: Group::Tests },
    Program {
        name: "telemetrygen",
        about: "a sender that is not ours",
        build: Build::Go("github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen"),
        group: Group::Tests,
    },
    Program {
        name: "jaeger",
        about: "a trace store that can be queried",
        build: Build::Go("github.com/jaegertracing/jaeger/cmd/all-in-one"),
        group: Group::Tests,
    },
    Program {
        name: "kubernetes",
        about: "a control plane with fake nodes, helm and kubectl",
        build: Build::GoSet(&[
            ("etcd", "go.etcd.io/etcd/server/v3"),
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            ("helm", "helm.sh/helm/v4/cmd/helm"),
            ("helm3", "helm.sh/helm/v3/cmd/helm"),
        ]),
        group: Group::Tests,
    },
    Program {
        name: "scikitlearn",
        about: "the isolation forest that ours is measured against",
        build: Build::Python,
        group: Group::Tests,
    },
    Program {
        name: "app-python",
        about: "an application of stock OpenTelemetry SDKs in Python",
        build: Build::Python,
        group: Group::Tests,
    },
    Program {
        name: "app-go",
        about: "an application of stock OpenTelemetry SDKs in Go",
        build: Build::Go("."),
        group: Group::Tests,
    },
    Program {
        name: "app-node",
        about: "an application of stock OpenTelemetry SDKs in Node",
        build: Build::Node,
        group: Group::Tests,
    },
    Program {
        name: "collectorspanmetrics",
        about: "the OpenTelemetry Collector with the span metrics connector",
        build: Build::Go("."),
        group: Group::Peers,
    },
    Program {
        name: "collector",
        about: "the OpenTelemetry Collector that forwards and balances load",
        build: Build::Go("."),
        group: Group::Peers,
    },
];

impl Program {
    /// The program called `name`.
    pub fn find(name: &str) -> Result<Self> {
        if let Some(program) = PROGRAMS.iter().find(|program| program.name == name) {
            return Ok(*program);
        }
        let names: Vec<_> = PROGRAMS.iter().map(|program| program.name).collect();
        bail!("there is no backend {name}; there are: {}", names.join(", "))
    }

    /// The programs of `group` whose folder is in the checkout.
    pub fn of(group: Group) -> impl Iterator<Item = Self> {
        PROGRAMS.iter().copied().filter(move |program| program.group == group && program.folder().is_dir())
    }

    /// The folder in the checkout that pins it.
    pub fn folder(&self) -> PathBuf {
        let tests = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        match self.name.strip_prefix("app-") {
            Some(language) => tests.join("apps").join(language),
            None => tests.join("backends").join(self.name),
        }
    }

    /// The endings of the files that pin it.
    pub fn endings(&self) -> &'static [&'static str] {
        match self.build {
            Build::Go(_) | Build::GoSet(_) => &["go", "mod", "sum"],
            Build::Maven => &["xml"],
            Build::Python => &["txt"],
            Build::Node => &["json"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_has_its_folder_and_its_pins() {
        for program in PROGRAMS.iter().filter(|program| !program.name.starts_with("app-")) {
            let folder = program.folder();
            let pins: &[&str] = match program.build {
                Build::Go(_) | Build::GoSet(_) => &["go.mod", "go.sum"],
                Build::Maven => &["pom.xml"],
                Build::Python => &["requirements.txt"],
                Build::Node => &["package.json", "package-lock.json"],
            };
            for pin in pins {
                assert!(folder.join(pin).is_file(), "{pin} is missing in {}", folder.display());
            }
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = Program::find("victoria").unwrap_err().to_string();
        assert!(error.contains("victoriametrics") && error.contains("jaeger"), "{error}");
    }
}
