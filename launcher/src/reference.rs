//! The command line as a page for people, `docs/reference/cli.md`, from the definitions that parse it.

use std::fmt::Write as _;

use clap::{Arg, Command, ValueEnum};

/// What there is a page of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// docs/reference/cli.md
    Cli,
    /// docs/reference/configuration.md
    Configuration,
}

/// The page.
pub(crate) fn page(subject: Subject, command: Command) -> String {
    match subject {
        Subject::Configuration => launcher::config::reference(),
        Subject::Cli => command_line(command),
    }
}

fn command_line(mut command: Command) -> String {
    command.build();
    let mut page = "# Command line\n\n\
        Written by `launcher reference cli` from the definitions that parse it; do not edit by hand. `launcher COMMAND \
        --help` says the same.\n\n\
        Exit codes: 0 done, 1 failed or refused, 2 misuse, bad configuration or an unusable plugin, 3 not running, 4 a \
        reload was rolled back.\n"
        .to_owned();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        describe(&mut page, verb);
    }
    page
}

fn describe(page: &mut String, verb: &Command) {
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim().trim_start_matches("Usage: ");
    let _ = write!(page, "\n## {}\n\n{about}.\n\n    {usage}\n", verb.get_name());
    let aliases: Vec<_> = verb.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        let _ = write!(page, "\nAlso {}.\n", aliases.join(", "));
    }
    let shown = |argument: &&Arg| !argument.is_hide_set() && argument.get_id() != "help";
    let arguments: Vec<_> = verb.get_arguments().filter(shown).collect();
    if arguments.is_empty() {
        return;
    }
    page.push_str("\n| | |\n|---|---|\n");
    for argument in arguments {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let words = argument.get_possible_values();
        let words: Vec<_> = words.iter().filter(|word| !word.is_hide_set()).map(|word| word.get_name()).collect();
        let takes = argument.get_action().takes_values();
        let words = match words.as_slice() {
            [] => String::new(),
            _ if !takes => String::new(),
            words => format!(": {}", words.join(", ")),
        };
        let default = argument.get_default_values().iter().filter(|_| takes).filter_map(|value| value.to_str());
        let default = default.map(|value| format!(" [default: {value}]")).collect::<String>();
        let _ = writeln!(page, "| `{}` | {} |", name(argument), format!("{help}{words}{default}").replace('|', "\\|"));
    }
}

fn name(argument: &Arg) -> String {
    let value = argument.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    let value = value.replace('|', "\\|");
    match (argument.get_short(), argument.get_long()) {
        (None, None) => value,
        (short, long) => {
            let flags = [short.map(|short| format!("-{short}")), long.map(|long| format!("--{long}"))];
            let flags = flags.into_iter().flatten().collect::<Vec<_>>().join(", ");
            if argument.get_action().takes_values() { format!("{flags} {value}") } else { flags }
        }
    }
}
