//! `cargo spdk bench`: the project's modules and its client against C's, in pairs on one core.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use spdk_plugin_build::Spdk;
use spdk_plugin_rig::{Bdevperf, Build, Config, Host, cpus};

use crate::error::{Error, Result};
use crate::setup::describe;
use crate::table::table;
use crate::{print, workspace};

/// Compare ours with its C counterpart, run by run in alternation on one core
///
/// Absolute figures mean nothing on a shared machine; the ratio of two runs side by side does.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to compare
    bench: Bench,
    /// Pairs of runs for each case
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// Seconds for each run
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Bench {
    /// The null bdev against SPDK's bdev_null
    Null,
    /// The passthru bdev against SPDK's bdev_passthru, both over SPDK's bdev_null
    Passthru,
    /// Reads of SPDK's bdev_null through the client against those of SPDK's bdevperf
    Client,
}

/// The bdev that is read.
const DISK: &str = "null0";

/// One case's figures: medians of IOPS, and of the ratio of each pair, where above 1 ours is faster.
#[derive(Debug, Serialize)]
struct Figures {
    bench: String,
    case: String,
    ours: f64,
    theirs: f64,
    ratio: f64,
    /// The distance of the ratio's quartiles.
    spread: f64,
    pairs: usize,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let spdk = workspace::spdk()?;
    let figures = match args.bench {
        Bench::Null => null(&spdk, args)?,
        Bench::Passthru => passthru(&spdk, args)?,
        Bench::Client => client(&spdk, args)?,
    };
    let rows: Vec<_> = figures
        .iter()
        .map(|f| {
            [
                format!("{} {}", f.bench, f.case),
                format!("{:.0}", f.ours),
                format!("{:.0}", f.theirs),
                format!("{:.3}", f.ratio),
                format!("{:.3}", f.spread),
                f.pairs.to_string(),
            ]
        })
        .collect();
    print(&table(["case", "ours", "theirs", "ratio", "spread", "pairs"], &rows));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&figures).map_err(workspace::rig)?;
        std::fs::write(path, text + "\n")
            .map_err(|error| Error::new(format!("cannot write {} ({error})", path.display())))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn null(spdk: &Spdk, args: &Args) -> Result<Vec<Figures>> {
    // The plugin is loaded on both sides, so that the process is the same.
    let plugin = workspace::modules(spdk)?;
    let iops = |method: &str, depth: u32| {
        let config = Config::new().bdev(method, disk());
        bdevperf(spdk, config, depth, args, |perf| perf.plugin(&plugin))
    };
    let compare = |depth| {
        pairs(args, depth, || iops("bdev_rnull_create", depth), || iops("bdev_null_create", depth))
    };
    eprintln!("SPDK {}; {} pairs of {} s", describe(spdk), args.pairs, args.seconds);
    [1, 128].into_iter().map(compare).collect()
}

fn passthru(spdk: &Spdk, args: &Args) -> Result<Vec<Figures>> {
    const TOP: &str = "passthru0";
    let plugin = workspace::modules(spdk)?;
    let iops = |method: &str, depth: u32| {
        let params = json!({ "name": TOP, "base_bdev_name": DISK });
        let config = Config::new().bdev("bdev_null_create", disk()).bdev(method, params);
        bdevperf(spdk, config, depth, args, |perf| perf.plugin(&plugin).bdev(TOP))
    };
    let iops = &iops;
    let ours = |depth| move || iops("bdev_rpassthru_create", depth);
    let theirs = |depth| move || iops("bdev_passthru_create", depth);
    eprintln!("SPDK {}; {} pairs of {} s", describe(spdk), args.pairs, args.seconds);
    [1, 128].into_iter().map(|depth| pairs(args, depth, ours(depth), theirs(depth))).collect()
}

fn client(spdk: &Spdk, args: &Args) -> Result<Vec<Figures>> {
    eprintln!("Building the client against SPDK {}", spdk.version());
    let program = Build::package("spdk-plugin-bench-client").release().bin(spdk, "bench_client");
    let program = program.map_err(workspace::rig)?;
    let config = Config::new().bdev("bdev_null_create", disk());
    let compare = |depth| {
        let ours = || reads(spdk, &program, &config, depth, args);
        pairs(args, depth, ours, || bdevperf(spdk, config.clone(), depth, args, |perf| perf))
    };
    eprintln!("SPDK {}; {} pairs of {} s", describe(spdk), args.pairs, args.seconds);
    [1, 32, 128].into_iter().map(compare).collect()
}

/// The parameters of either null bdev.
fn disk() -> Value {
    json!({ "name": DISK, "num_blocks": 1_048_576, "block_size": 512 })
}

/// Random reads a second by SPDK's bdevperf.
fn bdevperf(
    spdk: &Spdk,
    config: Config,
    depth: u32,
    args: &Args,
    change: impl Fn(Bdevperf) -> Bdevperf,
) -> Result<f64> {
    let perf = Bdevperf::new(spdk, "randread").config(config).queue_depth(depth);
    let perf = perf.seconds(args.seconds).host(|host| host.core_mask(core()));
    Ok(change(perf).run().map_err(workspace::rig)?.iops)
}

/// The same by the program of the client.
fn reads(spdk: &Spdk, program: &Path, config: &Config, depth: u32, args: &Args) -> Result<f64> {
    let seconds = args.seconds;
    let host = Host::builder(spdk, program).config(config).core_mask(core());
    let host = host.args([format!("bdev={DISK}"), format!("depth={depth}")]);
    let run =
        host.arg(format!("seconds={seconds}")).run(Duration::from_secs(60 + u64::from(seconds)));
    let output = run.map_err(workspace::rig)?;
    let figure = output.log.lines().find_map(|line| line.strip_suffix(" IOPS")?.parse().ok());
    match figure {
        Some(iops) if output.status.success() => Ok(iops),
        _ => Err(Error::new(format!("bench_client: {}\n{}", output.status, output.log))),
    }
}

/// One core for all runs: the last, as the first has more of the machine's other work.
fn core() -> String {
    format!("[{}]", cpus().last().unwrap_or(&0))
}

fn pairs(
    args: &Args,
    depth: u32,
    ours: impl Fn() -> Result<f64>,
    theirs: impl Fn() -> Result<f64>,
) -> Result<Figures> {
    let mut pairs = Vec::new();
    for i in 0..args.pairs {
        // Whoever goes first has the warmer or the colder machine: take turns.
        let pair = if i % 2 == 0 {
            let ours = ours()?;
            (ours, theirs()?)
        } else {
            let theirs = theirs()?;
            (ours()?, theirs)
        };
        eprintln!("QD {depth}: {:.0} against {:.0}, {:.3}", pair.0, pair.1, pair.0 / pair.1);
        pairs.push(pair);
    }
    let ratios: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
    Ok(Figures {
        bench: match args.bench {
            Bench::Null => "null".into(),
            Bench::Passthru => "passthru".into(),
            Bench::Client => "client".into(),
        },
        case: format!("4 KiB randread, QD {depth}"),
        ours: quantile(pairs.iter().map(|pair| pair.0), 0.5),
        theirs: quantile(pairs.iter().map(|pair| pair.1), 0.5),
        ratio: quantile(ratios.iter().copied(), 0.5),
        spread: quantile(ratios.iter().copied(), 0.75) - quantile(ratios.iter().copied(), 0.25),
        pairs: pairs.len(),
    })
}

/// The value below which the part `q` of `values` lies, between neighbours by interpolation.
fn quantile(values: impl Iterator<Item = f64>, q: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let at = q * last as f64;
    let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_interpolate() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(values.into_iter(), 0.5), 2.5);
        assert_eq!(quantile(values.into_iter(), 0.0), 1.0);
        assert_eq!(quantile([7.0].into_iter(), 0.75), 7.0);
    }
}
