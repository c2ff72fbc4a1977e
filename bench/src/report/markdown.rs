//! For a document.

use crate::figures::Table;

pub(crate) fn document(machine: &[(&'static str, String)], tables: &[Table]) -> String {
    let mut text = "# What the launcher costs\n\n| | |\n|---|---|\n".to_owned();
    machine.iter().for_each(|(name, value)| text += &format!("| {name} | {} |\n", escaped(value)));
    for table in tables {
        text += &format!("\n## {}: {}\n\n", table.scenario, table.title);
        if !table.lines.is_empty() {
            for (number, row) in super::cells(table).iter().enumerate() {
                let cells: Vec<String> = row.iter().map(|cell| escaped(cell)).collect();
                text += &format!("| {} |\n", cells.join(" | "));
                if number == 0 {
                    text += &format!("|---|{}\n", "--:|".repeat(row.len() - 1));
                }
            }
        }
        for (what, why) in &table.missing {
            let why = why.lines().next().unwrap_or_default();
            text += &format!("\nWithout {}: {}\n", escaped(what), escaped(why));
        }
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_row_has_every_column() {
        let text = super::document(&[("kernel", "6 | x".to_owned())], &[crate::report::example()]);
        assert!(text.contains("| kernel | 6 \\| x |\n"), "{text}");
        let rows: Vec<_> =
            text.lines().skip_while(|line| !line.starts_with("## ")).filter(|l| l.starts_with('|')).collect();
        assert_eq!(rows.len(), 4);
        assert!(rows.iter().all(|row| row.matches('|').count() == rows[0].matches('|').count()), "{text}");
        assert!(text.contains("Without nginx: not installed"), "{text}");
    }
}
