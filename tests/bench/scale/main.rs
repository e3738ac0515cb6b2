//! What many objects cost: `make bench-scale`.
//!
//! `scale --gateway target/release/portcullis --out target/bench`: starts the gateway for each
//! part and size, fills it through the Admin API over kept connections (ssls by a standalone file
//! too), and prints one line per figure as it is known. `scale.json` and the table `scale.md` are
//! left in `--out`. `--parts ssls,routes,idle,idle-http2,objects` chooses parts, `--ssls`, `--routes`,
//! `--objects` and `--connections` their sizes, as lists. `--write FOLDER` measures nothing: it writes
//! the first of `--ssls` certificates with their keys, for peers (`tests/bench/many.sh`).
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a tool of the bench: its own contexts, its result on standard output"
)]

mod admin;
mod figures;
mod flood;
mod gateway;
mod idle;
mod objects;
mod pki;
mod routes;
mod ssls;
mod tls;
mod upstream;

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use figures::Figures;
use tls::Protocol;

/// Whatever keeps a figure from being taken.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// What is measured.
pub(crate) struct Plan {
    /// The program.
    pub(crate) gateway: PathBuf,
    out: PathBuf,
    parts: Vec<String>,
    ssls: Vec<usize>,
    routes: Vec<usize>,
    objects: Vec<usize>,
    connections: Vec<usize>,
    /// Where certificates are written to, instead of measuring.
    write: Option<PathBuf>,
}

fn main() -> ExitCode {
    match read_plan().and_then(|plan| run(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Plan) -> Result<(), Failure> {
    if let (Some(folder), Some(count)) = (&plan.write, plan.ssls.first()) {
        return ssls::write(folder, *count);
    }
    gateway::raise_file_limit();
    let mut figures = Figures::default();
    for part in &plan.parts {
        let sizes = match part.as_str() {
            "ssls" => &plan.ssls,
            "routes" => &plan.routes,
            "objects" => &plan.objects,
            "idle" | "idle-http2" => &plan.connections,
            other => return Err(format!("there is no part {other}").into()),
        };
        for size in sizes {
            match part.as_str() {
                "ssls" => ssls::measure(plan, *size, &mut figures)?,
                "routes" => routes::measure(plan, *size, &mut figures)?,
                "objects" => objects::measure(plan, *size, &mut figures)?,
                "idle-http2" => idle::measure(plan, Protocol::Http2, *size, &mut figures)?,
                _ => idle::measure(plan, Protocol::Http1, *size, &mut figures)?,
            }
        }
    }
    std::fs::create_dir_all(&plan.out)?;
    std::fs::write(plan.out.join("scale.md"), figures.table())?;
    std::fs::write(plan.out.join("scale.json"), figures.json())?;
    println!("{}", figures.table());
    Ok(())
}

fn read_plan() -> Result<Plan, Failure> {
    let mut given: HashMap<String, String> = HashMap::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let Some(name) = arg.strip_prefix("--") else {
            return Err(format!("what is {arg}?").into());
        };
        // `--bench` is what `cargo bench` adds.
        if name != "bench" {
            let value = args.next().ok_or(format!("--{name} needs a value"))?;
            given.insert(name.to_owned(), value);
        }
    }
    let text = |name: &str, default: &str| {
        let value = given.get(name);
        value.cloned().unwrap_or_else(|| default.to_owned())
    };
    let sizes = |name: &str, default: &str| -> Result<Vec<usize>, Failure> {
        let sizes = text(name, default);
        let sizes = sizes.split(',').map(str::parse).collect::<Result<_, _>>();
        sizes.map_err(|error| format!("--{name}: {error}").into())
    };
    let parts = text("parts", "ssls,routes,idle,idle-http2,objects");
    Ok(Plan {
        gateway: text("gateway", "target/release/portcullis").into(),
        out: text("out", "target/bench").into(),
        parts: parts.split(',').map(str::to_owned).collect(),
        ssls: sizes("ssls", "1000,10000,50000")?,
        routes: sizes("routes", "10,10000,100000")?,
        objects: sizes("objects", "10000")?,
        connections: sizes("connections", "1000,10000")?,
        write: given.get("write").map(PathBuf::from),
    })
}
