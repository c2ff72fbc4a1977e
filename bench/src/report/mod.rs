//! Tables as somebody sees them.

pub(crate) mod markdown;
pub(crate) mod svg;
pub(crate) mod text;

use crate::figures::{Spread, Table, Target, Verdict};

/// A table's cells, the heads first. The first column is text, the others are numbers.
fn cells(table: &Table) -> Vec<Vec<String>> {
    let mut baselines: Vec<&'static str> = Vec::new();
    for against in table.lines.iter().flat_map(|line| &line.against) {
        if !baselines.contains(&against.baseline) {
            baselines.push(against.baseline);
        }
    }
    let mut head = vec![String::new(), format!("{}, median", table.unit), "quartiles".to_owned()];
    let own_targets = table.lines.iter().any(|line| line.target.is_some());
    if own_targets {
        head.push("must, goal".to_owned());
    }
    for baseline in &baselines {
        head.extend([format!("÷ {baseline}"), "quartiles".to_owned(), "must, goal".to_owned()]);
    }
    head.extend(table.more.iter().map(|name| (*name).to_owned()));
    let mut rows = vec![head];
    for line in &table.lines {
        let spread = Spread::of(&line.samples);
        let mut row = vec![line.subject.clone()];
        row.extend(spread_cells(spread));
        if own_targets {
            row.push(target_cell(line.target, spread));
        }
        for baseline in &baselines {
            let against = line.against.iter().find(|against| against.baseline == *baseline);
            let spread = against.and_then(|against| Spread::of(&against.ratios));
            row.extend(spread_cells(spread));
            row.push(target_cell(against.and_then(|against| against.target), spread));
        }
        row.extend((0..table.more.len()).map(|at| line.more.get(at).cloned().unwrap_or_default()));
        rows.push(row);
    }
    rows
}

fn spread_cells(spread: Option<Spread>) -> [String; 2] {
    match spread {
        Some(spread) => [number(spread.median), format!("{} – {}", number(spread.low), number(spread.high))],
        None => [String::new(), String::new()],
    }
}

fn target_cell(target: Option<Target>, spread: Option<Spread>) -> String {
    let (Some(target), Some(spread)) = (target, spread) else { return String::new() };
    let mark = match target.verdict(spread.median) {
        Verdict::Goal => "✓✓",
        Verdict::Good => "✓",
        Verdict::Missed => "✗",
    };
    format!("{}, {} {mark}", number(target.must), number(target.goal))
}

/// With three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
pub(crate) fn example() -> Table {
    use crate::figures::Line;
    let mut table = Table::new("hello", "a hello & more", "CPU µs");
    let base = Line::new("bare", vec![10.0, 20.0, 10.0]);
    let mut other = Line::new("other <one>", vec![12.0, 22.0, 13.0]).target(15.0, 10.0);
    other.compare("bare", &base.samples, Some(Target { must: 1.1, goal: 1.05 }));
    table.more = vec!["requests/s"];
    other.more = vec!["123".to_owned()];
    table.lines = vec![base, other];
    table.missing("nginx", "not installed");
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_figure_its_ratio_and_what_it_should_be() {
        let rows = cells(&example());
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{rows:?}");
        assert_eq!(rows[2][..4], ["other <one>", "13.0", "12.5 – 17.5", "15.0, 10.0 ✓"].map(str::to_owned));
        assert_eq!(rows[2][4..], ["1.20", "1.15 – 1.25", "1.10, 1.05 ✗", "123"].map(str::to_owned));
        assert_eq!([0.1234, 7.896, 12.34, 1234.5].map(number), ["0.123", "7.90", "12.3", "1234"]);
    }
}
