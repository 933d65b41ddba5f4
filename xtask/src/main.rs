//! The only developer door: `cargo xtask <verb>`.
//!
//! One file per verb, each with its `Options` and its `run`; this file only names them. Never: does what
//! a verb of cargo already does alone, needs a tool that the verb does not check for.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to its user")]

mod backends;
mod bench;
mod build_ebpf;
mod chart;
mod ci;
mod codegen;
mod docs;
mod e2e;
mod image;
mod test;
mod test_kernels;
mod tidy;
mod up;
mod workspace;

use clap::{Parser, Subcommand};

/// Builds, checks, tests and runs Mirador.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Up(up::Options),
    Test(test::Options),
    TestKernels(test_kernels::Options),
    Ci(ci::Options),
    Tidy(tidy::Options),
    Backends(backends::Options),
    Bench(bench::Options),
    BuildEbpf(build_ebpf::Options),
    Codegen(codegen::Options),
    Docs(docs::Options),
    Chart(chart::Options),
    Image(image::Options),
    E2e(e2e::Options),
}

fn main() -> std::process::ExitCode {
    let result = match Cli::parse().verb {
        Verb::Up(options) => up::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::TestKernels(options) => test_kernels::run(&options),
        Verb::Ci(options) => ci::run(&options),
        Verb::Tidy(options) => tidy::run(&options),
        Verb::Backends(options) => backends::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::BuildEbpf(options) => build_ebpf::run(&options),
        Verb::Codegen(options) => codegen::run(&options),
        Verb::Docs(options) => docs::run(&options),
        Verb::Chart(options) => chart::run(&options),
        Verb::Image(options) => image::run(&options),
        Verb::E2e(options) => e2e::run(&options),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_every_verb_says_what_it_does() {
        let mut command = super::Cli::command();
        command.build();
        command.clone().debug_assert();
        for verb in command.get_subcommands() {
            assert!(verb.get_about().is_some(), "{} has no help", verb.get_name());
            for argument in verb.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no help", verb.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn contributing_lists_every_verb_and_no_other() {
        let page = std::fs::read_to_string(super::workspace::root().join("CONTRIBUTING.md")).unwrap();
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `cargo xtask ")?.split_once('`'));
        let mut listed: Vec<_> = rows.map(|(verb, _)| verb.to_owned()).collect();
        let command = super::Cli::command();
        let mut verbs: Vec<_> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
        listed.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(listed, verbs);
    }
}
