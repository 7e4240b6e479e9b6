//! A bdev that passes everything on to the one below it, and does wrong what its rules tell it to: the trouble
//! that the tests of everything above need.
//!
//! A rule says what goes wrong (a request fails, its data are corrupted, it goes astray, is dropped, torn or
//! stuck), and with which requests: by kind, by blocks, after so many, so many times, or by chance, which a seed
//! determines. There may be several; the first that hits a request is the one that does.
//!
//! Channels have their own list of the rules, which an RPC hands to all of them; counters are shared and atomic.
//! A request that no rule hits is forwarded as it is. Zero-copy and NVMe passthrough are not offered, so that
//! nothing gets around the rules.

#![forbid(unsafe_code)]

mod chance;
mod channel;
mod damage;
mod methods;
mod params;
mod rule;
mod serve;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spdk_plugin::module::{
    Base, Bases, Bdev, BdevBuilder, BdevHandle, BdevIo, IoKind, IoKinds, IoResult, Vbdev,
};
use spdk_plugin::{Error, Result, bdev_module};
use uuid::Uuid;

use channel::{Channel, Release, Rules};
use params::RuleParams;
use rule::Rule;
use serve::serve;

struct Faulty {
    base: Base,
    seed: u64,
    state: Mutex<State>,
}

/// What new channels begin with.
struct State {
    rules: Rules,
    /// It goes: nothing sticks any more.
    closing: bool,
}

impl Faulty {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> Rules {
        Arc::clone(&self.state().rules)
    }
}

/// Gives all channels other rules.
async fn set_rules(bdev: &BdevHandle<Faulty>, rules: Rules) -> Result<()> {
    {
        let mut state = bdev.state();
        if state.closing {
            return Err(Error::NotFound(format!("bdev {} is being removed", bdev.name())));
        }
        state.rules = Arc::clone(&rules);
    }
    bdev.for_each_channel(move |channel| channel.set_rules(&rules)).await
}

/// Has nothing stick any more, as whoever has it open could not close it.
async fn let_go(bdev: &BdevHandle<Faulty>) -> Result<()> {
    let none = Rules::default();
    {
        let mut state = bdev.state();
        state.closing = true;
        state.rules = Arc::clone(&none);
    }
    let each = move |channel: &Channel| {
        channel.release(None, || true, Release::Fail);
        channel.set_rules(&none);
    };
    bdev.for_each_channel(each).await
}

/// What it does not pass on: what gets around the rules, and resets, which the crate has end what sticks here.
const NOT: IoKinds = IoKinds::ZCOPY
    .and(IoKinds::RESET)
    .and(IoKinds::NVME_ADMIN)
    .and(IoKinds::NVME_IO)
    .and(IoKinds::NVME_IO_MD)
    .and(IoKinds::NVME_IOV_MD);

#[bdev_module(name = "fault")]
impl Bdev for Faulty {
    type Channel = Channel;

    fn channel(&self) -> Result<Channel> {
        Ok(Channel::new(self.base.channel()?, self.rules()))
    }

    async fn read(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        serve(channel, io).await
    }

    async fn write(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        serve(channel, io).await
    }

    fn supports(&self, kind: IoKind) -> bool {
        self.base.supports(kind) && !NOT.contains(kind)
    }

    async fn submit(&self, channel: &Channel, io: BdevIo<'_>) -> IoResult {
        serve(channel, io).await
    }

    fn dump_info(&self) -> Option<Value> {
        let rules: Vec<Value> = self.rules().iter().map(|rule| shown(rule)).collect();
        Some(json!({ "base_bdev_name": self.base.name(), "seed": self.seed, "rules": rules }))
    }
}

/// A rule with its counters.
fn shown(rule: &Rule) -> Value {
    let mut value = json!(rule.params);
    let counters = json!(rule.counters());
    if let (Some(value), Value::Object(counters)) = (value.as_object_mut(), counters) {
        value.extend(counters);
    }
    value
}

/// The parameters of `bdev_fault_create`, as `save_config` writes them: with the rules of the moment.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Create {
    name: String,
    base_bdev_name: String,
    /// What is left to chance follows from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<RuleParams>,
    /// By default one that the base's determines.
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<Uuid>,
}

impl Vbdev for Faulty {
    type Config = Create;

    const CREATE: &'static str = "bdev_fault_create";

    fn name(config: &Create) -> &str {
        &config.name
    }

    fn bases(config: &Create) -> Vec<String> {
        vec![config.base_bdev_name.clone()]
    }

    async fn build(config: &Create, bases: &Bases) -> Result<(BdevBuilder<Self>, Self)> {
        let base = bases[0].clone();
        let uuid =
            config.uuid.unwrap_or_else(|| Uuid::new_v5(&base.uuid(), Self::CREATE.as_bytes()));
        let bdev = BdevBuilder::like(&*config.name, &base).product_name("Faults in Rust");
        let seed = config.seed.unwrap_or(0);
        let rule = |params: &RuleParams| {
            Arc::new(Rule::new(params.rule.unwrap_or(0), params.clone(), seed))
        };
        let rules = config.rules.iter().map(rule).collect();
        let state = Mutex::new(State { rules, closing: false });
        Ok((bdev.uuid(Some(uuid)), Self { base, seed, state }))
    }

    async fn base_removed(bdev: &BdevHandle<Self>, base: &Base) {
        let outcome = match let_go(bdev).await {
            Ok(()) => bdev.unregister().await,
            Err(error) => Err(error),
        };
        match outcome {
            // It is on its way.
            Ok(()) | Err(Error::NotFound(_) | Error::Busy(_)) => (),
            Err(error) => log::error!("base {} goes: {error}", base.name()),
        }
    }

    async fn base_resized(bdev: &BdevHandle<Self>, base: &Base) {
        if let Err(error) = bdev.resize(base.num_blocks()).await {
            log::error!("{error}");
        }
    }
}
