//! What was typed.

use std::path::PathBuf;
use std::time::Duration;

pub(crate) const USAGE: &str = "cargo run --release -p bench -- [NAME]... [OPTIONS]
  NAME             this scenario only: --list tells which there are
  --only NAME      the same
  --list           which scenarios there are
  --quick          a few short rounds: that it works, not how fast it is
  --rounds N       rounds of load (15)
  --seconds S      load for each server in a round (0.5)
  --connections C  keep-alive connections (16)
  --binary FILE    this launcher, and the plugins beside it; nothing is built
  --markdown       print Markdown
  --save NAME      write bench/results/NAME.md and NAME.svg as well
";

/// See [`USAGE`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    pub(crate) only: Vec<String>,
    pub(crate) list: bool,
    pub(crate) help: bool,
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) connections: usize,
    pub(crate) binary: Option<PathBuf>,
    pub(crate) markdown: bool,
    pub(crate) save: Option<String>,
}

impl Options {
    pub(crate) fn read(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            only: Vec::new(),
            list: false,
            help: false,
            quick: false,
            rounds: 0,
            time: Duration::ZERO,
            connections: 16,
            binary: None,
            markdown: false,
            save: None,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument}: its value is missing\n{USAGE}"));
            match argument.as_str() {
                "--list" => options.list = true,
                "--help" | "-h" => options.help = true,
                "--quick" => options.quick = true,
                "--markdown" => options.markdown = true,
                "--only" => options.only.push(value()?),
                "--binary" => options.binary = Some(value()?.into()),
                "--rounds" => options.rounds = positive(&argument, &value()?)?,
                "--connections" => options.connections = positive(&argument, &value()?)?,
                "--seconds" => {
                    let text = value()?;
                    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                    options.time = seconds.ok_or_else(|| format!("{argument} {text}: not a time\n{USAGE}"))?;
                }
                "--save" => {
                    let name = value()?;
                    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                    if name.starts_with('.') || name.is_empty() || !name.chars().all(plain) {
                        return Err(format!("--save {name}: a plain name, which becomes a file's\n{USAGE}"));
                    }
                    options.save = Some(name);
                }
                name if !name.starts_with('-') => options.only.push(argument),
                _ => return Err(format!("unknown argument {argument}\n{USAGE}")),
            }
        }
        let (rounds, time) = if options.quick { (3, 150) } else { (15, 500) };
        if options.rounds == 0 {
            options.rounds = rounds;
        }
        if options.time.is_zero() {
            options.time = Duration::from_millis(time);
        }
        Ok(options)
    }

    /// Whether a scenario is to be run.
    pub(crate) fn chooses(&self, scenario: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == scenario)
    }

    /// So many samples of something that takes a moment each: `many`, or a few if it is only to be seen that it works.
    pub(crate) fn samples(&self, many: usize) -> usize {
        if self.quick { many.min(3) } else { many }
    }
}

fn positive(name: &str, text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("{name} {text}: not a number from 1 on\n{USAGE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Options, String> {
        Options::read(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_is_typed_is_meant_or_refused() {
        let quick = read("--quick --only hello --only json --save a-1").expect("good");
        assert!(quick.chooses("json") && !quick.chooses("large") && quick.samples(50) == 3);
        assert_eq!((quick.rounds, quick.save.as_deref()), (3, Some("a-1")));
        let own = read("--quick --rounds 7 --seconds 0.25").expect("good");
        assert_eq!((own.rounds, own.time), (7, Duration::from_millis(250)));
        for bad in ["--rounds 0", "--seconds x", "--only", "--save ../a", "--fast"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
