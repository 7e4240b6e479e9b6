//! The crash model: the cache's own code over disks in memory, with every operation on them taking its
//! turn in an order that a seed decides. At any step the power may go, or the process; then the cache is
//! loaded from what is left, and every block must have what was acknowledged, or something newer.
//!
//! `SPDK_PLUGIN_TEST_ROUNDS` says how many seeds are tried, `TIER_MODEL_SEED` tries one alone.

mod history;
mod run;
mod sim;
mod tests;
