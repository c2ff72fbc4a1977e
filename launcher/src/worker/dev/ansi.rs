//! What a compiler wrote for a terminal, as HTML: colours and bold become spans (ECMA-48, SGR), everything else of that
//! kind goes.

use std::fmt::Write as _;

/// Colours 30 to 37 and their bright forms, readable on a dark ground.
const COLOURS: [&str; 8] = ["#6b7280", "#ff7a70", "#7ee787", "#f2cc60", "#79c0ff", "#d2a8ff", "#76e3ea", "#e6e6e6"];

/// Text that stands for itself in HTML.
pub(super) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    text.chars().for_each(|character| push(&mut html, character));
    html
}

fn push(html: &mut String, character: char) {
    match character {
        '<' => html.push_str("&lt;"),
        '>' => html.push_str("&gt;"),
        '&' => html.push_str("&amp;"),
        '"' => html.push_str("&quot;"),
        '\n' | '\t' => html.push(character),
        control if control.is_control() => {}
        character => html.push(character),
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Style {
    bold: bool,
    colour: Option<usize>,
}

/// Text with escape sequences as HTML.
pub(super) fn to_html(text: &str) -> String {
    let mut html = String::with_capacity(text.len() * 2);
    let (mut style, mut shown) = (Style::default(), Style::default());
    for piece in Pieces(text) {
        match piece {
            Piece::Style(parameters) => apply(&mut style, parameters),
            Piece::Text(character) => {
                if style != shown {
                    if shown != Style::default() {
                        html.push_str("</span>");
                    }
                    open(&mut html, style);
                    shown = style;
                }
                push(&mut html, character);
            }
        }
    }
    if shown != Style::default() {
        html.push_str("</span>");
    }
    html
}

/// The text without escape sequences.
pub(super) fn plain(text: &str) -> String {
    let pieces = Pieces(text).filter_map(|piece| match piece {
        Piece::Text(character) if character == '\n' || character == '\t' || !character.is_control() => Some(character),
        _ => None,
    });
    pieces.collect()
}

fn open(html: &mut String, style: Style) {
    if style == Style::default() {
        return;
    }
    html.push_str("<span style=\"");
    if style.bold {
        html.push_str("font-weight:bold;");
    }
    if let Some(colour) = style.colour.and_then(|colour| COLOURS.get(colour)) {
        let _ = write!(html, "color:{colour};");
    }
    html.push_str("\">");
}

/// Select Graphic Rendition, as far as compilers use it.
fn apply(style: &mut Style, parameters: &str) {
    let mut numbers = parameters.split([';', ':']).map(|number| number.parse::<usize>().unwrap_or(0));
    while let Some(number) = numbers.next() {
        match number {
            0 => *style = Style::default(),
            1 => style.bold = true,
            22 => style.bold = false,
            30..=37 => style.colour = Some(number - 30),
            90..=97 => style.colour = Some(number - 90),
            39 => style.colour = None,
            // 256 colours: the first sixteen are those above. Of others, and of true colour, only the length matters.
            38 | 48 => {
                let colour = match numbers.next() {
                    Some(5) => numbers.next().filter(|colour| *colour < 16).map(|colour| colour % 8),
                    Some(2) => {
                        numbers.by_ref().take(3).for_each(drop);
                        None
                    }
                    _ => None,
                };
                if number == 38 {
                    style.colour = colour;
                }
            }
            _ => {}
        }
    }
}

enum Piece<'a> {
    Text(char),
    /// The parameters of an SGR sequence.
    Style(&'a str),
}

/// A text, cut into characters and what changes their style; other sequences are passed over.
struct Pieces<'a>(&'a str);

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        loop {
            let mut characters = self.0.chars();
            let character = characters.next()?;
            let rest = characters.as_str();
            if character != '\u{1b}' {
                self.0 = rest;
                return Some(Piece::Text(character));
            }
            match rest.chars().next() {
                // Control Sequence Introducer: parameters, then a letter.
                Some('[') => {
                    let body = &rest[1..];
                    let end = body.find(|c: char| ('\u{40}'..='\u{7e}').contains(&c)).unwrap_or(body.len());
                    let (parameters, last) = body.split_at(end);
                    self.0 = last.get(1..).unwrap_or_default();
                    if last.starts_with('m') {
                        return Some(Piece::Style(parameters));
                    }
                }
                // Operating System Command (hyperlinks of cargo and gcc): up to BEL or ST.
                Some(']') => {
                    let end = rest.find(['\u{7}', '\u{1b}']).unwrap_or(rest.len());
                    let after = &rest[end..];
                    self.0 = after.strip_prefix("\u{1b}\\").or_else(|| after.strip_prefix('\u{7}')).unwrap_or(after);
                }
                Some(other) => self.0 = &rest[other.len_utf8()..],
                None => self.0 = rest,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_spans_and_the_text_is_escaped() {
        let html = to_html("\u{1b}[1m\u{1b}[38;5;9merror\u{1b}[0m: expected `<T>`\u{1b}[K & more");
        let span = "<span style=\"font-weight:bold;color:#ff7a70;\">error</span>";
        assert_eq!(html, format!("{span}: expected `&lt;T&gt;` &amp; more"));
    }

    #[test]
    fn hyperlinks_and_broken_sequences_leave_their_text() {
        let text = "\u{1b}]8;;https://example.com\u{1b}\\E0308\u{1b}]8;;\u{1b}\\ x\u{1b}[";
        assert_eq!(plain(text), "E0308 x");
        assert_eq!(to_html(text), "E0308 x");
        assert_eq!(plain("\u{1b}"), "");
    }

    #[test]
    fn true_colours_are_passed_over() {
        assert_eq!(to_html("\u{1b}[38;2;1;2;3;1mx"), "<span style=\"font-weight:bold;\">x</span>");
    }
}
