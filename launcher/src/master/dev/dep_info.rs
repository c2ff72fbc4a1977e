//! Cargo's dep-info: which files an artefact was made from. Beside `libx.so` lies `libx.d`, a rule of make: the artefact,
//! a colon, the sources; spaces in names are escaped (The Cargo Book, "Build Cache").

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The sources of an artefact, absolute; `None`: nobody has written them down.
pub(super) fn sources(artefact: &Path, base: &Path) -> Option<BTreeSet<PathBuf>> {
    let text = std::fs::read_to_string(artefact.with_extension("d")).ok()?;
    let sources = parse(&text, base);
    (!sources.is_empty()).then_some(sources)
}

fn parse(text: &str, base: &Path) -> BTreeSet<PathBuf> {
    let rules = text.lines().filter_map(|line| line.split_once(": "));
    rules.flat_map(|(_, sources)| names(sources)).map(|name| base.join(name)).collect()
}

/// Names between spaces that no backslash stands before.
fn names(text: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, names.last_mut()) {
            ('\\', Some(name)) if characters.peek() == Some(&' ') => {
                name.push(' ');
                characters.next();
            }
            (' ', _) => names.push(String::new()),
            (other, Some(name)) => name.push(other),
            (_, None) => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_with_their_spaces() {
        let text = "/p/target/release/libx.so: /p/my\\ src/lib.rs /p/a.html src/b.rs\n\n/p/a.html:\n";
        let expected = ["/p/my src/lib.rs", "/p/a.html", "/p/src/b.rs"].map(PathBuf::from);
        assert_eq!(parse(text, Path::new("/p")), BTreeSet::from(expected));
    }
}
