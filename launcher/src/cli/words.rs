//! Times, sizes and foreign text as a person reads them.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use launcher::sys::local_time::{self, LocalTime};

/// Seconds as the two largest units that say enough: `0s`, `45s`, `3m`, `2h 5m`, `2d 4h`.
pub(crate) fn age(seconds: f64) -> String {
    // A cast of a float saturates, and turns what is no number into 0.
    let whole = seconds as u64;
    let pair = |large: u64, small: u64, large_unit: char, small_unit: char| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit} {small}{small_unit}"),
    };
    match whole {
        0..60 => format!("{whole}s"),
        60..3_600 => format!("{}m", whole / 60),
        3_600..86_400 => pair(whole / 3_600, whole / 60 % 60, 'h', 'm'),
        _ => pair(whole / 86_400, whole / 3_600 % 24, 'd', 'h'),
    }
}

/// How long something took: `850 ms`, `1.2 s`, `75 s`.
pub(crate) fn took(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..10_000 => format!("{}.{} s", milliseconds / 1_000, milliseconds / 100 % 10),
        _ => format!("{} s", milliseconds / 1_000),
    }
}

/// Processor time in seconds: `0.03 s`, `1.2 s`, `75 s`, `3m`.
pub(crate) fn processor_time(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.2}s", seconds.max(0.0)),
        ..10.0 => format!("{seconds:.1}s"),
        _ => age(seconds),
    }
}

/// Bytes in MiB.
pub(crate) fn mebibytes(bytes: u64) -> String {
    const MIB: f64 = 1_048_576.0;
    let mebibytes = bytes as f64 / MIB;
    if mebibytes < 9.95 { format!("{mebibytes:.1} MiB") } else { format!("{mebibytes:.0} MiB") }
}

/// `1 worker`, `2 workers`.
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The local time of a moment, with its date if that is not the date of `now`; `None`: not a time that a clock shows.
pub(crate) fn clock(time: SystemTime, now: SystemTime) -> Option<String> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    let at = |since: Duration| local_time::at(i64::try_from(since.as_secs()).ok()?).ok();
    let today = now.duration_since(UNIX_EPOCH).ok().and_then(at);
    Some(written(at(since)?, since.subsec_millis(), today))
}

fn written(time: LocalTime, milliseconds: u32, today: Option<LocalTime>) -> String {
    let LocalTime { year, month, day, hour, minute, second } = time;
    let clock = format!("{hour:02}:{minute:02}:{second:02}.{milliseconds:03}");
    match today {
        Some(today) if (today.year, today.month, today.day) == (year, month, day) => clock,
        _ => format!("{year:04}-{month:02}-{day:02} {clock}"),
    }
}

/// Text that others wrote, safe on a terminal: control characters (C0 but tab, DEL, C1) and those that turn the
/// direction of writing are shown, not obeyed.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if (character.is_control() && character != '\t') || turns(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// Bidirectional embeddings, overrides and isolates (Unicode standard annex 9): with them a line reads as another.
fn turns(character: char) -> bool {
    matches!(character, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// The same for a text of several lines. Those after the first are indented, so that none passes for another message.
pub(crate) fn escaped_lines(text: &str) -> String {
    text.lines().map(|line| Escaped(line).to_string()).collect::<Vec<_>>().join("\n    ")
}

/// The first line of a text, and that there are more.
pub(crate) fn first_line(text: &str) -> String {
    match text.trim_end().split_once('\n') {
        Some((first, _)) => format!("{} …", first.trim_end()),
        None => text.trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        let cases = [
            (0.0, "0s"),
            (59.9, "59s"),
            (60.0, "1m"),
            (3_599.0, "59m"),
            (3_600.0, "1h"),
            (7_500.0, "2h 5m"),
            (187_200.0, "2d 4h"),
            (172_800.0, "2d"),
            (-1.0, "0s"),
            (f64::NAN, "0s"),
        ];
        for (seconds, words) in cases {
            assert_eq!(age(seconds), words);
        }
        assert!(age(f64::INFINITY).ends_with('h'), "it is a long time, and no panic");
    }

    #[test]
    fn durations_and_sizes_say_as_much_as_matters() {
        assert_eq!(
            [0, 999, 1_000, 1_250, 9_999, 75_400].map(took),
            ["0 ms", "999 ms", "1.0 s", "1.2 s", "9.9 s", "75 s"]
        );
        assert_eq!([-0.5, 0.034, 1.25, 75.4].map(processor_time), ["0.00s", "0.03s", "1.2s", "1m"]);
        assert_eq!([0, 1_572_864, 10 << 20, 3 << 30].map(mebibytes), ["0.0 MiB", "1.5 MiB", "10 MiB", "3072 MiB"]);
        assert_eq!(
            (counted(1, "worker", "workers"), counted(0, "worker", "workers")),
            ("1 worker".into(), "0 workers".into())
        );
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let time = LocalTime { year: 2026, month: 3, day: 7, hour: 4, minute: 5, second: 6 };
        assert_eq!(written(time, 7, Some(LocalTime { hour: 23, ..time })), "04:05:06.007");
        assert_eq!(written(time, 7, Some(LocalTime { day: 8, ..time })), "2026-03-07 04:05:06.007");
        assert_eq!(clock(UNIX_EPOCH - Duration::from_secs(1), SystemTime::now()), None);
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor_or_turn_the_line() {
        let hostile = "a\tb\x1b[2J\u{9b}31m\r\u{202E}x\u{7f}";
        assert_eq!(Escaped(hostile).to_string(), "a\tb\\u{1b}[2J\\u{9b}31m\\r\\u{202e}x\\u{7f}");
        assert_eq!(escaped_lines("one\n\x1btwo\n"), "one\n    \\u{1b}two");
        assert_eq!([first_line("one\r\ntwo"), first_line("one\n"), first_line("")], ["one …", "one", ""]);
    }
}
