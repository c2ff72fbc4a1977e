//! The rounds of every server as a table.

/// A round of one server.
pub(crate) struct Sample {
    /// Microseconds of processor time a request.
    pub(crate) cost: f64,
    /// Requests a second.
    pub(crate) rate: f64,
}

/// A server.
pub(crate) struct Row {
    name: &'static str,
    /// The name of what it is compared with.
    baseline: &'static str,
    pub(crate) samples: Vec<Sample>,
    /// KiB.
    pub(crate) memory: u64,
}

impl Row {
    pub(crate) fn new(name: &'static str, baseline: &'static str) -> Row {
        Row { name, baseline, samples: Vec::new(), memory: 0 }
    }
}

const HEAD: [&str; 6] = ["server", "CPU µs/request", "ratio", "min – max", "requests/s", "PSS MiB"];

/// The middle one, and the extremes.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

fn cells(row: &Row, baseline: &Row) -> [String; 6] {
    let (_, cost, _) = spread(row.samples.iter().map(|sample| sample.cost));
    let (_, rate, _) = spread(row.samples.iter().map(|sample| sample.rate));
    let pairs = row.samples.iter().zip(&baseline.samples);
    let (least, ratio, most) = spread(pairs.map(|(sample, base)| sample.cost / base.cost));
    [
        row.name.to_owned(),
        format!("{cost:.2}"),
        format!("{ratio:.3}"),
        format!("{least:.2} – {most:.2}"),
        format!("{rate:.0}"),
        format!("{:.1}", row.memory as f64 / 1024.0),
    ]
}

fn table(rows: &[Row]) -> Vec<[String; 6]> {
    let baseline = |row: &Row| rows.iter().find(|other| other.name == row.baseline);
    let lines = rows.iter().map(|row| cells(row, baseline(row).unwrap_or(row)));
    std::iter::once(HEAD.map(str::to_owned)).chain(lines).collect()
}

/// For a terminal: names to the left, numbers to the right.
pub(crate) fn text(rows: &[Row]) -> String {
    let table = table(rows);
    let width = |column: usize| table.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for line in &table {
        text += &format!("{:<width$}", line[0], width = width(0));
        for (column, cell) in line.iter().enumerate().skip(1) {
            text += &format!("  {cell:>width$}", width = width(column));
        }
        text.push('\n');
    }
    text
}

/// For a document.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = String::new();
    for (number, line) in table(rows).iter().enumerate() {
        text += &format!("| {} |\n", line.join(" | "));
        if number == 0 {
            text += "|---|--:|--:|--:|--:|--:|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_the_rounds() {
        let row = |name, costs: [f64; 3]| {
            let samples = costs.map(|cost| Sample { cost, rate: 1e6 / cost }).into();
            Row { name, baseline: "base", samples, memory: 2048 }
        };
        // The second round was slow for both.
        let table = text(&[row("base", [10.0, 20.0, 10.0]), row("other", [12.0, 22.0, 13.0])]);
        let last = table.lines().last().unwrap_or_default();
        let words: Vec<&str> = last.split_whitespace().collect();
        assert_eq!(words, ["other", "13.00", "1.200", "1.10", "–", "1.30", "76923", "2.0"]);
    }
}
