//! The content types that a plugin gave lately: most of its responses have one of a few, and the value that is there
//! already costs neither an allocation nor a check.

use std::cell::RefCell;

use http::HeaderValue;

/// Values that are kept, by their length: different types rarely have the same.
const KEPT: usize = 8;

/// Bytes of the longest value that is kept.
const LONGEST: usize = 128;

thread_local! {
    static LATELY: RefCell<[HeaderValue; KEPT]> = const { RefCell::new([const { HeaderValue::from_static("") }; KEPT]) };
}

/// The value of a plugin's `content-type`; `None` if it is not one of HTTP's.
pub(super) fn value(bytes: &[u8]) -> Option<HeaderValue> {
    LATELY.with_borrow_mut(|lately| {
        let kept = &mut lately[bytes.len() % KEPT];
        if kept.as_bytes() == bytes {
            return Some(kept.clone());
        }
        let value = HeaderValue::from_bytes(bytes).ok()?;
        if bytes.len() <= LONGEST {
            kept.clone_from(&value);
        }
        Some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_plugins_whatever_was_kept_before() {
        let long = "x".repeat(LONGEST + 8);
        for _ in 0..2 {
            for given in ["text/html", "image/png", "", "text/html; charset=utf-8", &long, "text/css"] {
                assert_eq!(value(given.as_bytes()).expect("a value").as_bytes(), given.as_bytes());
            }
            assert_eq!(value(b"text/\nhtml"), None);
        }
    }
}
