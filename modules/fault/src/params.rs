//! Rules as RPC methods take and show them.

use serde::{Deserialize, Serialize};
use serde_json::json;
use spdk_plugin::module::{IoError, IoKind, IoKinds, IoResult};

use crate::damage::How;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// The request fails.
    Fail,
    /// The data of a read, or of a write on its way, are changed.
    Corrupt,
    /// The request goes to other blocks.
    Misdirect,
    /// The request is not carried out, and said to be.
    Drop,
    /// Of a write only the first blocks are carried out, and all are said to be.
    Tear,
    /// The request does not end until it is released, aborted or reset.
    Stick,
}

/// A kind of request, by SPDK's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IoType {
    Read,
    Write,
    Unmap,
    Flush,
    WriteZeroes,
    Compare,
    CompareAndWrite,
    Copy,
    ZoneAppend,
    /// Each of these that the fault can be done to.
    All,
}

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Success,
    Failed,
    Nomem,
    Aborted,
    Miscompare,
    Nvme { sct: u8, sc: u8 },
    Scsi { sc: u8, sk: u8, asc: u8, ascq: u8 },
    Errno(i32),
}

/// Whether a request fails or sticks before it is carried out, or afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum When {
    #[default]
    Before,
    After,
}

/// A rule.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleParams {
    /// Its number, by default the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<u64>,
    pub(crate) fault: Fault,
    #[serde(default = "all")]
    pub(crate) io_types: Vec<IoType>,
    /// The first of the blocks that a request must touch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_block: Option<u64>,
    /// The number of these blocks, by default all to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) num_blocks: Option<u64>,
    /// So many requests go well first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) skip: Option<u64>,
    /// So many go wrong, and all others after them go well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
    /// The share of requests that go wrong, above 0 and up to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) probability: Option<f64>,
    /// How a request ends that has gone wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Status>,
    /// Of `fail` and `stick`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) when: Option<When>,
    /// Of `corrupt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) how: Option<How>,
    /// Of `corrupt`: how many bits are flipped, by default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bits: Option<u64>,
    /// Of `corrupt`: how many blocks of a request are hit, by default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) blocks: Option<u64>,
    /// Of `misdirect`: where requests go, by default anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to_block: Option<u64>,
    /// Of `tear`: how many blocks are written, by default any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keep_blocks: Option<u64>,
}

fn all() -> Vec<IoType> {
    vec![IoType::All]
}

/// The most bits that are flipped at once: what is allocated goes by them.
pub(crate) const MOST_BITS: u64 = 4096;

impl Fault {
    /// What it can be done to.
    pub(crate) fn kinds(self) -> IoKinds {
        let changes = IoKinds::WRITE.and(IoKinds::UNMAP).and(IoKinds::WRITE_ZEROES);
        let more = IoKinds::COPY.and(IoKinds::COMPARE_AND_WRITE).and(IoKinds::ZONE_APPEND);
        match self {
            Self::Fail | Self::Stick => {
                let reads = IoKinds::READ.and(IoKinds::COMPARE);
                changes.and(more).and(reads).and(IoKinds::FLUSH)
            }
            Self::Corrupt => IoKinds::READ.and(IoKinds::WRITE),
            Self::Misdirect => changes.and(IoKinds::READ),
            Self::Drop => changes.and(IoKinds::FLUSH).and(IoKinds::COPY),
            Self::Tear => IoKinds::WRITE,
        }
    }

    /// How a request ends by default.
    pub(crate) fn status(self) -> Status {
        if self == Self::Fail { Status::Failed } else { Status::Success }
    }
}

impl IoType {
    pub(crate) fn kind(self) -> Option<IoKind> {
        Some(match self {
            Self::Read => IoKind::Read,
            Self::Write => IoKind::Write,
            Self::Unmap => IoKind::Unmap,
            Self::Flush => IoKind::Flush,
            Self::WriteZeroes => IoKind::WriteZeroes,
            Self::Compare => IoKind::Compare,
            Self::CompareAndWrite => IoKind::CompareAndWrite,
            Self::Copy => IoKind::Copy,
            Self::ZoneAppend => IoKind::ZoneAppend,
            Self::All => return None,
        })
    }
}

impl Status {
    pub(crate) fn result(self) -> IoResult {
        Err(match self {
            Self::Success => return Ok(()),
            Self::Failed => IoError::Failed,
            Self::Nomem => IoError::NoMemory,
            Self::Aborted => IoError::Aborted,
            Self::Miscompare => IoError::Miscompare,
            Self::Nvme { sct, sc } => IoError::Nvme { cdw0: 0, sct, sc },
            Self::Scsi { sc, sk, asc, ascq } => IoError::Scsi { sc, sk, asc, ascq },
            Self::Errno(errno) => IoError::Errno(errno),
        })
    }

    fn is_success(self) -> bool {
        match self {
            Self::Success => true,
            Self::Nvme { sct, sc } => sct == 0 && sc == 0,
            Self::Scsi { sc, .. } => sc == 0,
            Self::Errno(errno) => errno <= 0,
            Self::Failed | Self::Nomem | Self::Aborted | Self::Miscompare => false,
        }
    }
}

impl RuleParams {
    /// Says what cannot be.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.check_fit()?;
        for (name, value) in [
            ("num_blocks", self.num_blocks),
            ("count", self.count),
            ("bits", self.bits),
            ("blocks", self.blocks),
        ] {
            if value == Some(0) {
                return Err(format!("{name} is 0; it must be 1 at least, or left out"));
            }
        }
        if let Some(bits) = self.bits.filter(|bits| *bits > MOST_BITS) {
            return Err(format!("bits is {bits}; it can be {MOST_BITS} at most"));
        }
        if let Some(probability) = self.probability
            && !(probability > 0.0 && probability <= 1.0)
        {
            return Err(format!("probability is {probability}; it must be above 0, and 1 at most"));
        }
        let first = self.first_block.unwrap_or(0);
        if self.num_blocks.is_some_and(|count| first.checked_add(count).is_none()) {
            return Err(format!("first_block {first} and num_blocks are too large together"));
        }
        if self.fault == Fault::Fail && self.status.is_some_and(Status::is_success) {
            return Err("status is a success, and the fault is \"fail\"; choose an error".into());
        }
        Ok(())
    }

    /// Whether the fault goes together with the kinds and with what is said of it.
    fn check_fit(&self) -> Result<(), String> {
        let (fault, kinds) = (self.fault, self.fault.kinds());
        if self.io_types.is_empty() {
            return Err("io_types is empty; leave it out for all of them".into());
        }
        for io_type in &self.io_types {
            if io_type.kind().is_some_and(|kind| !kinds.contains(kind)) {
                let (fault, io_type) = (json!(fault), json!(io_type));
                return Err(format!("fault {fault} cannot be done to io_type {io_type}"));
            }
        }
        for (name, given, of) in [
            ("when", self.when.is_some(), &[Fault::Fail, Fault::Stick][..]),
            ("how", self.how.is_some(), &[Fault::Corrupt]),
            ("bits", self.bits.is_some(), &[Fault::Corrupt]),
            ("blocks", self.blocks.is_some(), &[Fault::Corrupt]),
            ("to_block", self.to_block.is_some(), &[Fault::Misdirect]),
            ("keep_blocks", self.keep_blocks.is_some(), &[Fault::Tear]),
        ] {
            if given && !of.contains(&fault) {
                let (of, fault) = (json!(of), json!(fault));
                return Err(format!("{name} is for the fault {of}, and this is {fault}"));
            }
        }
        Ok(())
    }
}
