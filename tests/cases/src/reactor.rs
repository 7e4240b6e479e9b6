//! Cores, and running things on them.

use std::rc::Rc;

use spdk_plugin::runtime::{
    CpuSet, cores, current_core, for_each_core, spawn_on, unaffinitized, yield_now,
};
use spdk_plugin::{CurrentThread, Error, SpdkThread};

use crate::support::{app, cpus, env};

crate::cases![on_each, on_one, panics, wrong_core, affinity, without_reactors, unbound];

/// All CPUs of the machine, two at the most.
fn mask() -> String {
    format!("[0-{}]", cpus().min(2) - 1)
}

fn on_each() {
    let count = cpus().min(2);
    let result = app().reactor_mask(mask()).block_on(async {
        assert_eq!(cores().len(), count);
        let seen = for_each_core(|core| async move {
            let local = Rc::new(core);
            yield_now().await;
            assert_eq!(CurrentThread::get().unwrap().affinity(), CpuSet::of(core).unwrap());
            (current_core().unwrap(), *local)
        });
        for (core, seen) in seen.await? {
            assert_eq!(seen, (core, core));
        }
        // A second round uses the same threads.
        let threads = SpdkThread::count();
        for_each_core(|_| async {}).await?;
        assert_eq!(SpdkThread::count(), threads);
        Ok(())
    });
    result.unwrap();
}

fn on_one() {
    let result = app().reactor_mask(mask()).block_on(async {
        let last = cores().iter().last().unwrap();
        let core = spawn_on(last, || async { current_core() })?.await?;
        assert_eq!(core, Some(last));
        // Nobody waits for it.
        drop(spawn_on(last, std::future::pending::<()>)?);
        Ok(())
    });
    result.unwrap();
}

fn panics() {
    let result = app().block_on(async {
        let core = current_core().unwrap();
        let result: Result<(), Error> = spawn_on(core, || async { panic!("on a core") })?.await;
        Ok(result)
    });
    assert!(matches!(result.unwrap(), Err(Error::Panicked(_))));
}

fn wrong_core() {
    app()
        .block_on(async {
            assert!(matches!(spawn_on(77, || async {}).err(), Some(Error::Invalid(_))));
            Ok(())
        })
        .unwrap();
}

fn affinity() {
    let result = app().reactor_mask(mask()).block_on(async {
        let last = cores().iter().last().unwrap();
        spawn_on(last, move || async move {
            let thread = CurrentThread::get().unwrap();
            let first = CpuSet::of(cores().iter().next().unwrap()).unwrap();
            // SAFETY: nothing on the thread is shared, here and below.
            assert!(unsafe { thread.set_affinity(&CpuSet::of(1000).unwrap()) }.is_err());
            // SAFETY: as above.
            unsafe { thread.set_affinity(&first) }.unwrap();
            assert_eq!(thread.affinity(), first);
            while !first.contains(current_core().unwrap()) {
                yield_now().await;
            }
        })?
        .await
    });
    result.unwrap();
}

fn without_reactors() {
    let _env = env().init().unwrap();
    let thread = SpdkThread::current("main").unwrap();
    let core = cores().iter().next().unwrap();
    assert_eq!(current_core(), Some(core));
    assert!(matches!(spawn_on(core, || async {}).err(), Some(Error::WrongThread(_))));
    // SAFETY: nothing on the thread is shared.
    let error = unsafe { CurrentThread::get().unwrap().set_affinity(&cores()) }.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    drop(thread);
}

fn unbound() {
    let _env = env().init().unwrap();
    let count = || std::thread::available_parallelism().unwrap().get();
    let bound = count();
    let free = unaffinitized(|| std::thread::spawn(count).join().unwrap());
    assert!(free >= bound);
    assert_eq!(count(), bound);
}
