//! For a terminal: names to the left, numbers to the right.

use crate::figures::Table;

pub(crate) fn document(machine: &[(&'static str, String)], tables: &[Table]) -> String {
    let mut text: String = machine.iter().map(|(name, value)| format!("{name:<16}{value}\n")).collect();
    tables.iter().for_each(|one| text += &table(one));
    text
}

pub(crate) fn table(table: &Table) -> String {
    let rows = super::cells(table);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = format!("\n{}: {}\n", table.scenario, table.title);
    for row in rows.iter().filter(|_| !table.lines.is_empty()) {
        let mut line = format!("  {:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        text += line.trim_end();
        text.push('\n');
    }
    for (what, why) in &table.missing {
        text += &format!("  without {what}: {}\n", why.lines().next().unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_stand_below_their_heads() {
        let text = super::table(&crate::report::example());
        let lines: Vec<&str> = text.lines().collect();
        let end = |line: &str, word: &str| line.find(word).map(|at| line[..at + word.len()].chars().count());
        assert_eq!(end(lines[2], "requests/s"), end(lines[4], "123"), "{text}");
        assert_eq!(lines[5], "  without nginx: not installed");
    }
}
