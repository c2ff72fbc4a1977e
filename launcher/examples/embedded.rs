//! A program that runs services of its own: `cargo run --release -p launcher --example embedded`.
//!
//! Serves `plugins/hello.wat` on 127.0.0.1:8080, prints what happens, and does what is typed: `scale 4`, `reload`,
//! `restart`, `status`, `stop`.

use std::error::Error;
use std::io::BufRead;
use std::path::Path;

use launcher::facts::{Fact, What};
use launcher::{Configuration, Launcher, Service};

fn main() -> Result<(), Box<dyn Error>> {
    // The workers are processes of this very program: this is where they part.
    launcher::worker_entry();

    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let hello = Service::new(plugins.join("hello.wat")).listen(address).workers(2).set("wasm.memory", "16MiB");
    let launcher = Launcher::start(&Configuration::new().service("hello", hello))?;

    let mut events = launcher.events();
    let printer = std::thread::spawn(move || {
        while let Some(event) = events.wait_next() {
            match &event.what {
                // Facts are values. These fields are typed.
                What::Fact(Fact::Ready { worker, took_ms, .. }) => {
                    println!("{}/{} serves after {took_ms} ms", worker.service, worker.slot.0);
                }
                // And each is a sentence.
                What::Fact(_) | What::Line(_) => println!("{event}"),
            }
        }
    });

    let serving = launcher.serving().wait()?;
    println!("these serve: {}", serving.services.join(", "));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let outcome = match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["scale", workers] => launcher.scale("hello", workers.parse()?),
            ["reload"] => launcher.reload("hello"),
            ["restart"] => launcher.restart("hello"),
            ["status"] => {
                for service in launcher.status().wait()?.services {
                    println!("{}: {:?} at {}", service.name, service.state, service.listeners.join(", "));
                }
                continue;
            }
            ["stop"] => break,
            _ => {
                println!("scale N, reload, restart, status, stop");
                continue;
            }
        };
        match outcome.wait() {
            Ok(outcome) => println!("{:?} after {} ms", outcome.result, outcome.took_ms),
            Err(refusal) => println!("{refusal}"),
        }
    }

    launcher.stop().wait()?;
    printer.join().map_err(|_| "the printing thread panicked")?;
    Ok(())
}
