//! Tables for people: columns aligned by the width that a terminal gives a text, and colour where it is wanted.

use std::io::IsTerminal;

use unicode_width::UnicodeWidthStr;

use super::words::Escaped;

/// Between two columns.
const GAP: usize = 2;

/// Whether colours are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colours {
    /// To a terminal that knows them.
    On,
    /// To a file, a pipe, or somebody who does not want them.
    Off,
}

impl Colours {
    /// For this stream, and this environment: `NO_COLOR` (<https://no-color.org>) and `TERM=dumb` turn them off.
    pub(crate) fn of(stream: &impl IsTerminal) -> Colours {
        Self::decide(stream.is_terminal(), &|name| std::env::var_os(name).and_then(|value| value.into_string().ok()))
    }

    fn decide(terminal: bool, variable: &dyn Fn(&str) -> Option<String>) -> Colours {
        let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = variable("TERM").is_some_and(|value| value == "dumb");
        if terminal && !refused && !dumb { Colours::On } else { Colours::Off }
    }

    /// The text in this colour.
    pub(crate) fn paint(self, colour: Colour, text: &str) -> String {
        match (self, colour.code()) {
            (Colours::On, Some(code)) if !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// Colours of a terminal (ECMA-48, select graphic rendition).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
    Cyan,
}

impl Colour {
    fn code(self) -> Option<&'static str> {
        match self {
            Colour::Plain => None,
            Colour::Bold => Some("1"),
            Colour::Dim => Some("2"),
            Colour::Red => Some("31"),
            Colour::Green => Some("32"),
            Colour::Yellow => Some("33"),
            Colour::Blue => Some("34"),
            Colour::Magenta => Some("35"),
            Colour::Cyan => Some("36"),
        }
    }

    /// A colour to know a service by: the same in every command.
    pub(crate) fn of_name(name: &str) -> Colour {
        const NAMES: [Colour; 4] = [Colour::Cyan, Colour::Magenta, Colour::Blue, Colour::Green];
        let sum = name.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        NAMES[sum % NAMES.len()]
    }
}

/// On which side of its column a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    /// Text of ours or of others: control characters are shown.
    pub(crate) fn new(text: impl AsRef<str>) -> Cell {
        Cell::coloured(text, Colour::Plain)
    }

    pub(crate) fn coloured(text: impl AsRef<str>, colour: Colour) -> Cell {
        // A tab has no width of its own.
        Cell { text: Escaped(text.as_ref()).to_string().replace('\t', " "), colour }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::new(text)
    }
}

/// Rows of cells, and lines between them that keep to no column.
#[derive(Debug)]
pub(crate) struct Table {
    sides: Vec<Side>,
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Row {
    Cells(Vec<Cell>),
    Line(Cell),
}

impl Table {
    /// A table with this head; each column has a side.
    pub(crate) fn new(head: &[(&str, Side)]) -> Table {
        let names = head.iter().map(|(name, _)| Cell::coloured(name, Colour::Dim)).collect();
        Table { sides: head.iter().map(|(_, side)| *side).collect(), rows: vec![Row::Cells(names)] }
    }

    /// Adds a row, a cell for each column from the left.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert!(cells.len() <= self.sides.len());
        self.rows.push(Row::Cells(cells));
    }

    /// Adds a line of its own.
    pub(crate) fn line(&mut self, text: impl AsRef<str>, colour: Colour) {
        self.rows.push(Row::Line(Cell::coloured(text, colour)));
    }

    /// As text that ends with a line break. No line ends with spaces.
    pub(crate) fn render(&self, colours: Colours) -> String {
        let mut widths = vec![0; self.sides.len()];
        for row in &self.rows {
            if let Row::Cells(cells) = row {
                for (width, cell) in widths.iter_mut().zip(cells) {
                    *width = cell.text.width().max(*width);
                }
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            match row {
                Row::Line(cell) => text += &colours.paint(cell.colour, &cell.text),
                Row::Cells(cells) => self.render_row(cells, &widths, colours, &mut text),
            }
            text.push('\n');
        }
        text
    }

    fn render_row(&self, cells: &[Cell], widths: &[usize], colours: Colours, text: &mut String) {
        // Spaces are written before the next cell that has a text.
        let mut owed = 0;
        for (index, ((cell, width), side)) in cells.iter().zip(widths).zip(&self.sides).enumerate() {
            let own = cell.text.width();
            let missing = width - own;
            let gap = if index == 0 { 0 } else { GAP };
            let (before, after) = match side {
                Side::Left => (0, missing),
                Side::Right => (missing, 0),
            };
            owed += gap + before;
            if own > 0 {
                text.extend(std::iter::repeat_n(' ', owed));
                *text += &colours.paint(cell.colour, &cell.text);
                owed = 0;
            }
            owed += after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_a_terminal_shows() {
        let mut table = Table::new(&[("NAME", Side::Left), ("N", Side::Right), ("WHERE", Side::Left)]);
        table.row(vec!["日本".into(), "1".into(), "here".into()]);
        table.row(vec!["e\u{301}".into(), "12345".into(), "".into()]);
        table.line("  a line that keeps to no column", Colour::Dim);
        table.row(vec!["".into(), "".into(), "there".into()]);
        let lines = [
            "NAME      N  WHERE",
            "日本      1  here",
            "e\u{301}     12345",
            "  a line that keeps to no column",
            "             there",
        ];
        assert_eq!(table.render(Colours::Off), lines.join("\n") + "\n");
    }

    #[test]
    fn colour_does_not_move_a_column_and_foreign_text_brings_none() {
        let mut table = Table::new(&[("A", Side::Left), ("B", Side::Left)]);
        table.row(vec![Cell::coloured("ok", Colour::Green), Cell::new("\x1b[31mred\n\there")]);
        assert_eq!(
            table.render(Colours::On),
            "\x1b[2mA\x1b[0m   \x1b[2mB\x1b[0m\n\x1b[32mok\x1b[0m  \\u{1b}[31mred\\n here\n"
        );
    }

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        let decide = |terminal, variables: &[(&str, &str)]| {
            Colours::decide(terminal, &|name| {
                variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(decide(true, &[]), Colours::On);
        assert_eq!(decide(true, &[("NO_COLOR", ""), ("TERM", "xterm")]), Colours::On);
        assert_eq!(decide(true, &[("NO_COLOR", "1")]), Colours::Off);
        assert_eq!(decide(true, &[("TERM", "dumb")]), Colours::Off);
        assert_eq!(decide(false, &[("CLICOLOR_FORCE", "1")]), Colours::Off);
    }

    #[test]
    fn a_name_keeps_its_colour() {
        assert_eq!(Colour::of_name("shop"), Colour::of_name("shop"));
        assert_ne!(Colour::of_name("a"), Colour::of_name("b"));
    }
}
