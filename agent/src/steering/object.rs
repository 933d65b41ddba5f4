//! The object of the BPF programs, when this agent was built with one.

/// Its bytes, aligned as the loader wants them; `None` when `cargo xtask build-ebpf` had not run.
#[cfg_attr(ebpf_object, expect(clippy::unnecessary_wraps, reason = "an agent that was built without it has none"))]
pub(super) fn embedded() -> Option<&'static [u8]> {
    #[cfg(ebpf_object)]
    return Some(aya::include_bytes_aligned!(env!("MIRADOR_EBPF_EMBEDDED")));
    #[cfg(not(ebpf_object))]
    return None;
}
