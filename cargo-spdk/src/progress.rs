//! What a person sees while a long job runs: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// What a phase counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Measure {
    /// Nothing: it is known only that the phase is under way.
    Unknown,
    /// Bytes, out of a known number.
    Bytes(u64),
    /// Steps, out of an estimated number.
    Steps(u64),
}

/// Shows the phases of a job, one after the other.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    current: Option<(String, ProgressBar)>,
    started: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Progress { terminal, current: None, started: Instant::now() }
    }

    /// Ends the phase before and starts the next.
    pub(crate) fn phase(&mut self, title: &str, measure: Measure) -> ProgressBar {
        self.finish();
        let bar = if self.terminal { bar(measure) } else { ProgressBar::hidden() };
        if self.terminal {
            bar.set_message(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
        } else {
            eprintln!("{title}");
        }
        self.current = Some((title.to_owned(), bar.clone()));
        bar
    }

    /// Ends the current phase as done.
    pub(crate) fn finish(&mut self) {
        if let Some((title, bar)) = self.current.take()
            && self.terminal
        {
            let seconds = bar.elapsed().as_secs();
            bar.finish_and_clear();
            eprintln!("{title:<44} {seconds:>4} s");
        }
    }

    /// Whether bars are shown.
    pub(crate) fn on_terminal(&self) -> bool {
        self.terminal
    }

    /// Since the job began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Progress {
    /// Where a job fails, its bar goes away, so the error stands alone.
    fn drop(&mut self) {
        if let Some((_, bar)) = &self.current {
            bar.finish_and_clear();
        }
    }
}

fn bar(measure: Measure) -> ProgressBar {
    let (length, end) = match measure {
        Measure::Unknown => (None, "{spinner} {elapsed}"),
        Measure::Bytes(all) => {
            (Some(all), "[{bar:24}] {decimal_bytes}/{decimal_total_bytes} {elapsed}")
        }
        Measure::Steps(all) => (Some(all), "[{bar:24}] {percent:>3}% {elapsed}"),
    };
    let bar = match length {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::new_spinner(),
    };
    match ProgressStyle::with_template(&format!("{{msg:<44}} {end}")) {
        Ok(style) => bar.with_style(style.progress_chars("=> ").tick_chars("|/-\\ ")),
        Err(_) => bar,
    }
}
