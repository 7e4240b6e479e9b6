//! Builds the JSON configuration file of an SPDK application.

use serde::Serialize;
use serde_json::{Value, json};

/// A configuration: RPC calls by subsystem, in the order in which SPDK makes them.
///
/// ```
/// use spdk_plugin_rig::Config;
///
/// let config = Config::new().bdev(
///     "bdev_malloc_create",
///     serde_json::json!({ "name": "Malloc0", "num_blocks": 2048, "block_size": 512 }),
/// );
/// assert!(config.to_string().contains("Malloc0"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Config {
    subsystems: Vec<(String, Vec<Value>)>,
}

impl Config {
    /// An empty configuration.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a call to `subsystem`. Params that serialize as `null`, such as `()`, are left out, which SPDK 20.07
    /// does not survive in a configuration.
    ///
    /// # Panics
    ///
    /// If `params` cannot be written as JSON.
    #[must_use]
    pub fn call(mut self, subsystem: &str, method: &str, params: impl Serialize) -> Self {
        let params = serde_json::to_value(params).expect("the parameters can be written as JSON");
        let call = match params {
            Value::Null => json!({ "method": method }),
            params => json!({ "method": method, "params": params }),
        };
        match self.subsystems.iter_mut().find(|(name, _)| name == subsystem) {
            Some((_, calls)) => calls.push(call),
            None => self.subsystems.push((subsystem.to_owned(), vec![call])),
        }
        self
    }

    /// Appends a call to the subsystem `bdev`.
    ///
    /// # Panics
    ///
    /// If `params` cannot be written as JSON.
    #[must_use]
    pub fn bdev(self, method: &str, params: impl Serialize) -> Self {
        self.call("bdev", method, params)
    }

    /// Appends a memory disk of SPDK's own.
    #[must_use]
    pub fn malloc(self, name: &str, num_blocks: u64, block_size: u32) -> Self {
        let params = json!({ "name": name, "num_blocks": num_blocks, "block_size": block_size });
        self.bdev("bdev_malloc_create", params)
    }

    /// Appends a disk of SPDK's own that stores nothing.
    #[must_use]
    pub fn null(self, name: &str, num_blocks: u64, block_size: u32) -> Self {
        let params = json!({ "name": name, "num_blocks": num_blocks, "block_size": block_size });
        self.bdev("bdev_null_create", params)
    }

    /// The configuration as a value.
    pub fn to_value(&self) -> Value {
        let subsystem =
            |(name, calls): &(String, Vec<Value>)| json!({ "subsystem": name, "config": calls });
        json!({ "subsystems": self.subsystems.iter().map(subsystem).collect::<Vec<_>>() })
    }
}

impl std::fmt::Display for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.to_value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_grouped_by_subsystem_in_order() {
        let config = Config::new()
            .malloc("M", 8, 512)
            .call("nvmf", "nvmf_set_max_subsystems", json!({ "max_subsystems": 4 }))
            .null("N", 16, 4096)
            .bdev("bdev_wait_for_examine", ());
        assert_eq!(
            config.to_value(),
            json!({ "subsystems": [
                { "subsystem": "bdev", "config": [
                    { "method": "bdev_malloc_create",
                      "params": { "name": "M", "num_blocks": 8, "block_size": 512 } },
                    { "method": "bdev_null_create",
                      "params": { "name": "N", "num_blocks": 16, "block_size": 4096 } },
                    { "method": "bdev_wait_for_examine" },
                ] },
                { "subsystem": "nvmf", "config": [
                    { "method": "nvmf_set_max_subsystems", "params": { "max_subsystems": 4 } },
                ] },
            ] })
        );
    }
}
