//! Which CPUs an SPDK process runs on.

use std::mem::{MaybeUninit, size_of};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Cores of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    /// So many, from those this process may use.
    Count(usize),
    /// A mask or list in SPDK's own notation.
    Mask(String),
}

/// A process' cores in SPDK's notation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// For `-m`.
    Mask(String),
    /// Several lcores share a CPU: for `--lcores`.
    Lcores(String),
}

impl Cores {
    pub(crate) fn choose(&self) -> Result<Choice> {
        // Hosts side by side start at different CPUs, and so do test processes.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        match self {
            Self::Mask(mask) => Ok(Choice::Mask(mask.clone())),
            Self::Count(0) => {
                Err(Error::Invalid("a host needs at least one core: ask for 1 or more".into()))
            }
            Self::Count(count) => {
                let turn = NEXT.fetch_add(*count, Ordering::Relaxed);
                Ok(pick(&cpus(), *count, turn + std::process::id() as usize))
            }
        }
    }
}

/// Takes `count` of `cpus`, the first one by `turn`; with fewer CPUs than that, they are shared.
fn pick(cpus: &[usize], count: usize, turn: usize) -> Choice {
    let list = |cpus: &[usize]| cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    if count > cpus.len() {
        return Choice::Lcores(format!("(0-{})@({})", count - 1, list(cpus)));
    }
    let mut picked: Vec<_> = (0..count).map(|i| cpus[(turn + i) % cpus.len()]).collect();
    picked.sort_unstable();
    Choice::Mask(format!("[{}]", list(&picked)))
}

/// The CPUs that this process may run on; CPU 0 if the system does not say.
pub fn cpus() -> Vec<usize> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: `set` is writable memory of the size given, and all zeroes is an empty set.
    let set = unsafe {
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) != 0 {
            return vec![0];
        }
        set.assume_init()
    };
    // SAFETY: the index stays below the number of bits in the set.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_take_turns() {
        let mask = |text: &str| Choice::Mask(text.into());
        assert_eq!(pick(&[0, 1], 1, 0), mask("[0]"));
        assert_eq!(pick(&[0, 1], 1, 1), mask("[1]"));
        assert_eq!(pick(&[2, 5, 7], 2, 2), mask("[2,7]"));
        assert_eq!(pick(&[0, 1], 2, 1), mask("[0,1]"));
    }

    #[test]
    fn too_few_cpus_are_shared() {
        assert_eq!(pick(&[0, 1], 3, 1), Choice::Lcores("(0-2)@(0,1)".into()));
        assert_eq!(pick(&[6], 2, 0), Choice::Lcores("(0-1)@(6)".into()));
    }

    #[test]
    fn this_process_may_run_somewhere() {
        assert!(!cpus().is_empty());
        assert!(Cores::Count(0).choose().is_err());
    }
}
