//! Claims of every kind, released and dropped in every order.

use std::num::NonZeroU64;

use spdk_plugin::bdev::{Bdev, BdevDesc, ClaimKind};
use spdk_plugin::{Error, Result};

use crate::disk::{Disk, disk};
use crate::support::{app, poll_once};

crate::cases![
    exclusive,
    for_a_module,
    orders,
    write_one,
    write_none,
    shared,
    forgotten,
    unfinished
];

fn run(case: impl AsyncFnOnce() -> Result<()>) {
    app().block_on(case()).unwrap();
}

fn is_busy<T: std::fmt::Debug>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Busy(_)))
}

/// Whether the release has other claims than the exclusive one.
async fn has_kinds() -> Result<bool> {
    let device = disk("probe", 8).await;
    let desc = BdevDesc::open("probe", false)?;
    let has = match desc.claim(ClaimKind::ReadManyWriteNone).await {
        Ok(claim) => {
            drop(claim);
            true
        }
        Err(Error::Unsupported { needs: "23.05", .. }) => false,
        Err(error) => return Err(error),
    };
    drop(desc);
    device.unregister().await?;
    Ok(has)
}

fn exclusive() {
    run(async || {
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", false)?;
        assert!(!desc.is_writable());
        let claim = desc.claim(ClaimKind::Exclusive).await?;
        assert_eq!(claim.kind(), ClaimKind::Exclusive);
        assert!(desc.is_writable());
        let bdev = desc.bdev().await?;
        assert_eq!((bdev.is_claimed(), bdev.claimed_by()), (true, Some("spdk_plugin")));
        assert!(is_busy(BdevDesc::open("disk", true)));
        drop(BdevDesc::open("disk", false)?);
        assert!(is_busy(desc.claim(ClaimKind::Exclusive).await));
        claim.release().await?;
        assert!(!desc.bdev().await?.is_claimed());
        drop(BdevDesc::open("disk", true)?);
        // On the app thread it is released at once.
        drop(desc.claim(ClaimKind::Exclusive).await?);
        drop(BdevDesc::open("disk", true)?);
        drop(desc);
        device.unregister().await
    });
}

fn for_a_module() {
    run(async || {
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", true)?;
        let claim = desc.claim_for::<Disk>(ClaimKind::Exclusive).await?;
        assert_eq!(Bdev::find("disk").await?.claimed_by(), Some("case_disk"));
        drop(claim);
        assert_eq!(Bdev::find("disk").await?.claimed_by(), None);
        drop(desc);
        device.unregister().await
    });
}

fn orders() {
    run(async || {
        for claim_first in [true, false] {
            let device = disk("disk", 8).await;
            let desc = BdevDesc::open("disk", true)?;
            let claim = desc.claim(ClaimKind::Exclusive).await?;
            if claim_first {
                drop(claim);
                drop(desc);
            } else {
                drop(desc);
                assert!(Bdev::find("disk").await?.is_claimed());
                drop(claim);
            }
            assert!(!Bdev::find("disk").await?.is_claimed());
            drop(BdevDesc::open("disk", true)?);
            device.unregister().await?;
        }
        Ok(())
    });
}

fn write_one() {
    run(async || {
        if !has_kinds().await? {
            return Ok(());
        }
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", false)?;
        let writer = BdevDesc::open("disk", true)?;
        assert!(is_busy(desc.claim(ClaimKind::ReadManyWriteOne).await));
        drop(writer);
        let claim = desc.claim(ClaimKind::ReadManyWriteOne).await?;
        assert!(desc.is_writable());
        assert!(is_busy(BdevDesc::open("disk", true)));
        assert!(is_busy(desc.claim(ClaimKind::Exclusive).await));
        assert!(desc.bdev().await?.is_claimed());
        // It stays until the descriptor goes, whichever is dropped first.
        drop(claim);
        assert!(is_busy(BdevDesc::open("disk", true)));
        drop(desc);
        drop(BdevDesc::open("disk", true)?);
        device.unregister().await
    });
}

fn write_none() {
    run(async || {
        if !has_kinds().await? {
            return Ok(());
        }
        let device = disk("disk", 8).await;
        let kind = ClaimKind::ReadManyWriteNone;
        let writer = BdevDesc::open("disk", true)?;
        let error = writer.claim(kind).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        drop(writer);
        let (one, two) = (BdevDesc::open("disk", false)?, BdevDesc::open("disk", false)?);
        let (first, second) = (one.claim(kind).await?, two.claim(kind).await?);
        assert!(!one.is_writable());
        assert!(is_busy(one.claim(kind).await));
        assert!(is_busy(BdevDesc::open("disk", true)));
        drop((one, first));
        assert!(is_busy(BdevDesc::open("disk", true)));
        drop((second, two));
        drop(BdevDesc::open("disk", true)?);
        device.unregister().await
    });
}

fn shared() {
    run(async || {
        if !has_kinds().await? {
            return Ok(());
        }
        let device = disk("disk", 8).await;
        let kind = |key| ClaimKind::ReadManyWriteShared { key: NonZeroU64::new(key).unwrap() };
        let open = || BdevDesc::open("disk", false);
        let (one, two, three) = (open()?, open()?, open()?);
        let (_first, _second) = (one.claim(kind(7)).await?, two.claim(kind(7)).await?);
        assert!(one.is_writable() && two.is_writable());
        assert!(is_busy(three.claim(kind(8)).await));
        assert!(!three.is_writable());
        drop((one, two, three));
        drop((_first, _second));
        device.unregister().await
    });
}

/// The claim and the descriptor it keeps stay for good; the bdev is told, and SPDK goes down without it.
fn forgotten() {
    let result = app().block_on(async {
        let _device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", true)?;
        std::mem::forget(desc.claim(ClaimKind::Exclusive).await?);
        drop(desc);
        assert!(is_busy(BdevDesc::open("disk", true)));
        // SPDK would wait for it for ever.
        std::process::exit(0)
    });
    result.unwrap()
}

fn unfinished() {
    run(async || {
        let device = disk("disk", 8).await;
        let desc = BdevDesc::open("disk", true)?;
        let mut claim = Box::pin(desc.claim(ClaimKind::Exclusive));
        let _ = poll_once(claim.as_mut());
        drop(claim);
        assert!(!desc.bdev().await?.is_claimed());
        drop(desc);
        device.unregister().await
    });
}
