//! The figures that `bdevperf` prints.

/// Words of a line that tells of a failure, in any version.
const ERROR_MARKS: &[&str] = &[
    "Buffer mismatch",
    "miscompare",
    "DIF/DIX error detected",
    "DIF error detected",
    "on job bdev=",
    "ended in about",
    "Failed to submit",
    "Reset failed",
    "Reset blockdev=",
    "Unable to find bdev",
    "Could not open leaf bdev",
];

/// Error lines that are kept; a broken bdev may print thousands.
const MAX_ERRORS: usize = 20;

/// Figures of one run.
///
/// Releases before 23.01 measure no latency: it is worked out there, from the I/Os in flight and done per second, as
/// queue depth x 1,000,000 / IOPS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Perf {
    /// Each bdev, and each core that drives it.
    pub jobs: Vec<Job>,
    /// I/Os per second of all jobs.
    pub iops: f64,
    /// MiB per second of all jobs.
    pub mib_s: f64,
    /// Mean time of an I/O in microseconds.
    pub latency_us: f64,
    /// Failed I/Os, wrong data and whatever else went wrong; none in a clean run. The figures of a run with errors are
    /// of no use: 20.07 divides by zero there.
    pub errors: Vec<String>,
}

/// Figures of one job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Job {
    /// Name of the bdev, or of the job.
    pub name: String,
    /// I/Os per second.
    pub iops: f64,
    /// MiB per second.
    pub mib_s: f64,
    /// Failed I/Os per second.
    pub fails_per_s: f64,
    /// I/Os per second that ran out of time.
    pub timeouts_per_s: f64,
    /// Mean time of an I/O in microseconds; see [`Perf`].
    pub latency_us: f64,
}

impl Perf {
    /// Sums up `jobs`.
    pub(crate) fn of(jobs: Vec<Job>, mut errors: Vec<String>) -> Self {
        let sum = |figure: fn(&Job) -> f64| jobs.iter().map(figure).sum::<f64>();
        let (iops, mib_s) = (sum(|job| job.iops), sum(|job| job.mib_s));
        let latency_us = if iops > 0.0 { sum(|job| job.latency_us * job.iops) / iops } else { 0.0 };
        for job in &jobs {
            for (rate, what) in
                [(job.fails_per_s, "failed"), (job.timeouts_per_s, "ran out of time")]
            {
                if rate > 0.0 {
                    errors.push(format!("{}: {rate:.2} I/Os per second {what}", job.name));
                }
            }
        }
        Self { jobs, iops, mib_s, latency_us, errors }
    }

    /// Reads the output of a run; `None` if it has no figures.
    pub(crate) fn parse(log: &str, queue_depth: u32) -> Option<Self> {
        let mut jobs: Vec<Job> = Vec::new();
        let mut seen_total = false;
        for line in log.split(['\n', '\r']) {
            // 20.07 puts a job's failures, without its name, in a line after the job's.
            let Some((name, figures)) = row(line) else { continue };
            match (name, figures) {
                ("Total", _) => seen_total = true,
                (_, _) if seen_total => {}
                (_, Figures::Job(job)) => {
                    jobs.push(Job { name: name.to_owned(), ..job.with_latency(queue_depth) })
                }
                (_, Figures::Failures(fails, timeouts)) => {
                    if let Some(job) = jobs.last_mut() {
                        (job.fails_per_s, job.timeouts_per_s) = (fails, timeouts);
                    }
                }
            }
        }
        let is_error = |line: &&str| ERROR_MARKS.iter().any(|mark| line.contains(mark));
        let errors = log.split(['\n', '\r']).filter(is_error).take(MAX_ERRORS);
        let errors: Vec<_> = errors.map(|line| line.trim().to_owned()).collect();
        (seen_total && !jobs.is_empty()).then(|| Self::of(jobs, errors))
    }
}

impl Job {
    fn with_latency(self, queue_depth: u32) -> Self {
        if self.latency_us > 0.0 || self.iops <= 0.0 {
            return self;
        }
        Self { latency_us: f64::from(queue_depth) * 1e6 / self.iops, ..self }
    }
}

enum Figures {
    Job(Job),
    Failures(f64, f64),
}

/// Reads one row of the table: `name: 1.00 IOPS 2.00 MiB/s`, `: 1.00 Fail/s 2.00 TO/s`, or, from 23.01 on, a name and
/// columns.
fn row(line: &str) -> Option<(&str, Figures)> {
    let (name, rest) = line.rsplit_once(':')?;
    let name = name.trim();
    let words: Vec<&str> = rest.split_whitespace().collect();
    let number = |i: usize| -> Option<f64> {
        let value: f64 = words[i].parse().ok()?;
        // What is divided by no time is no figure.
        Some(if value.is_finite() { value } else { 0.0 })
    };
    let figures = match words.as_slice() {
        [_, "IOPS", _, "MiB/s"] => {
            Figures::Job(Job { iops: number(0)?, mib_s: number(2)?, ..Job::default() })
        }
        [_, "Fail/s", _, "TO/s"] => Figures::Failures(number(0)?, number(2)?),
        // A job's columns begin with its run time; the total has none.
        words if words.len() == 8 || words.len() == 7 && name == "Total" => {
            let first = words.len() - 7;
            Figures::Job(Job {
                iops: number(first)?,
                mib_s: number(first + 1)?,
                fails_per_s: number(first + 2)?,
                timeouts_per_s: number(first + 3)?,
                latency_us: number(first + 4)?,
                ..Job::default()
            })
        }
        _ => return None,
    };
    Some((name, figures))
}

#[cfg(test)]
#[path = "perf_tests.rs"]
mod tests;
