//! Starts child processes that do not outlive this one, and waits for them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How often a child's state is looked at.
const POLL: Duration = Duration::from_millis(5);

type Job = (Command, Sender<io::Result<Child>>);

/// Spawns `command`; the kernel kills the child when this process dies.
///
/// The kernel watches the *thread* that made the child, and a test's thread ends before its process does. So one
/// thread that never ends makes them all.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in queue {
                die_with_parent(&mut command);
                // The caller waits for the reply, so it is there.
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    });
    let (reply, answer) = channel();
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    spawner.send((command, reply)).map_err(|_| gone(()))?;
    answer.recv().map_err(|_| gone(()))?
}

fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let ask = move || {
        // SAFETY: both calls take plain values and may be made between fork and exec.
        let (asked, now) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
        if asked != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before the kernel was asked to watch it.
        if now as u32 != parent { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    };
    // SAFETY: `ask` neither allocates nor locks; it only makes system calls.
    unsafe { command.pre_exec(ask) };
}

/// Waits for the end of `child`; `None` if it still runs after `timeout`.
pub(crate) fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Asks `child` to end.
pub(crate) fn terminate(child: &mut Child) -> io::Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    let pid = libc::pid_t::try_from(child.id()).expect("a pid fits in pid_t");
    // SAFETY: the child was not reaped yet, so the pid is still its own.
    if unsafe { libc::kill(pid, libc::SIGTERM) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks `child` to end, kills it after `grace`, and reaps it. Says whether it had to be killed.
pub(crate) fn stop(child: &mut Child, grace: Duration) -> io::Result<(ExitStatus, bool)> {
    terminate(child)?;
    if let Some(status) = wait(child, grace)? {
        return Ok((status, false));
    }
    child.kill()?;
    Ok((child.wait()?, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let spawned = thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("60");
            spawn(command).unwrap()
        });
        let mut child = spawned.join().unwrap();
        assert_eq!(wait(&mut child, Duration::from_millis(100)).unwrap(), None);
        let (status, killed) = stop(&mut child, Duration::from_secs(5)).unwrap();
        assert!(!killed && !status.success(), "{status}");
    }

    #[test]
    fn a_deaf_child_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]);
        command.stdout(std::process::Stdio::piped());
        let mut child = spawn(command).unwrap();
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
        assert!(stop(&mut child, Duration::from_millis(50)).unwrap().1);
    }
}
