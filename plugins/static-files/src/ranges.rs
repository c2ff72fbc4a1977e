//! The `Range` header (RFC 9110 section 14).

/// More ranges than this are an attack or a mistake: the whole file is the answer (section 14.2 allows it).
const MOST: usize = 16;

/// What a request wants of a file. Ends are exclusive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// All of it: no range, or one that is to be ignored.
    All,
    /// Nothing that exists: 416.
    None,
    /// One piece.
    One(u64, u64),
    /// Several pieces, in the order in which they were asked for.
    Many(Vec<(u64, u64)>),
}

/// Reads a header for a file of `size` bytes.
pub(crate) fn parse(header: &[u8], size: u64) -> Ranges {
    let Some(list) = std::str::from_utf8(header).ok().and_then(|text| {
        let (unit, list) = text.split_once('=')?;
        unit.trim().eq_ignore_ascii_case("bytes").then_some(list)
    }) else {
        return Ranges::All;
    };
    let mut ranges = Vec::new();
    let mut any = false;
    for spec in list.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        any = true;
        let Some((first, last)) = spec.split_once('-') else {
            return Ranges::All;
        };
        let range = match (number(first.trim()), number(last.trim())) {
            (Number::Is(first), Number::Is(last)) if last < first => return Ranges::All,
            (Number::Is(first), Number::Is(last)) => (first, last.saturating_add(1).min(size)),
            (Number::Is(first), Number::Absent) => (first, size),
            // The last so many bytes.
            (Number::Absent, Number::Is(count)) => (size.saturating_sub(count), size),
            _ => return Ranges::All,
        };
        if range.0 < range.1 {
            ranges.push(range);
        }
        if ranges.len() > MOST {
            return Ranges::All;
        }
    }
    // Overlapping ranges make a response larger than the file.
    let asked = ranges.iter().map(|(from, to)| to - from).fold(0_u64, u64::saturating_add);
    match ranges.as_slice() {
        _ if !any => Ranges::All,
        [] => Ranges::None,
        [(from, to)] => Ranges::One(*from, *to),
        _ if asked > size => Ranges::All,
        _ => Ranges::Many(ranges),
    }
}

enum Number {
    Absent,
    Is(u64),
    Wrong,
}

fn number(text: &str) -> Number {
    if text.is_empty() {
        return Number::Absent;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Number::Wrong;
    }
    // Digits that do not fit are a number beyond any file.
    Number::Is(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{Ranges, parse};

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (header, expected) in [
            ("bytes=0-0", Ranges::One(0, 1)),
            ("bytes=0-499", Ranges::One(0, 500)),
            ("bytes=500-", Ranges::One(500, 1000)),
            ("bytes=-200", Ranges::One(800, 1000)),
            ("bytes=-2000", Ranges::One(0, 1000)),
            ("bytes=900-5000", Ranges::One(900, 1000)),
            ("bytes=0-18446744073709551615", Ranges::One(0, 1000)),
            ("bytes=0-99999999999999999999999", Ranges::One(0, 1000)),
            ("Bytes = 1-2 , 5-6", Ranges::Many(vec![(1, 3), (5, 7)])),
            ("bytes=5-6,1-2,", Ranges::Many(vec![(5, 7), (1, 3)])),
            ("bytes=0-1,2000-", Ranges::One(0, 2)),
            ("bytes=1000-", Ranges::None),
            ("bytes=-0", Ranges::None),
            ("bytes=5-4", Ranges::All),
            ("bytes=a-b", Ranges::All),
            ("bytes=+1-2", Ranges::All),
            ("bytes=-", Ranges::All),
            ("bytes=", Ranges::All),
            ("bytes", Ranges::All),
            ("lines=1-2", Ranges::All),
            ("bytes=0-,0-,0-", Ranges::All),
        ] {
            assert_eq!(parse(header.as_bytes(), 1000), expected, "{header}");
        }
        assert_eq!(parse(b"bytes=0-", 0), Ranges::None);
        let many = format!("bytes={}", (0..40).map(|n| format!("{n}-{n},")).collect::<String>());
        assert_eq!(parse(many.as_bytes(), 1000), Ranges::All);
        assert_eq!(parse(b"bytes=\xff-", 1000), Ranges::All);
    }
}
