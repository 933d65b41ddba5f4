//! The end-to-end tests stand in `e2e/`: one binary, linked once.
