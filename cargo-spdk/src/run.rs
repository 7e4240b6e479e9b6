//! Runs the commands of a long job: their output goes to a log, and an interrupt ends them.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// How often a running command is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How many lines of the log an error quotes.
const QUOTED: usize = 8;

/// What a running command's observer learns.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The command wrote a line.
    Line(&'a str),
    /// A moment has passed.
    Tick,
}

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) what: String,
    pub(crate) status: String,
    /// Everything it wrote.
    pub(crate) output: Vec<String>,
}

/// Why a command's work is not done.
#[derive(Debug)]
pub(crate) enum Stopped {
    Failed(Failed),
    Error(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::Error(error)
    }
}

/// Turns SIGINT, SIGTERM and SIGHUP into a request to stop, while it lives.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Interrupt {
    pub(crate) fn listen() -> Result<Self> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let over = Arc::clone(&interrupt.over);
            signal_hook::flag::register_conditional_default(signal, over)
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupt.asked)))
                .map_err(|error| Error::new(format!("cannot handle signals: {error}")))?;
        }
        Ok(interrupt)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.asked.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }
}

impl Drop for Interrupt {
    /// Signals act as by default again.
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Runs commands one after the other.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) interrupt: Interrupt,
    log: File,
    log_path: PathBuf,
}

impl Runner {
    /// Starts a new log.
    pub(crate) fn new(log_path: &Path, interrupt: Interrupt) -> Result<Self> {
        let log = File::create(log_path).map_err(|error| Error::io("write", log_path, &error))?;
        Ok(Runner { interrupt, log, log_path: log_path.to_owned() })
    }

    /// Runs `command` to its end; `what` names it in errors, as in "compiling SPDK".
    pub(crate) fn run(&mut self, what: &str, command: &mut Command) -> Result<Vec<String>> {
        self.watch(what, command, &mut |_| ()).map_err(|stopped| self.error(stopped))
    }

    /// The same with an observer, and leaves it to the caller to explain a failure.
    pub(crate) fn watch(
        &mut self,
        what: &str,
        command: &mut Command,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<Vec<String>, Stopped> {
        self.interrupt.check()?;
        self.write_log(&format!("$ {command:?}"))?;
        let cannot = |error: io::Error| {
            let program = command.get_program().display();
            Error::new(format!(
                "cannot run {program} ({error}): type `cargo spdk doctor` to see what is missing"
            ))
        };
        let (reader, writer) = io::pipe().map_err(cannot)?;
        let other = writer.try_clone().map_err(cannot)?;
        command.stdin(Stdio::null()).stdout(writer).stderr(other).process_group(0);
        // SAFETY: the closure runs between fork and exec and only makes one system call; it neither allocates nor
        // takes a lock.
        unsafe {
            // Without this a killed set-up would leave compilers behind, at work in a directory nobody owns.
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().display();
            Error::new(format!(
                "cannot run {program} ({error}): type `cargo spdk doctor` to see what is missing"
            ))
        });
        // The writing ends must close here, or the pipe would never end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = Running(child?);
        let output = self.follow(reader, observer)?;
        let status = child.0.wait().map_err(|error| Error::new(format!("{what}: {error}")))?;
        if status.success() {
            return Ok(output);
        }
        Err(Stopped::Failed(Failed { what: what.to_owned(), status: status.to_string(), output }))
    }

    /// Copies what a command writes into the log until it closes its end.
    fn follow(
        &mut self,
        reader: io::PipeReader,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<Vec<String>> {
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        let mut output = Vec::new();
        loop {
            self.interrupt.check()?;
            match lines.recv_timeout(TICK) {
                Ok(line) => {
                    self.write_log(&line)?;
                    observer(Event::Line(&line));
                    output.push(line);
                }
                Err(RecvTimeoutError::Timeout) => observer(Event::Tick),
                Err(RecvTimeoutError::Disconnected) => return Ok(output),
            }
        }
    }

    fn write_log(&mut self, line: &str) -> Result<()> {
        writeln!(self.log, "{line}").map_err(|error| Error::io("write", &self.log_path, &error))
    }

    /// The general explanation of a failure.
    pub(crate) fn error(&self, stopped: Stopped) -> Error {
        let failed = match stopped {
            Stopped::Error(error) => return error,
            Stopped::Failed(failed) => failed,
        };
        if failed.output.iter().any(|line| line.contains("No space left on device")) {
            return Error::disk_full(self.log_path.parent().unwrap_or(&self.log_path));
        }
        let lines = &failed.output[failed.output.len().saturating_sub(QUOTED)..];
        let quote: String = lines.iter().map(|line| format!("\n    {line}")).collect();
        Error::new(format!(
            "{} failed ({}): mend what the log {} says at its end, then type `cargo spdk setup` again{quote}",
            failed.what,
            failed.status,
            self.log_path.display()
        ))
    }
}

/// A child that does not outlive this value, nor do the processes of its group.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        let group = Pid::from_child(&self.0);
        // A failure means that the group is gone.
        let _ = kill_process_group(group, Signal::TERM);
        let patience = Instant::now() + Duration::from_secs(3);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(dir: &Path) -> Runner {
        Runner::new(&dir.join("log"), Interrupt::default()).unwrap()
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn keeps_both_outputs_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let output = runner(dir.path()).run("x", &mut shell("echo one; echo two >&2")).unwrap();
        assert_eq!(output, ["one", "two"]);
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(log.ends_with("one\ntwo\n"), "{log}");
    }

    #[test]
    fn a_failure_quotes_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let script = "for i in 1 2 3 4 5 6 7 8 9; do echo l$i; done; exit 3";
        let message =
            runner(dir.path()).run("counting", &mut shell(script)).unwrap_err().to_string();
        assert!(message.starts_with("counting failed (exit status: 3): "), "{message}");
        assert!(message.ends_with("\n    l8\n    l9") && !message.contains("l1\n"), "{message}");
    }

    #[test]
    fn a_full_disk_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo 'cc1: fatal error: x.o: No space left on device' >&2; exit 1";
        let message = runner(dir.path()).run("x", &mut shell(script)).unwrap_err().to_string();
        assert!(message.starts_with("the disk with "), "{message}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("no-such-program-anywhere");
        let message = runner(dir.path()).run("x", &mut command).unwrap_err().to_string();
        assert!(message.contains("no-such-program-anywhere"), "{message}");
    }

    #[test]
    fn an_interrupt_ends_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let mut runner = runner(dir.path());
        let flag = Arc::clone(&runner.interrupt.asked);
        let begun = Instant::now();
        let stopped = runner.watch("x", &mut shell("sleep 60 & echo $!; wait"), &mut |_| {
            flag.store(true, Ordering::Relaxed);
        });
        assert!(matches!(stopped, Err(Stopped::Error(_))));
        assert!(begun.elapsed() < Duration::from_secs(10));
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        let sleeper = log.lines().last().unwrap().to_owned();
        std::thread::sleep(Duration::from_millis(50));
        let state = std::fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
}
