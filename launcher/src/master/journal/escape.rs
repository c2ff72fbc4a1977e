//! What a worker wrote, made safe to show: nothing that it writes is obeyed by a terminal or ends a line.

use std::fmt::{self, Display, Formatter, Write as _};
use std::io;

use serde::Serialize;

/// Text from outside: control characters (C0 but tab, DEL, C1), line separators and marks that turn the direction
/// of writing are shown as escapes. A terminal obeys the first; the others let a line pass for another one.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut plain = 0;
        for (at, character) in self.0.char_indices().filter(|(_, character)| is_active(*character)) {
            f.write_str(&self.0[plain..at])?;
            write!(f, "{}", character.escape_default())?;
            plain = at + character.len_utf8();
        }
        f.write_str(&self.0[plain..])
    }
}

fn is_active(character: char) -> bool {
    match character {
        '\t' | ' '..='~' => false,
        '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        '\u{200e}' | '\u{200f}' | '\u{61c}' => true,
        other => other.is_control(),
    }
}

/// A sentence of the launcher: as above, but it may have several lines. It quotes paths, errors and failures of
/// workers, which are from outside.
pub(super) struct EscapedLines<'a>(pub(super) &'a str);

impl Display for EscapedLines<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, line) in self.0.split('\n').enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            Escaped(line).fmt(f)?;
        }
        Ok(())
    }
}

/// JSON that is safe to show as it is: what JSON itself lets through (DEL, C1, separators) is escaped, too.
pub(super) struct SafeJson;

impl serde_json::ser::Formatter for SafeJson {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, character) in fragment.char_indices().filter(|(_, character)| is_active(*character)) {
            writer.write_all(&fragment.as_bytes()[plain..at])?;
            // All of them are in the basic plane.
            write!(writer, "\\u{:04x}", u32::from(character))?;
            plain = at + character.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }
}

/// Append a value as one line of JSON, without a line break.
pub(super) fn json(value: &impl Serialize, to: &mut Vec<u8>) {
    // Writing to memory does not fail, and nothing here has keys that are no texts.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(to, SafeJson));
}

/// Bytes as text; those that are no UTF-8 are shown as `\xff`.
pub(super) fn text(bytes: &[u8]) -> Box<str> {
    if let Ok(text) = str::from_utf8(bytes) {
        return text.into();
    }
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 2);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(Escaped("a\tb\x1b[2J\u{9b}31m\r").to_string(), "a\tb\\u{1b}[2J\\u{9b}31m\\r");
        assert_eq!(Escaped("\0\x7f\u{85}").to_string(), "\\u{0}\\u{7f}\\u{85}");
        assert_eq!(Escaped("größer 日本 🦀").to_string(), "größer 日本 🦀");
    }

    #[test]
    fn no_character_ends_a_line_or_turns_its_direction() {
        let turned = "admin\u{202e}txt.exe\u{2066}\u{2069}\u{2028}\u{2029}\u{200f}";
        assert_eq!(Escaped(turned).to_string(), "admin\\u{202e}txt.exe\\u{2066}\\u{2069}\\u{2028}\\u{2029}\\u{200f}");
    }

    #[test]
    fn json_is_safe_to_show_and_says_the_same() {
        let text = "a\tb\x1b[2J\u{9b}31m\u{7f}\u{202e}\u{2028}\"größer 🦀\\";
        let mut json_text = Vec::new();
        json(&text, &mut json_text);
        let json_text = String::from_utf8(json_text).expect("UTF-8");
        assert!(!json_text.chars().any(is_active), "{json_text}");
        assert_eq!(serde_json::from_str::<String>(&json_text).expect("JSON"), text);
    }

    #[test]
    fn a_sentence_keeps_its_lines() {
        assert_eq!(EscapedLines("a\n  b\x1b\n").to_string(), "a\n  b\\u{1b}\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown() {
        assert_eq!(&*text(b"ok \xff\xc3 \xe2\x82"), "ok \\xff\\xc3 \\xe2\\x82");
        assert_eq!(&*text("größer".as_bytes()), "größer");
    }
}
