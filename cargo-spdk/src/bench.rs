//! `cargo spdk bench`: the project's modules against C's, in pairs on one core.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;
use spdk_plugin_build::Spdk;
use spdk_plugin_rig::{Bdevperf, Config};

use crate::error::{Error, Result};
use crate::setup::describe;
use crate::table::table;
use crate::{print, workspace};

/// Compare a module with its C counterpart, run by run in alternation
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
}

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
    let plugin = workspace::modules(&spdk)?;
    eprintln!("SPDK {}; {} pairs of {} s", describe(&spdk), args.pairs, args.seconds);
    let figures = match args.bench {
        Bench::Null => [1, 128]
            .into_iter()
            .map(|depth| null(&spdk, &plugin, depth, args))
            .collect::<Result<Vec<_>>>()?,
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

fn null(spdk: &Spdk, plugin: &PathBuf, depth: u32, args: &Args) -> Result<Figures> {
    let iops = |method: &str| -> Result<f64> {
        let params = json!({ "name": "null0", "num_blocks": 1_048_576, "block_size": 512 });
        // The plugin is loaded on both sides, so that the process is the same.
        let perf = Bdevperf::new(spdk, "randread")
            .plugin(plugin)
            .config(Config::new().bdev(method, params))
            .queue_depth(depth)
            .seconds(args.seconds)
            .run()
            .map_err(workspace::rig)?;
        Ok(perf.iops)
    };
    let mut pairs = Vec::new();
    for i in 0..args.pairs {
        // Whoever goes first has the warmer or the colder machine: take turns.
        let pair = if i % 2 == 0 {
            let ours = iops("bdev_rnull_create")?;
            (ours, iops("bdev_null_create")?)
        } else {
            let theirs = iops("bdev_null_create")?;
            (iops("bdev_rnull_create")?, theirs)
        };
        eprintln!("QD {depth}: {:.0} against {:.0}, {:.3}", pair.0, pair.1, pair.0 / pair.1);
        pairs.push(pair);
    }
    let ratios: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
    Ok(Figures {
        bench: "null".into(),
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
