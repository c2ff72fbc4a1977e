//! `launcher plan` and `launcher apply`: what a configuration would change in the running launcher, and changing it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use launcher::api::{Applied, Change, ChangeKind, ConfigFile, Plan};

use super::client::{Failure, Master};
use super::orders::{self, Order};
use super::progress::Progress;
use super::table::{Colour, Colours};
use super::{Ended, Format, Wait, print, print_json, words};

/// `launcher plan [FILE]`
pub(crate) fn plan(file: &Path, format: Format) -> Result<Ended, Failure> {
    let master = Master::of(file)?;
    let exchange = master.send("POST", "/v1/config/plan", Some(&body(file)?))?;
    let plan = exchange.answer(None)?.json::<Plan>()?;
    match format {
        Format::Json => print_json(&plan)?,
        Format::Table => print(render(&plan, Colours::of(&io::stdout())).as_bytes())?,
    }
    Ok(Ended::Done)
}

/// `launcher apply [FILE]`
pub(crate) fn apply(file: &Path, wait: Wait, format: Format) -> Result<Ended, Failure> {
    let master = Master::of(file)?;
    let target = if wait == Wait::End { "/v1/config/apply?wait=true" } else { "/v1/config/apply" };
    let exchange = master.send("POST", target, Some(&body(file)?))?;
    let (order, since) = (Order::Apply, Instant::now());
    let mut progress = Progress::of(&master, &order, &[]);
    let answer = exchange.answer(Some(&mut |_| progress.tick(since.elapsed())));
    drop(progress);
    let applied = answer?.json::<Applied>()?;
    match format {
        Format::Json => print_json(&applied)?,
        Format::Table => {
            print(render(&applied.plan, Colours::of(&io::stdout())).as_bytes())?;
            orders::tell_each(&order, &applied.outcomes)?;
        }
    }
    Ok(orders::ended(&applied.outcomes))
}

fn body(file: &Path) -> Result<Vec<u8>, Failure> {
    // The master has another working directory.
    let absolute: PathBuf = std::path::absolute(file).map_err(Failure::File)?;
    let Some(path) = absolute.to_str().map(str::to_owned) else {
        return Err(Failure::File(io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8")));
    };
    serde_json::to_vec(&ConfigFile { path: Some(path) }).map_err(|error| Failure::File(error.into()))
}

fn render(plan: &Plan, colours: Colours) -> String {
    let mut text = format!("{}\n", words::Escaped(&plan.path));
    for Change { service, kind, differences } in &plan.changes {
        let (mark, what, colour) = match kind {
            ChangeKind::Added => ('+', "is added", Colour::Green),
            ChangeKind::Removed => ('-', "is removed", Colour::Red),
            ChangeKind::Adjusted => ('~', "is adjusted, its workers stay", Colour::Cyan),
            ChangeKind::Replaced => ('~', "gets a new generation", Colour::Yellow),
        };
        text += &colours.paint(colour, &format!("  {mark} {} {what}", words::Escaped(service)));
        text.push('\n');
        for difference in differences {
            text += &format!("      {}\n", words::Escaped(difference));
        }
    }
    for setting in &plan.master {
        text += &colours.paint(Colour::Yellow, &format!("  ! at the next start only: {}", words::Escaped(setting)));
        text.push('\n');
    }
    let same = words::counted(plan.unchanged.len(), "service stays as it is", "services stay as they are");
    match (plan.changes.is_empty() && plan.master.is_empty(), plan.unchanged.is_empty()) {
        (true, _) => text += "  nothing changes\n",
        (false, true) => {}
        (false, false) => text += &format!("  = {same}\n"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_what_changes_and_counts_what_does_not() {
        let change = |service: &str, kind, differences: &[&str]| Change {
            service: service.to_owned(),
            kind,
            differences: differences.iter().map(|text| (*text).to_owned()).collect(),
        };
        let mut plan = Plan {
            path: "/srv/config.yaml".into(),
            changes: vec![
                change("blog", ChangeKind::Added, &[]),
                change("old\x1b", ChangeKind::Removed, &[]),
                change("shop", ChangeKind::Adjusted, &["workers: 2 -> 4"]),
                change("tea", ChangeKind::Replaced, &["plugin: a.wasm -> b.wasm", "env: changed"]),
            ],
            unchanged: vec!["x".into(), "y".into()],
            master: vec!["admin: off -> 127.0.0.1:9090".into()],
        };
        let expected = "\
/srv/config.yaml
  + blog is added
  - old\\u{1b} is removed
  ~ shop is adjusted, its workers stay
      workers: 2 -> 4
  ~ tea gets a new generation
      plugin: a.wasm -> b.wasm
      env: changed
  ! at the next start only: admin: off -> 127.0.0.1:9090
  = 2 services stay as they are
";
        assert_eq!(render(&plan, Colours::Off), expected);
        plan.changes.clear();
        plan.master.clear();
        assert_eq!(render(&plan, Colours::Off), "/srv/config.yaml\n  nothing changes\n");
    }
}
