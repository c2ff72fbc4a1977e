//! Validators and conditional requests (RFC 9110 sections 8.8 and 13).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use worker_sdk::{HeaderMap, HeaderName, HeaderValue, header};

use crate::date;

/// By what a client recognises a version of a file.
pub(crate) struct Validators {
    /// With its quotes.
    etag: String,
    /// Whole seconds: HTTP dates have no smaller unit.
    modified: Option<SystemTime>,
}

/// What the conditions of a request say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answer as if there were none.
    Go,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

impl Validators {
    /// Those of a file of this size and age.
    pub(crate) fn new(size: u64, modified: Option<SystemTime>) -> Self {
        let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let etag = format!("\"{:x}-{size:x}\"", since.as_nanos());
        let modified = modified.map(|_| UNIX_EPOCH + Duration::from_secs(since.as_secs()));
        Validators { etag, modified }
    }

    /// As headers.
    pub(crate) fn insert(&self, headers: &mut HeaderMap) {
        if let Ok(etag) = HeaderValue::from_str(&self.etag) {
            headers.insert(header::ETAG, etag);
        }
        if let Some(Ok(date)) = self.modified.map(|time| HeaderValue::try_from(date::format(time))) {
            headers.insert(header::LAST_MODIFIED, date);
        }
    }

    /// A boundary for several parts: other for every version of a file, and nothing that a file is likely to hold.
    pub(crate) fn boundary(&self) -> String {
        format!("part-of-{}", self.etag.trim_matches('"'))
    }
}

fn date_of(request: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    date::parse(request.get(name)?.to_str().ok()?)
}

/// Whether a list of entity tags holds ours. `weak`: `W/` makes no difference (section 8.8.3.2).
fn holds(request: &HeaderMap, name: HeaderName, etag: &str, weak: bool) -> Option<bool> {
    let mut lists = request.get_all(name).iter().peekable();
    lists.peek()?;
    Some(lists.filter_map(|list| list.to_str().ok()).any(|list| {
        list.trim() == "*"
            || list.split(',').map(str::trim).any(|tag| match tag.strip_prefix("W/") {
                Some(tag) => weak && tag == etag,
                None => tag == etag,
            })
    }))
}

/// Evaluates in the order of section 13.2.2.
pub(crate) fn evaluate(request: &HeaderMap, ours: &Validators) -> Outcome {
    match holds(request, header::IF_MATCH, &ours.etag, false) {
        Some(false) => return Outcome::Failed,
        Some(true) => {}
        None => {
            if let (Some(since), Some(modified)) = (date_of(request, header::IF_UNMODIFIED_SINCE), ours.modified) {
                if modified > since {
                    return Outcome::Failed;
                }
            }
        }
    }
    match holds(request, header::IF_NONE_MATCH, &ours.etag, true) {
        Some(true) => Outcome::NotModified,
        Some(false) => Outcome::Go,
        None => match (date_of(request, header::IF_MODIFIED_SINCE), ours.modified) {
            (Some(since), Some(modified)) if modified <= since => Outcome::NotModified,
            _ => Outcome::Go,
        },
    }
}

/// Whether `Range` counts: `If-Range` says of which version (section 13.1.5).
pub(crate) fn range_applies(request: &HeaderMap, ours: &Validators) -> bool {
    match request.get(header::IF_RANGE) {
        None => true,
        Some(value) => match value.to_str() {
            Ok(tag) if tag.starts_with('"') => tag == ours.etag,
            Ok(date) => ours.modified.is_some() && date::parse(date) == ours.modified,
            Err(_) => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Validators {
        Validators::new(0x10, Some(UNIX_EPOCH + Duration::new(784_111_777, 5)))
    }

    fn request(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        map
    }

    #[test]
    fn conditions_are_evaluated_in_order() {
        let ours = ours();
        let tag = ours.etag.clone();
        let weak = format!("W/{tag}");
        let list = format!("\"other\", {tag}");
        for (fields, outcome) in [
            (vec![], Outcome::Go),
            (vec![("if-none-match", tag.as_str())], Outcome::NotModified),
            (vec![("if-none-match", weak.as_str())], Outcome::NotModified),
            (vec![("if-none-match", list.as_str())], Outcome::NotModified),
            (vec![("if-none-match", "*")], Outcome::NotModified),
            (vec![("if-none-match", "\"other\"")], Outcome::Go),
            (vec![("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], Outcome::NotModified),
            (vec![("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")], Outcome::Go),
            (vec![("if-modified-since", "yesterday")], Outcome::Go),
            // The tag outranks the date.
            (vec![("if-none-match", "\"x\""), ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], Outcome::Go),
            (vec![("if-match", tag.as_str())], Outcome::Go),
            (vec![("if-match", weak.as_str())], Outcome::Failed),
            (vec![("if-match", "\"other\"")], Outcome::Failed),
            (vec![("if-unmodified-since", "Sun, 06 Nov 1994 08:49:36 GMT")], Outcome::Failed),
            (vec![("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], Outcome::Go),
        ] {
            assert_eq!(evaluate(&request(&fields), &ours), outcome, "{fields:?}");
        }
    }

    #[test]
    fn a_range_is_of_a_version() {
        let ours = ours();
        assert!(range_applies(&request(&[]), &ours));
        assert!(range_applies(&request(&[("if-range", &ours.etag)]), &ours));
        assert!(range_applies(&request(&[("if-range", "Sun, 06 Nov 1994 08:49:37 GMT")]), &ours));
        assert!(!range_applies(&request(&[("if-range", "\"other\"")]), &ours));
        assert!(!range_applies(&request(&[("if-range", &format!("W/{}", ours.etag))]), &ours));
        assert!(!range_applies(&request(&[("if-range", "Sun, 06 Nov 1994 08:49:38 GMT")]), &ours));
    }
}
