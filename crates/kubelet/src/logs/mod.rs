//! Container logs in the CRI format (`<time> <stream> <F|P> <text>`): reading, following, rotating.

mod follow;
mod line;
mod read;
mod rotate;

pub use read::{Options, stream};
pub use rotate::run as rotate;
