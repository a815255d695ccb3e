//! The `hikube` binary.
fn main() {}
