//! What a thread that uses the bdev has.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_channel::oneshot;
use spdk_plugin::module::{BaseChannel, IoKind};

use crate::chance::Chance;
use crate::rule::Rule;

/// All rules, in their order.
pub(crate) type Rules = Arc<[Arc<Rule>]>;

/// A way to the base, the rules, and the requests that stick.
pub(crate) struct Channel {
    pub(crate) base: BaseChannel,
    rules: RefCell<Rules>,
    stuck: RefCell<Vec<Stuck>>,
}

struct Stuck {
    rule: u64,
    release: oneshot::Sender<Release>,
}

/// What becomes of a request that has stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    GoOn,
    Fail,
}

impl Channel {
    pub(crate) fn new(base: BaseChannel, rules: Rules) -> Self {
        Self { base, rules: RefCell::new(rules), stuck: RefCell::default() }
    }

    /// From now on these are the rules. What sticks by one that is gone is released.
    pub(crate) fn set_rules(&self, rules: &Rules) {
        *self.rules.borrow_mut() = Arc::clone(rules);
        let is_there = |stuck: &Stuck| rules.iter().any(|rule| rule.number == stuck.rule);
        self.let_go(|stuck| !is_there(stuck), || true, Release::GoOn);
    }

    /// The first rule by which the request goes wrong.
    pub(crate) fn hit(&self, kind: IoKind, blocks: &Range<u64>) -> Option<(Arc<Rule>, Chance)> {
        self.rules.borrow().iter().find_map(|rule| {
            let chance = rule.hits(kind, blocks)?;
            Some((Arc::clone(rule), chance))
        })
    }

    /// Waits until somebody releases it.
    pub(crate) async fn stick(&self, rule: &Rule) -> Release {
        struct Counted<'a>(&'a Rule);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.stuck.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let (release, released) = oneshot::channel();
        {
            let mut stuck = self.stuck.borrow_mut();
            // Those that were aborted are gone.
            stuck.retain(|stuck| !stuck.release.is_canceled());
            stuck.push(Stuck { rule: rule.number, release });
        }
        rule.stuck.fetch_add(1, Ordering::Relaxed);
        let _counted = Counted(rule);
        released.await.unwrap_or(Release::Fail)
    }

    /// Releases what sticks by that rule or by any, as long as there is `more` to release.
    pub(crate) fn release(&self, rule: Option<u64>, more: impl FnMut() -> bool, how: Release) {
        self.let_go(|stuck| rule.is_none_or(|rule| rule == stuck.rule), more, how);
    }

    fn let_go(&self, which: impl Fn(&Stuck) -> bool, mut more: impl FnMut() -> bool, how: Release) {
        let mut stuck = self.stuck.borrow_mut();
        let goes = |stuck: &mut Stuck| stuck.release.is_canceled() || which(stuck) && more();
        // The oldest first.
        let gone: Vec<Stuck> = stuck.extract_if(.., goes).collect();
        drop(stuck);
        for stuck in gone {
            // It may have been aborted.
            let _ = stuck.release.send(how);
        }
    }
}
