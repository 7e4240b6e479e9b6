//! What a mirror is created with.

use serde::{Deserialize, Serialize};
use spdk_plugin::{Error, Result};
use spdk_plugin_mirror_core::{MAX_LEGS, MAX_NAME};
use uuid::Uuid;

/// The parameters of `bdev_mirror_create`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Create {
    pub(crate) name: String,
    /// Names, aliases or UUIDs of the legs.
    pub(crate) base_bdevs: Vec<String>,
    /// The mirror's, and that of its bdev. Without it, that of the legs, or a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uuid: Option<Uuid>,
    /// Of a new mirror.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) region_size_kb: Option<u32>,
    /// The legs of a new mirror are equal, or nobody cares.
    #[serde(default, skip_serializing)]
    pub(crate) assume_clean: bool,
    /// No leg that is missing has newer data. True once only, so it is not saved.
    #[serde(default, skip_serializing)]
    pub(crate) degraded: bool,
    #[serde(default)]
    pub(crate) rebuild_mb_per_sec: u32,
    #[serde(default = "default_quiet_ms")]
    pub(crate) quiet_ms: u32,
    #[serde(default = "default_max_read_errors")]
    pub(crate) max_read_errors: u32,
    /// Nobody has asked for it: its superblocks were found.
    #[serde(skip)]
    pub(crate) found: bool,
}

fn default_quiet_ms() -> u32 {
    5000
}

fn default_max_read_errors() -> u32 {
    20
}

/// The shortest time after which bits are cleared.
const MIN_QUIET_MS: u32 = 10;

impl Create {
    /// One that was found by its superblocks.
    pub(crate) fn found(name: String, base_bdevs: Vec<String>, uuid: Uuid) -> Self {
        Self {
            name,
            base_bdevs,
            uuid: Some(uuid),
            region_size_kb: None,
            assume_clean: false,
            degraded: false,
            rebuild_mb_per_sec: 0,
            quiet_ms: default_quiet_ms(),
            max_read_errors: default_max_read_errors(),
            found: true,
        }
    }

    pub(crate) fn checked(self) -> Result<Self> {
        let invalid = |text: String| Err(Error::Invalid(text));
        if self.name.is_empty() || self.name.len() > MAX_NAME {
            return invalid(format!(
                "name has {} bytes: it must have 1 to {MAX_NAME}",
                self.name.len()
            ));
        }
        let legs = self.base_bdevs.len();
        if !(1..=MAX_LEGS).contains(&legs) {
            return invalid(format!("base_bdevs names {legs} bdevs: it must name 1 to {MAX_LEGS}"));
        }
        if let Some(long) = self.base_bdevs.iter().find(|name| name.len() > MAX_NAME) {
            return invalid(format!(
                "base_bdevs has a name of {} bytes: {MAX_NAME} are most",
                long.len()
            ));
        }
        let regions = 64..=65536;
        if let Some(kb) =
            self.region_size_kb.filter(|kb| !kb.is_power_of_two() || !regions.contains(kb))
        {
            return invalid(format!(
                "region_size_kb is {kb}: it must be a power of two from 64 to 65536"
            ));
        }
        check_quiet(self.quiet_ms)?;
        Ok(self)
    }
}

/// Refuses a time that cannot be.
pub(crate) fn check_quiet(quiet_ms: u32) -> Result<()> {
    if quiet_ms < MIN_QUIET_MS {
        return Err(Error::Invalid(format!(
            "quiet_ms is {quiet_ms}: it must be {MIN_QUIET_MS} or more"
        )));
    }
    Ok(())
}
