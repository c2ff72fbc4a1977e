//! Content types by the file's extension (IANA's registry of media types).

use std::collections::BTreeMap;
use std::path::Path;

use worker_sdk::HeaderValue;

/// The type of a file; `own` are the operator's, with extensions in lower case.
pub(crate) fn of(path: &Path, own: &BTreeMap<String, String>) -> HeaderValue {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    if let Some(value) = own.get(&extension).and_then(|value| HeaderValue::from_str(value).ok()) {
        return value;
    }
    HeaderValue::from_static(match extension.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "txt" | "log" => "text/plain; charset=utf-8",
        "md" => "text/markdown; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "application/xml",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/vnd.microsoft.icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "mp3" => "audio/mpeg",
        "ogg" | "oga" => "audio/ogg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        _ => "application/octet-stream",
    })
}

#[cfg(test)]
mod tests {
    use super::of;
    use std::path::Path;

    #[test]
    fn the_operators_types_come_first_and_case_does_not_matter() {
        let own = [("html".to_owned(), "text/x-mine".to_owned())].into();
        assert_eq!(of(Path::new("a.HTML"), &own), "text/x-mine");
        assert_eq!(of(Path::new("a.HTML"), &Default::default()), "text/html; charset=utf-8");
        assert_eq!(of(Path::new("noextension"), &own), "application/octet-stream");
        assert_eq!(of(Path::new("archive.tar.gz"), &own), "application/gzip");
    }
}
