//! Memory for I/O.

use spdk_plugin::dma::{DmaBuf, DmaPool, IoVec};
use spdk_plugin::{Error, Result};

use crate::support::app;

crate::cases![before, buffers, split, lists, pool, outlives_the_app];

fn run(case: impl AsyncFnOnce() -> Result<()>) {
    app().block_on(case()).unwrap();
}

fn before() {
    let error = DmaBuf::alloc(4096, 4096).unwrap_err();
    assert!(matches!(error, Error::NoMemory(_)), "{error}");
}

fn buffers() {
    run(async || {
        for align in [64, 512, 4096, 1 << 16] {
            let mut buf = DmaBuf::alloc_zeroed(5000, align)?;
            assert_eq!((buf.len(), buf.as_ptr().addr() % align), (5000, 0));
            assert!(buf.iter().all(|byte| *byte == 0));
            buf.fill(7);
            let buf = std::thread::spawn(move || buf).join().unwrap();
            assert!(buf.iter().all(|byte| *byte == 7));
        }
        assert_eq!(DmaBuf::alloc(10, 64)?.len(), 10);
        assert!(matches!(DmaBuf::alloc(0, 64), Err(Error::Invalid(_))));
        assert!(matches!(DmaBuf::alloc(64, 48), Err(Error::Invalid(_))));
        assert!(matches!(DmaBuf::alloc(1 << 50, 64), Err(Error::NoMemory(_))));
        assert_eq!(DmaBuf::alloc_on_node(64, 64, 0)?.len(), 64);
        Ok(())
    });
}

fn split() {
    run(async || {
        let mut whole = DmaBuf::alloc_zeroed(4096, 4096)?;
        whole.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i / 1000) as u8);
        let (mut head, tail) = whole.split_at(1000);
        assert!(head.iter().all(|byte| *byte == 0) && tail[0] == 1);
        head.fill(9);
        assert_eq!(tail[0], 1);
        let stranger = head.join(DmaBuf::alloc(8, 8)?).unwrap_err();
        assert_eq!(stranger.len(), 8);
        head.join(tail).unwrap();
        assert_eq!((head.len(), head[999], head[1000]), (4096, 9, 1));
        let parts = head.into_chunks(1500);
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [1500, 1500, 1096]);
        let last = parts.into_iter().next_back().unwrap();
        assert_eq!(last[1095], 4);
        Ok(())
    });
}

fn lists() {
    run(async || {
        let mut list: IoVec = DmaBuf::alloc_zeroed(3000, 64)?.into_chunks(1000).into();
        list.push(DmaBuf::empty());
        assert_eq!((list.len(), list.bufs().len()), (3000, 3));
        assert_eq!(list.fill_from(&[5; 1500]), 1500);
        assert_eq!(list.get_mut(1).unwrap()[499..501], [5, 0]);
        assert_eq!(list.to_vec().iter().filter(|byte| **byte == 5).count(), 1500);
        assert_eq!(list.pop().map(|buf| buf.len()), Some(1000));
        assert_eq!((list.len(), list.into_bufs().len()), (2000, 2));
        Ok(())
    });
}

fn pool() {
    run(async || {
        let pool = DmaPool::new(4, 1000, 512)?;
        let mut bufs: Vec<_> = std::iter::from_fn(|| pool.get()).collect();
        assert_eq!((bufs.len(), pool.available(), pool.buf_len()), (4, 0, 1000));
        assert!(bufs.iter().all(|buf| buf.len() == 1000 && buf.as_ptr().addr() % 512 == 0));
        for (i, buf) in bufs.iter_mut().enumerate() {
            buf.fill(i as u8);
        }
        assert!(bufs.iter().enumerate().all(|(i, buf)| buf.iter().all(|byte| *byte == i as u8)));
        let (head, tail) = bufs.pop().unwrap().split_at(10);
        drop(head);
        assert!(pool.get().is_none());
        std::thread::spawn(move || drop(tail)).join().unwrap();
        assert_eq!(pool.available(), 1);
        drop(pool);
        drop(bufs);
        Ok(())
    });
}

fn outlives_the_app() {
    let mut buf = app().block_on(async { DmaBuf::alloc_zeroed(4096, 4096) }).unwrap();
    buf.fill(3);
    assert_eq!(buf[4095], 3);
}
