//! What the RPC methods take.

use serde::{Deserialize, Serialize};
use spdk_plugin::{Error, Result};
use spdk_plugin_tier_core::Mode;
use uuid::Uuid;

/// Where writes go.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WriteMode {
    #[default]
    WriteBack,
    WriteThrough,
    Pass,
}

impl From<WriteMode> for Mode {
    fn from(mode: WriteMode) -> Self {
        match mode {
            WriteMode::WriteBack => Self::WriteBack,
            WriteMode::WriteThrough => Self::WriteThrough,
            WriteMode::Pass => Self::Pass,
        }
    }
}

/// The parameters of `bdev_tier_create`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Create {
    pub(crate) name: String,
    pub(crate) fast: String,
    pub(crate) slow: String,
    /// By default that of the pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uuid: Option<Uuid>,
    /// In bytes; that of the pair if there is one already.
    #[serde(default = "default_line_size")]
    pub(crate) line_size: u32,
    /// Whether volatile bases are flushed where the order of writes matters.
    #[serde(default = "yes")]
    pub(crate) barriers: bool,
    #[serde(default)]
    mode: WriteMode,
    /// Per cent of the lines.
    #[serde(default = "default_high")]
    high_watermark: u32,
    /// Per cent of the lines.
    #[serde(default = "default_low")]
    low_watermark: u32,
    /// 0: as fast as it goes.
    #[serde(default)]
    write_back_mb_per_sec: u32,
    /// 0: reads in a row are like others.
    #[serde(default = "default_cutoff")]
    sequential_cutoff_kb: u32,
    #[serde(default)]
    flush_on_exit: bool,
    /// Make a pair of bases that are none.
    #[serde(default, skip_serializing)]
    pub(crate) format: bool,
    /// Give up what may only be in a cache.
    #[serde(default, skip_serializing)]
    pub(crate) force: bool,
}

/// What can be changed later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) mode: WriteMode,
    pub(crate) high_watermark: u32,
    pub(crate) low_watermark: u32,
    pub(crate) write_back_mb_per_sec: u32,
    pub(crate) sequential_cutoff_kb: u32,
    pub(crate) flush_on_exit: bool,
}

/// The parameters of `bdev_tier_set`. What is absent stays.
#[derive(Debug, Deserialize)]
pub(crate) struct Set {
    pub(crate) name: String,
    mode: Option<WriteMode>,
    high_watermark: Option<u32>,
    low_watermark: Option<u32>,
    write_back_mb_per_sec: Option<u32>,
    sequential_cutoff_kb: Option<u32>,
    flush_on_exit: Option<bool>,
}

fn default_line_size() -> u32 {
    16 << 10
}

fn default_high() -> u32 {
    60
}

fn default_low() -> u32 {
    40
}

fn default_cutoff() -> u32 {
    1024
}

fn yes() -> bool {
    true
}

impl Settings {
    pub(crate) fn check(&self) -> Result<()> {
        let Self { high_watermark: high, low_watermark: low, .. } = *self;
        if high > 100 || low > high {
            return Err(Error::Invalid(format!(
                "high_watermark is {high} and low_watermark {low}; they are per cent, and the low one is not \
                 above the high one"
            )));
        }
        Ok(())
    }

    pub(crate) fn with(self, set: &Set) -> Self {
        Self {
            mode: set.mode.unwrap_or(self.mode),
            high_watermark: set.high_watermark.unwrap_or(self.high_watermark),
            low_watermark: set.low_watermark.unwrap_or(self.low_watermark),
            write_back_mb_per_sec: set.write_back_mb_per_sec.unwrap_or(self.write_back_mb_per_sec),
            sequential_cutoff_kb: set.sequential_cutoff_kb.unwrap_or(self.sequential_cutoff_kb),
            flush_on_exit: set.flush_on_exit.unwrap_or(self.flush_on_exit),
        }
    }
}

impl Create {
    pub(crate) fn check(&self) -> Result<()> {
        let line = self.line_size;
        if !line.is_power_of_two() || !(4096..=65536).contains(&line) {
            return Err(Error::Invalid(format!(
                "line_size is {line}; it must be a power of two from 4096 to 65536"
            )));
        }
        if self.fast == self.slow {
            return Err(Error::Invalid(format!(
                "fast and slow are both {:?}; a tier needs two bdevs",
                self.fast
            )));
        }
        self.settings().check()
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            mode: self.mode,
            high_watermark: self.high_watermark,
            low_watermark: self.low_watermark,
            write_back_mb_per_sec: self.write_back_mb_per_sec,
            sequential_cutoff_kb: self.sequential_cutoff_kb,
            flush_on_exit: self.flush_on_exit,
        }
    }

    /// Without leave to overwrite anything.
    pub(crate) fn without_permits(self) -> Self {
        Self { format: false, force: false, ..self }
    }

    pub(crate) fn with(self, settings: Settings) -> Self {
        Self {
            mode: settings.mode,
            high_watermark: settings.high_watermark,
            low_watermark: settings.low_watermark,
            write_back_mb_per_sec: settings.write_back_mb_per_sec,
            sequential_cutoff_kb: settings.sequential_cutoff_kb,
            flush_on_exit: settings.flush_on_exit,
            ..self
        }
    }
}
