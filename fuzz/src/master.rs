//! Of the master what writes down what others said.

/// The launcher's log.
pub mod journal {
    mod escape;

    /// Shows a text: nothing in it is obeyed by a terminal, and nothing ends the line.
    pub fn escape(bytes: &[u8]) {
        let text = escape::text(bytes);
        assert!(str::from_utf8(bytes).is_err() || text.as_bytes() == bytes, "text stays as it is");
        let shown = escape::Escaped(&text).to_string();
        assert!(!shown.chars().any(|c| c.is_control() && c != '\t'), "{shown:?}");
        let lines = escape::EscapedLines(&text).to_string();
        assert!(!lines.chars().any(|c| c.is_control() && c != '\t' && c != '\n'), "{lines:?}");
        let mut json = Vec::new();
        escape::json(&text, &mut json);
        let json = String::from_utf8(json).unwrap_or_else(|error| panic!("JSON is text: {error}"));
        assert!(!json.chars().any(char::is_control), "{json:?}");
        let read: String = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{json:?} is no JSON: {error}"));
        assert_eq!(read, *text);
    }
}
