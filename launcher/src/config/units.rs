//! Durations and sizes as text: `1m30s`, `64MiB`.
//!
//! Pure functions from text to value or [`Complaint`]. A bare number is refused, because nobody agrees on its unit.

use std::time::Duration;

use super::diagnostics::{Complaint, quoted};

/// Longest duration that is accepted: a monotonic clock plus it must not overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Units of time in milliseconds, longest first.
const TIME: &[(&str, u64)] = &[("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Units of size in bytes.
const SIZE: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// A duration: whole numbers with the units `h`, `m`, `s`, `ms`, longest first, such as `1m30s`.
pub(super) fn duration(text: &str) -> Result<Duration, Complaint> {
    let bad = || Complaint::new(format!("{} is not a duration", quoted(text)));
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return Err(Complaint::new(format!("the duration {} has no unit", quoted(text)))
            .help(format!("did you mean `{text}s`?")));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = TIME.iter();
    while !rest.is_empty() {
        let (number, unit, after) = part(rest);
        let Ok(number) = number.parse::<u64>() else {
            return Err(advised(text, bad()));
        };
        // Each unit once and shorter than the one before: `1s1h` is a slip of the pen.
        let Some((_, factor)) = units.by_ref().find(|(name, _)| *name == unit) else {
            return Err(advised(text, bad()));
        };
        total = number
            .checked_mul(*factor)
            .and_then(|part| total.checked_add(part))
            .filter(|total| Duration::from_millis(*total) <= LONGEST)
            .ok_or_else(|| Complaint::new(format!("the duration {} is too long", quoted(text))))?;
        rest = after;
    }
    if text.is_empty() {
        return Err(advised(text, bad()));
    }
    Ok(Duration::from_millis(total))
}

/// A size in bytes: a whole number with a unit, such as `64MiB` (1024s) or `10MB` (1000s).
pub(super) fn size(text: &str) -> Result<u64, Complaint> {
    let known = "sizes look like `64MiB`, `1GiB`, `512KiB`, `10MB` or `4096B`";
    let (number, unit, after) = part(text);
    let Ok(number) = number.parse::<u64>() else {
        return Err(Complaint::new(format!("{} is not a size", quoted(text))).help(known));
    };
    if unit.is_empty() && after.is_empty() {
        let unit = if number < 100_000 { "MiB" } else { "B" };
        return Err(Complaint::new(format!("the size {} has no unit", quoted(text)))
            .help(format!("did you mean `{number}{unit}`?")));
    }
    match SIZE.iter().find(|(name, _)| *name == unit && after.is_empty()) {
        Some((_, factor)) => {
            number.checked_mul(*factor).ok_or_else(|| Complaint::new(format!("the size {} is too large", quoted(text))))
        }
        None => {
            let folded = text[text.len() - unit.len() - after.len()..].trim().to_lowercase();
            let meant = SIZE.iter().rev().find(|(name, _)| {
                let name = name.to_lowercase();
                name == folded || name.strip_suffix("ib") == Some(&folded)
            });
            let help = match meant {
                Some((name, _)) => format!("did you mean `{number}{name}`?"),
                None => known.to_owned(),
            };
            Err(Complaint::new(format!("{} is not a size", quoted(text))).help(help))
        }
    }
}

/// Leading digits, the letters after them, the rest.
fn part(text: &str) -> (&str, &str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let letters = text[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
    (&text[..digits], &text[digits..digits + letters], &text[digits + letters..])
}

/// Finds what was probably meant: `30sec`, `30 s`, `1.5s`.
fn advised(text: &str, complaint: Complaint) -> Complaint {
    let number = text.trim_end_matches(|char: char| char.is_ascii_alphabetic() || char == ' ');
    let unit = match text[number.len()..].trim().to_lowercase().as_str() {
        "ms" | "msec" | "msecs" | "millis" | "milliseconds" | "millisecond" => Some("ms"),
        "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
        "m" | "min" | "mins" | "minute" | "minutes" => Some("m"),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some("h"),
        _ => None,
    };
    let meant = unit.map(|unit| format!("{number}{unit}"));
    match meant.filter(|meant| meant != text && duration(meant).is_ok()) {
        Some(meant) => complaint.help(format!("did you mean `{meant}`?")),
        None => complaint.help("durations look like `100ms`, `30s`, `5m`, `1h` or `1m30s`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_units() {
        for (text, millis) in [
            ("100ms", 100),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("1h1m1s1ms", 3_661_001),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_bad_duration_says_what_was_probably_meant() {
        for (text, help) in [
            ("30", "did you mean `30s`?"),
            ("30sec", "did you mean `30s`?"),
            ("30 s", "did you mean `30s`?"),
            ("5min", "did you mean `5m`?"),
            ("10S", "did you mean `10s`?"),
            ("30s ", "did you mean `30s`?"),
        ] {
            let complaint = duration(text).expect_err(text);
            assert_eq!(complaint.help.as_deref(), Some(help), "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "1s1h", "1s1s", "1x", "١s", "fast", "1m 30s"] {
            let complaint = duration(text).expect_err(text);
            assert!(complaint.help.is_some_and(|help| help.contains("look like")), "{text}");
        }
    }

    #[test]
    fn a_duration_that_no_clock_can_add_is_refused() {
        for text in ["18446744073709551615h", "99999999999999999999s", "1000000h", "18446744073709551615ms"] {
            duration(text).expect_err(text);
        }
    }

    #[test]
    fn sizes_carry_units() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("10MB", 10_000_000),
            ("512KiB", 512 << 10),
            ("7B", 7),
            ("1kB", 1000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_bad_size_says_what_was_probably_meant() {
        for (text, help) in [
            ("64", "did you mean `64MiB`?"),
            ("67108864", "did you mean `67108864B`?"),
            ("64mib", "did you mean `64MiB`?"),
            ("64M", "did you mean `64MiB`?"),
            ("64 MiB", "did you mean `64MiB`?"),
        ] {
            let complaint = size(text).expect_err(text);
            assert_eq!(complaint.help.as_deref(), Some(help), "{text}");
        }
        for text in ["", "MiB", "-1B", "1.5GiB", "99999999TiB", "1XiB", "99999999999999999999B"] {
            size(text).expect_err(text);
        }
    }
}
