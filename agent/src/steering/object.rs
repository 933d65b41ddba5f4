//! The objects of the BPF programs, when this agent was built with them.

/// Its bytes, aligned as the loader wants them; `None` when `cargo xtask build-ebpf` had not run.
#[cfg_attr(ebpf_object, expect(clippy::unnecessary_wraps, reason = "an agent that was built without it has none"))]
pub(super) fn embedded() -> Option<&'static [u8]> {
    #[cfg(ebpf_object)]
    return Some(aya::include_bytes_aligned!(env!("MIRADOR_EBPF_EMBEDDED")));
    #[cfg(not(ebpf_object))]
    return None;
}

/// The same programs with a log of their own. What writes it is refused before Linux 6.16 from a loader without
/// `CAP_PERFMON`, so it is no part of the other.
#[cfg_attr(ebpf_log_object, expect(clippy::unnecessary_wraps, reason = "an agent that was built without it has none"))]
pub(super) fn logging() -> Option<&'static [u8]> {
    #[cfg(ebpf_log_object)]
    return Some(aya::include_bytes_aligned!(env!("MIRADOR_EBPF_LOG_EMBEDDED")));
    #[cfg(not(ebpf_log_object))]
    return None;
}
