//! Lets the agent copy the records from and to the kernel.
#![expect(unsafe_code, reason = "the trait promises that every bit pattern is a value, which is checked below")]

use crate::{Config, Counters, Event, Flow, Instance, Introduction, Origin, Tuple};

// SAFETY: `repr(C)`, integers only, no hidden padding (sizes are asserted in lib.rs).
unsafe impl aya::Pod for Config {}
// SAFETY: as above.
unsafe impl aya::Pod for Counters {}
// SAFETY: as above.
unsafe impl aya::Pod for Event {}
// SAFETY: as above.
unsafe impl aya::Pod for Flow {}
// SAFETY: as above.
unsafe impl aya::Pod for Instance {}
// SAFETY: as above.
unsafe impl aya::Pod for Introduction {}
// SAFETY: as above.
unsafe impl aya::Pod for Origin {}
// SAFETY: as above.
unsafe impl aya::Pod for Tuple {}
