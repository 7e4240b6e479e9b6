//! The RPC methods.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};
use spdk_plugin::dma::DmaBuf;
use spdk_plugin::module::{BaseChannel, BdevHandle, vbdev};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::{Error, Result, rpc};

use crate::chance::Chance;
use crate::channel::{Release, Rules};
use crate::damage::{Damage, How};
use crate::params::{MOST_BITS, RuleParams};
use crate::rule::Rule;
use crate::{Create, Faulty, let_go, set_rules, shown};

/// The most rules of a bdev: each is asked about each request.
const MOST_RULES: usize = 256;
/// The most bytes that are damaged at once.
const MOST_BYTES: u64 = 4 << 20;

fn invalid(why: impl Into<String>) -> Error {
    Error::Invalid(why.into())
}

/// Checks a new rule and gives it a number.
fn admit(rules: &[RuleParams], mut rule: RuleParams) -> Result<RuleParams> {
    rule.check().map_err(Error::Invalid)?;
    if rules.len() >= MOST_RULES {
        return Err(invalid(format!("there are {MOST_RULES} rules, which are the most")));
    }
    let numbers = || rules.iter().filter_map(|rule| rule.rule);
    let number = match rule.rule {
        Some(number) if numbers().any(|other| other == number) => {
            return Err(invalid(format!("there is a rule {number} already")));
        }
        Some(u64::MAX) => return Err(invalid(format!("rule is {}, which is too large", u64::MAX))),
        Some(number) => number,
        None => numbers().max().unwrap_or(0) + 1,
    };
    rule.rule = Some(number);
    Ok(rule)
}

#[rpc(name = "bdev_fault_create")]
async fn create(mut params: Create) -> Result<String, RpcError> {
    let mut rules = Vec::new();
    for rule in std::mem::take(&mut params.rules) {
        rules.push(admit(&rules, rule)?);
    }
    params.rules = rules;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    params.seed.get_or_insert(now as u64);
    let name = params.name.clone();
    vbdev::create::<Faulty>(params).await?;
    Ok(name)
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[rpc(name = "bdev_fault_delete")]
async fn delete(params: Named) -> Result<bool, RpcError> {
    if let Ok(found) = find(&params.name)
        && let Some(bdev) = found.1
    {
        match let_go(&bdev).await {
            // It is on its way already, and must be forgotten all the same.
            Ok(()) | Err(Error::NotFound(_)) => (),
            Err(error) => return Err(error.into()),
        }
    }
    vbdev::delete::<Faulty>(&params.name).await?;
    Ok(true)
}

/// The bdevs, their rules and what those have done.
#[rpc(name = "bdev_fault_get_bdevs")]
async fn list() -> Result<Vec<Value>, RpcError> {
    let listed = vbdev::list::<Faulty>().into_iter().map(|vbdev| {
        let mut value = json!(&*vbdev.config);
        value["ready"] = vbdev.bdev.is_some().into();
        if let Some(bdev) = vbdev.bdev {
            value["rules"] = bdev.rules().iter().map(|rule| shown(rule)).collect();
        }
        value
    });
    Ok(listed.collect())
}

type Found = (Rc<Create>, Option<BdevHandle<Faulty>>);

fn find(name: &str) -> Result<Found> {
    match vbdev::list::<Faulty>().into_iter().find(|vbdev| vbdev.config.name == name) {
        Some(found) => Ok((found.config, found.bdev)),
        // It says if it is another module's.
        None => BdevHandle::<Faulty>::find(name).and_then(|_| {
            Err(Error::NotFound(format!("there is no bdev {name:?} that was created")))
        }),
    }
}

fn ready(name: &str) -> Result<BdevHandle<Faulty>> {
    let missing = |base| Error::NotFound(format!("bdev {name:?} waits for its base {base:?}"));
    let (config, bdev) = find(name)?;
    bdev.ok_or_else(|| missing(&config.base_bdev_name))
}

#[derive(Deserialize)]
struct Add {
    name: String,
    #[serde(flatten)]
    rule: Value,
}

/// Adds a rule behind those that there are, and gives its number. It holds on all threads when this returns.
#[rpc(name = "bdev_fault_add_rule")]
async fn add_rule(params: Add) -> Result<u64, RpcError> {
    let rule = serde_json::from_value::<RuleParams>(params.rule);
    let rule = rule.map_err(|error| RpcError::invalid_params(format!("params: {error}")))?;
    let (config, bdev) = find(&params.name)?;
    let mut config = Create::clone(&config);
    let rule = admit(&config.rules, rule)?;
    let number = rule.rule.unwrap_or(0);
    config.rules.push(rule.clone());
    vbdev::update::<Faulty>(config)?;
    if let Some(bdev) = bdev {
        let rule = Arc::new(Rule::new(number, rule, bdev.seed));
        let rules = bdev.rules().iter().cloned().chain([rule]).collect();
        set_rules(&bdev, rules).await?;
    }
    Ok(number)
}

#[derive(Deserialize)]
struct Remove {
    name: String,
    rule: u64,
}

/// Removes a rule. What sticks by it goes on.
#[rpc(name = "bdev_fault_remove_rule")]
async fn remove_rule(params: Remove) -> Result<bool, RpcError> {
    let (config, bdev) = find(&params.name)?;
    let mut config = Create::clone(&config);
    let before = config.rules.len();
    config.rules.retain(|rule| rule.rule != Some(params.rule));
    if config.rules.len() == before {
        let what = format!("bdev {:?} has no rule {}", params.name, params.rule);
        return Err(Error::NotFound(what).into());
    }
    vbdev::update::<Faulty>(config)?;
    if let Some(bdev) = bdev {
        let rules = bdev.rules();
        let kept = rules.iter().filter(|rule| rule.number != params.rule).cloned().collect();
        set_rules(&bdev, kept).await?;
    }
    Ok(true)
}

/// Removes all rules. What sticks goes on. Gives how many there were.
#[rpc(name = "bdev_fault_clear_rules")]
async fn clear_rules(params: Named) -> Result<usize, RpcError> {
    let (config, bdev) = find(&params.name)?;
    let mut config = Create::clone(&config);
    let count = std::mem::take(&mut config.rules).len();
    vbdev::update::<Faulty>(config)?;
    if let Some(bdev) = bdev {
        set_rules(&bdev, Rules::default()).await?;
    }
    Ok(count)
}

#[derive(Deserialize)]
struct Free {
    name: String,
    /// By default all that sticks.
    rule: Option<u64>,
    /// By default all of it.
    count: Option<u64>,
    /// It fails and is not carried out, or not said to be.
    #[serde(default)]
    fail: bool,
}

/// Ends the waiting of requests that stick, and gives how many there were.
#[rpc(name = "bdev_fault_release")]
async fn release(params: Free) -> Result<u64, RpcError> {
    let bdev = ready(&params.name)?;
    let most = params.count.unwrap_or(u64::MAX);
    let released = Arc::new(AtomicU64::new(0));
    let how = if params.fail { Release::Fail } else { Release::GoOn };
    let count = Arc::clone(&released);
    let each = move |channel: &crate::Channel| {
        let more = |count: u64| (count < most).then(|| count + 1);
        let next = || count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        channel.release(params.rule, next, how);
    };
    bdev.for_each_channel(each).await?;
    Ok(released.load(Ordering::Relaxed))
}

#[derive(Deserialize)]
struct Harm {
    name: String,
    block: u64,
    num_blocks: Option<u64>,
    #[serde(default)]
    how: How,
    /// How many bits are flipped, by default 1.
    bits: Option<u64>,
    /// Instead: exchanges the blocks with those from here on.
    swap_with: Option<u64>,
    /// By default the bdev's seed and the time.
    seed: Option<u64>,
}

/// Changes what is stored, behind everybody's back. Not for blocks that are being written.
#[rpc(name = "bdev_fault_damage")]
async fn damage(params: Harm) -> Result<bool, RpcError> {
    let bdev = ready(&params.name)?;
    let channel = bdev.base.channel()?;
    let (size, count) = (u64::from(bdev.block_size()), params.num_blocks.unwrap_or(1));
    let blocks = |first: u64| -> Result<Range<u64>> {
        let end = first.checked_add(count).filter(|end| *end <= bdev.num_blocks());
        let end = end.filter(|_| count > 0 && count.saturating_mul(size) <= MOST_BYTES);
        Ok(first..end.ok_or_else(|| {
            invalid(format!(
                "{count} blocks from {first} on; they must lie within the {} of bdev {}, be one at least, and \
                 {MOST_BYTES} bytes at most",
                bdev.num_blocks(),
                params.name
            ))
        })?)
    };
    let here = blocks(params.block)?;
    let mut data = read(&channel, &here, size).await?;
    if let Some(first) = params.swap_with {
        let there = blocks(first)?;
        let mut other = read(&channel, &there, size).await?;
        channel.write_blocks(&mut other, here.start, count).await?;
        channel.write_blocks(&mut data, there.start, count).await?;
        return Ok(true);
    }
    let bits = params.bits.unwrap_or(1);
    if bits > MOST_BITS {
        return Err(invalid(format!("bits is {bits}; it can be {MOST_BITS} at most")).into());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let mut chance = Chance::of(params.seed.unwrap_or(bdev.seed ^ now as u64), params.block);
    let bytes = here.start * size..here.end * size;
    Damage::new(params.how, bytes, bits, &mut chance).apply(here.start * size, &mut data);
    channel.write_blocks(&mut data, here.start, count).await?;
    Ok(true)
}

async fn read(channel: &BaseChannel, blocks: &Range<u64>, size: u64) -> Result<DmaBuf> {
    let count = blocks.end - blocks.start;
    let alignment = channel.base().alignment().max(1);
    let mut data = DmaBuf::alloc((count * size) as usize, alignment)?;
    channel.read_blocks(&mut data, blocks.start, count).await?;
    Ok(data)
}
