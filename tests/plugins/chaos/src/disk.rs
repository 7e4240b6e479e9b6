//! The module `chaos`: a disk in memory with a method for every kind of I/O.

use std::hint::black_box;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use spdk_plugin::dma::DmaRegion;
use spdk_plugin::module::{Bdev, BdevBuilder, BdevHandle, BdevIo, IoError, IoResult, RpcCall};
use spdk_plugin::rpc::RpcError;
use spdk_plugin::runtime::{PollStatus, Poller};
use spdk_plugin::{Error, Result, bdev_module, rpc};

use crate::mischief::{Bomb, Create, Mischief};

struct Chaos {
    mischief: Mischief,
    store: DmaRegion,
    _bomb: Option<Bomb>,
}

/// A channel's state.
struct Channel {
    _bomb: Option<Bomb>,
    _poller: Option<Poller>,
}

#[bdev_module(name = "chaos")]
impl Bdev for Chaos {
    type Channel = Channel;

    fn channel(&self) -> Result<Channel> {
        self.mischief.at("channel");
        if let Some(errno) = self.mischief.params.channel_errno {
            return Err(Error::Errno { what: "a channel".into(), errno });
        }
        let told = |place| self.mischief.params.panic == place;
        let poller = told("channel poller")
            .then(|| Poller::register(|| panic!("chaos in a channel's poller")))
            .transpose()?;
        Ok(Channel { _bomb: told("channel drop").then(|| Bomb), _poller: poller })
    }

    async fn read(&self, _: &Channel, mut io: BdevIo<'_>) -> IoResult {
        self.mischief.handle("read").await?;
        io.chunks_mut().for_each(|(at, buf)| self.store.read(at as usize, buf));
        Ok(())
    }

    async fn write(&self, _: &Channel, io: BdevIo<'_>) -> IoResult {
        self.mischief.handle("write").await?;
        io.chunks().for_each(|(at, buf)| self.store.write(at as usize, buf));
        Ok(())
    }

    /// Keeps a value through an await whose alignment is more than a request's.
    async fn flush(&self, _: &Channel, _: BdevIo<'_>) -> IoResult {
        let wide = black_box(u128::MAX);
        assert!((&raw const wide).is_aligned(), "a misplaced future");
        let done = self.mischief.handle("flush").await;
        assert_eq!(black_box(wide), u128::MAX);
        done
    }

    async fn unmap(&self, _: &Channel, _: BdevIo<'_>) -> IoResult {
        self.mischief.handle("unmap").await
    }

    async fn write_zeroes(&self, _: &Channel, io: BdevIo<'_>) -> IoResult {
        self.mischief.handle("write_zeroes").await?;
        let bytes = io.bytes();
        self.store.zero(bytes.start as usize, (bytes.end - bytes.start) as usize);
        Ok(())
    }

    async fn compare(&self, _: &Channel, io: BdevIo<'_>) -> IoResult {
        self.mischief.handle("compare").await?;
        self.compare_all(&io)
    }

    async fn copy(&self, _: &Channel, io: BdevIo<'_>) -> IoResult {
        self.mischief.handle("copy").await?;
        let (source, target) = (io.copy_source_blocks() * u64::from(io.block_size()), io.bytes());
        let len = (target.end - target.start) as usize;
        self.store.copy(source as usize, &self.store, target.start as usize, len);
        Ok(())
    }

    /// Lends a copy.
    async fn zcopy_start(&self, _: &Channel, mut io: BdevIo<'_>) -> IoResult {
        self.mischief.handle("zcopy_start").await?;
        let bytes = io.bytes();
        let copy = DmaRegion::zeroed(bytes.end - bytes.start)?;
        self.store.copy(bytes.start as usize, &copy, 0, copy.len());
        io.lend(&copy, 0..copy.len())
    }

    async fn zcopy_end(&self, _: &Channel, io: BdevIo<'_>) -> IoResult {
        self.mischief.handle("zcopy_end").await?;
        if io.zcopy_commits()
            && let Some(copy) = io.lent()
        {
            copy.copy(0, &self.store, io.bytes().start as usize, copy.len());
        }
        Ok(())
    }

    async fn nvme_admin(&self, _: &Channel, _: BdevIo<'_>) -> IoResult {
        self.mischief.handle("nvme_admin").await
    }

    async fn nvme_io(&self, _: &Channel, _: BdevIo<'_>) -> IoResult {
        self.mischief.handle("nvme_io").await
    }

    fn dump_info(&self) -> Option<Value> {
        self.mischief.at("dump_info");
        Some(json!({ "delay_us": self.mischief.params.delay_us }))
    }

    fn config(&self, _: &BdevHandle<Self>) -> Option<RpcCall> {
        self.mischief.at("config");
        Some(RpcCall::new("bdev_chaos_create", &self.mischief.params))
    }
}

impl Chaos {
    fn compare_all(&self, io: &BdevIo<'_>) -> IoResult {
        let equal = io.chunks().all(|(at, buf)| self.store.equals(at as usize, buf));
        if equal { Ok(()) } else { Err(IoError::Miscompare) }
    }
}

#[rpc(name = "bdev_chaos_create")]
async fn create(params: Create) -> Result<String, RpcError> {
    let mut bdev = BdevBuilder::new(&*params.name, params.block_size, params.num_blocks);
    let store = DmaRegion::zeroed(bdev.num_bytes()?)?;
    if let Some(period) = params.poller_us {
        let status = if params.poller_busy { PollStatus::Busy } else { PollStatus::Idle };
        bdev = bdev.poller(Duration::from_micros(period), move |chaos: &Chaos| {
            chaos.mischief.at("poller");
            status
        });
    }
    let bomb = (params.panic == "bdev drop").then(|| Bomb);
    let chaos = Chaos { mischief: Mischief::new(params), store, _bomb: bomb };
    Ok(bdev.register(chaos).await?.name().to_owned())
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[rpc(name = "bdev_chaos_delete")]
async fn delete(params: Named) -> Result<bool, RpcError> {
    BdevHandle::<Chaos>::find(&params.name)?.unregister().await?;
    Ok(true)
}

#[rpc(name = "bdev_chaos_for_each_channel")]
async fn for_each_channel(params: Named) -> Result<bool, RpcError> {
    let chaos = BdevHandle::<Chaos>::find(&params.name)?;
    chaos.for_each_channel(|_| panic!("chaos in a call on a channel")).await?;
    Ok(true)
}
