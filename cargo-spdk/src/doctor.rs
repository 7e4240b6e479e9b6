//! `cargo spdk doctor`: what the machine has, what it lacks, and how to mend that.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use spdk_plugin_build::{FindError, Spdk};

use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::print;
use crate::setup::{describe, look};
use crate::tools::{self, Found, Need, TOOLS, Tool};

/// Show the SPDK, the memory mode and the tools of this machine, and what to type for each thing missing
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the same as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing that is needed is missing.
    ok: bool,
    spdk: SpdkReport,
    memory: Memory,
    tools: Vec<ToolReport>,
}

#[derive(Debug, Serialize)]
struct SpdkReport {
    version: Option<String>,
    path: Option<String>,
    found_by: Option<String>,
    shared: bool,
    #[serde(rename = "static")]
    archives: bool,
    missing: Option<String>,
    #[serde(skip)]
    line: String,
}

#[derive(Debug, Serialize)]
struct ToolReport {
    name: &'static str,
    needed_for: Need,
    needed_now: bool,
    found: Option<Found>,
    mend: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let report = Report::make();
    let text = match args.json {
        true => {
            serde_json::to_string_pretty(&report).map_err(|error| Error::new(error.to_string()))?
                + "\n"
        }
        false => report.text(),
    };
    print(&text);
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Report {
    fn make() -> Self {
        let spdk = SpdkReport::new(&look());
        let has_spdk = spdk.missing.is_none();
        let tools: Vec<ToolReport> =
            TOOLS.iter().map(|tool| ToolReport::new(tool, has_spdk)).collect();
        Report {
            ok: has_spdk && tools.iter().all(|tool| tool.found.is_some() || !tool.needed_now),
            spdk,
            memory: Memory::look(),
            tools,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "SPDK      {}", self.spdk.line);
        let _ = writeln!(text, "memory    {}", self.memory.line());
        let _ = writeln!(text, "\ntools");
        for tool in &self.tools {
            let _ = writeln!(text, "{}", tool.line());
        }
        let _ = writeln!(text, "\n{}", self.advice());
        text
    }

    /// What to type next.
    fn advice(&self) -> String {
        let lacking = self.tools.iter().filter(|tool| tool.found.is_none() && tool.needed_now);
        let lacking: Vec<&'static Tool> = lacking.filter_map(ToolReport::tool).collect();
        let mut steps = Vec::new();
        let packages = tools::packages(&lacking);
        if !packages.is_empty() {
            steps.push(tools::install_command(&packages));
        }
        steps.extend(self.spdk.missing.clone());
        match steps.is_empty() {
            true if self.ok => "Nothing that is needed is missing.".to_owned(),
            true => "Something that is needed is missing: see above.".to_owned(),
            false => format!(
                "Something that is needed is missing. To mend it:\n  {}",
                steps.join("\n  ")
            ),
        }
    }
}

impl SpdkReport {
    fn new(found: &Result<Spdk, FindError>) -> Self {
        match found {
            Ok(spdk) => SpdkReport {
                version: Some(spdk.version().to_string()),
                path: Some(spdk.prefix().display().to_string()),
                found_by: Some(spdk.source().to_string()),
                shared: spdk.has_shared(),
                archives: spdk.has_static(),
                missing: None,
                line: format!("{} (found by {})", describe(spdk), spdk.source()),
            },
            Err(error) => SpdkReport {
                version: None,
                path: None,
                found_by: None,
                shared: false,
                archives: false,
                missing: Some(match error {
                    FindError::Nowhere if tools::which("apt-get").is_none() => {
                        tools::GUIDE.to_owned()
                    }
                    FindError::Nowhere => "cargo spdk setup".to_owned(),
                    other => other.to_string(),
                }),
                line: match error {
                    FindError::Nowhere => "none found".to_owned(),
                    _ => "none usable".to_owned(),
                },
            },
        }
    }
}

impl ToolReport {
    fn new(tool: &Tool, has_spdk: bool) -> Self {
        let found = tool.look();
        let mend = if found.is_none() { Some(tool.mend()) } else { None };
        let needed_now = match tool.need {
            Need::Build => true,
            Need::Setup => !has_spdk,
            Need::Test => false,
        };
        ToolReport { name: tool.name, needed_for: tool.need, needed_now, found, mend }
    }

    fn tool(&self) -> Option<&'static Tool> {
        TOOLS.iter().find(|tool| tool.name == self.name)
    }

    fn line(&self) -> String {
        let name = self.name;
        if let Some(Found { path, version }) = &self.found {
            let line = format!("  {name:<18}{version:<12}{}", path.display());
            return line;
        }
        let mend = self.mend.as_deref().unwrap_or("");
        let grade = match (self.needed_now, self.need_text()) {
            (true, _) => "missing".to_owned(),
            (false, text) => format!("not here (needed {text} only)"),
        };
        format!("  {name:<18}{grade}: {mend}")
    }

    fn need_text(&self) -> &'static str {
        match self.needed_for {
            Need::Build => "to build",
            Need::Setup => "by cargo spdk setup",
            Need::Test => "by cargo spdk test",
        }
    }
}
