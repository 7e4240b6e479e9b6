//! What a device of these modules is told to do wrong, and the doing of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use futures_channel::oneshot;
use serde::{Deserialize, Serialize};
use spdk_plugin::module::{IoError, IoResult};
use spdk_plugin::runtime::sleep;

/// The parameters of the `*_create` methods.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Create {
    pub(crate) name: String,
    pub(crate) num_blocks: u64,
    pub(crate) block_size: u32,
    /// The callback that panics: `read`, `channel`... After an await it is `read later`, while a
    /// cancelled handler is dropped it is `read drop`.
    #[serde(default)]
    pub(crate) panic: String,
    /// How long reads and writes wait, in microseconds.
    #[serde(default)]
    pub(crate) delay_us: u64,
    /// They are woken from a thread that is not SPDK's.
    #[serde(default)]
    pub(crate) foreign: bool,
    /// The errno of channels that cannot be made.
    pub(crate) channel_errno: Option<i32>,
    /// The device has a poller with this period in microseconds, 0 for one of every turn.
    pub(crate) poller_us: Option<u64>,
    /// The poller says that it was busy.
    #[serde(default)]
    pub(crate) poller_busy: bool,
    /// So many requests are answered with `IoError::NoMemory` first.
    #[serde(default)]
    pub(crate) no_memory: u32,
}

#[derive(Debug)]
pub(crate) struct Mischief {
    pub(crate) params: Create,
    no_memory: AtomicU32,
}

impl Mischief {
    pub(crate) fn new(params: Create) -> Self {
        let no_memory = AtomicU32::new(params.no_memory);
        Self { params, no_memory }
    }

    /// Panics if the callback `place` is the one that is to.
    pub(crate) fn at(&self, place: &str) {
        assert!(self.params.panic != place, "chaos in {place}");
    }

    /// Does what is to go wrong in the handler of `kind`.
    pub(crate) async fn handle(&self, kind: &str) -> IoResult {
        self.at(kind);
        let _bomb = self.bomb(kind);
        let left = self.no_memory.load(Ordering::Relaxed);
        if left > 0 {
            self.no_memory.store(left - 1, Ordering::Relaxed);
            return Err(IoError::NoMemory);
        }
        let delay = Duration::from_micros(self.params.delay_us);
        if self.params.foreign {
            wait_for_a_thread(delay).await;
        } else if !delay.is_zero() || !self.params.panic.is_empty() {
            sleep(delay).await;
        }
        self.at_later(kind);
        Ok(())
    }

    fn at_later(&self, kind: &str) {
        if self.params.panic.strip_suffix(" later") == Some(kind) {
            panic!("chaos in {kind} after an await");
        }
    }

    fn bomb(&self, kind: &str) -> Option<Bomb> {
        (self.params.panic.strip_suffix(" drop") == Some(kind)).then(|| Bomb)
    }
}

/// Panics when it is dropped.
#[derive(Debug)]
pub(crate) struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("chaos in a drop");
    }
}

pub(crate) async fn wait_for_a_thread(delay: Duration) {
    let (send, receive) = oneshot::channel();
    thread::spawn(move || {
        thread::sleep(delay);
        let _ = send.send(());
    });
    let _ = receive.await;
}
