//! What the launcher costs and how fast it is, beside a bare server and other servers. See `README.md`.
//!
//! Flow: build, then one scenario after the other. A scenario starts what it compares and measures it in rounds, one after
//! the other within a round, so that what slows the machine down slows all; a ratio is one of two figures of the same
//! round. What comes out are tables, which are shown as text or Markdown and drawn as SVG.

mod bare;
mod bench;
mod figures;
mod load;
mod machine;
mod options;
mod report;
mod scenarios;
mod server;
mod spread;
mod supervised;
mod usage;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use bench::Bench;
use figures::Table;
use options::{Options, USAGE};
use report::{markdown, svg, text};
use scenarios::SCENARIOS;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("bare") => bare::serve(&arguments[1..]),
        _ => Options::read(arguments.into_iter()).map_err(Into::into).and_then(|options| run(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    if options.help {
        print!("{USAGE}");
        return Ok(());
    }
    if options.only == ["spread"] {
        return spread::run(&Bench::prepare(project()?, options)?);
    }
    let chosen: Vec<_> = SCENARIOS.iter().filter(|scenario| options.chooses(scenario.name)).collect();
    if options.list || chosen.is_empty() {
        for scenario in SCENARIOS {
            println!("{:<12} {}", scenario.name, scenario.about);
        }
        println!("{:<12} how connections spread over workers, by every policy; only by itself", "spread");
        let unknown = format!("no scenario is called {}", options.only.join(" or "));
        return if chosen.is_empty() { Err(unknown.into()) } else { Ok(()) };
    }
    let project = project()?;
    let bench = Bench::prepare(project, options)?;
    let mut tables: Vec<Table> = Vec::new();
    for scenario in chosen {
        eprintln!("bench: {}: {}", scenario.name, scenario.about);
        match (scenario.run)(&bench) {
            Ok(more) => {
                for table in &more {
                    // As they come: the whole takes its time.
                    eprint!("{}", text::table(table));
                }
                tables.extend(more);
            }
            Err(reason) => {
                eprintln!("bench: {} failed: {reason}", scenario.name);
                let mut table = Table::new(scenario.name, scenario.about, "");
                table.missing("all of it", reason);
                tables.push(table);
            }
        }
    }
    let machine = machine::describe(&bench);
    if options.markdown {
        print!("{}", markdown::document(&machine, &tables));
    } else {
        print!("{}", text::document(&machine, &tables));
    }
    if let Some(name) = &options.save {
        let directory = project.join("bench/results");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("{name}.svg")), svg::document(&tables))?;
        let drawn = format!("{}\n![the figures]({name}.svg)\n", markdown::document(&machine, &tables));
        fs::write(directory.join(format!("{name}.md")), drawn)?;
        eprintln!("bench: written to {}", directory.join(name).with_extension("md").display());
    }
    Ok(())
}

fn project() -> Result<&'static Path, Box<dyn Error>> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the project's directory is gone")?)
}
