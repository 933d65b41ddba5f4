//! Logs to stderr, and what the operating system says about the process.
//!
//! Never writes to stdout: that belongs to what a command prints. Initialised once, in `main`.

mod process;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

pub use process::register_process_metrics;

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or levels by module, comma
    /// separated: `info,mirador_transport=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is no level.
    #[error("log.level: {level:?}: {reason}; expected error, warn, info, debug, trace, off, or module=level pairs")]
    Level {
        /// As configured.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A subscriber is already set.
    #[error("logging is already initialised in this process")]
    Twice,
}

impl LogConfig {
    /// Checks the level without setting anything up.
    pub fn validate(&self) -> Result<(), TelemetryError> {
        self.filter().map(drop)
    }

    fn filter(&self) -> Result<EnvFilter, TelemetryError> {
        let wrong = |reason: String| TelemetryError::Level { level: self.level.clone(), reason };
        if self.level.trim().is_empty() {
            return Err(wrong("it is empty".to_owned()));
        }
        // A single word is a module name to the filter when it is no level, and would silence
        // everything else; that is a typing error here.
        let parts: Vec<_> = self.level.split(',').map(str::trim).collect();
        for part in &parts {
            if !part.contains('=')
                && !part.contains('[')
                && part.parse::<tracing_subscriber::filter::LevelFilter>().is_err()
            {
                return Err(wrong(format!("{part:?} is no level")));
            }
        }
        EnvFilter::try_new(parts.join(",")).map_err(|error| wrong(error.to_string()))
    }
}

/// Sends log lines to stderr as configured; `name` is the process's name, on the first line.
pub fn init(name: &str, config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = config.filter()?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match config.format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    set.map_err(|_| TelemetryError::Twice)?;
    tracing::info!(process = name, version = env!("CARGO_PKG_VERSION"), level = config.level, "starting");
    Ok(())
}

#[cfg(test)]
mod tests;
