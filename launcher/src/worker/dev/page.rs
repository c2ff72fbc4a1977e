//! The pages and the script that an author's browser gets.

use ::http::{Response, StatusCode};
use bytes::Bytes;

use super::ansi::{escaped, to_html};
use super::{DevBody, Hub, SCRIPT, response};
use crate::channel::dev::{Build, Dev};

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// The script; a browser fetches it anew for every page.
pub(super) fn script() -> Response<DevBody> {
    response(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("script.js"))
}

/// What is put at the end of a page: the overlay, if the build is broken, and the script.
pub(super) fn appendix(hub: &Hub, state: &Dev) -> Bytes {
    let overlay = match &state.build {
        Build::Failed { title, text } => overlay(&hub.service, title, text),
        Build::Good | Build::Running => String::new(),
    };
    format!("\n{overlay}{}\n", tag(hub, "page")).into()
}

fn tag(hub: &Hub, kind: &str) -> String {
    format!("<script src=\"{SCRIPT}\" data-identity=\"{}\" data-kind=\"{kind}\"></script>", hub.identity)
}

/// Something that covers the page. Its style is its own, so that the page's rules do not reach it.
pub(super) fn overlay(service: &str, title: &str, text: &str) -> String {
    format!(
        "<div id=\"launcher-overlay\" role=\"alert\" style=\"all:initial;position:fixed;inset:0;z-index:2147483647;\
         box-sizing:border-box;overflow:auto;padding:2rem;background:rgba(20,20,24,.97);color:#e6e6e6;\
         font:14px/1.5 ui-monospace,Menlo,Consolas,monospace\">\
         <div style=\"all:unset;display:block;color:#ff7a70;font-weight:bold\">{}: {}</div>\
         <pre style=\"all:unset;display:block;white-space:pre-wrap;margin-top:1rem\">{}</pre>\
         <div style=\"all:unset;display:block;margin-top:1rem;color:#8a8a94\">This goes by itself when it is good again; \
         Esc hides it.</div></div>\n",
        escaped(service),
        escaped(title),
        to_html(text)
    )
}

/// In place of a plugin that is not built yet.
pub(super) fn awaited(hub: &Hub, page: bool) -> Response<DevBody> {
    let state = hub.state();
    match (&state.build, page) {
        (Build::Failed { .. }, true) => broken(hub, &state),
        (Build::Failed { title, text }, false) => {
            response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{title}\n{}\n", super::ansi::plain(text)))
        }
        (_, true) => {
            let words = "The first build is running. This page becomes yours when it is done.";
            whole(hub, StatusCode::SERVICE_UNAVAILABLE, "building", &format!("<p>{words}</p>\n"))
        }
        (_, false) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the first build is running\n"),
    }
}

/// What is wrong with the build, as a page.
pub(super) fn broken(hub: &Hub, state: &Dev) -> Response<DevBody> {
    match &state.build {
        Build::Failed { title, text } => {
            let overlay = overlay(&hub.service, title, text);
            whole(hub, StatusCode::SERVICE_UNAVAILABLE, "broken", &overlay)
        }
        Build::Good | Build::Running => whole(hub, StatusCode::SERVICE_UNAVAILABLE, "building", ""),
    }
}

/// A request that the plugin did not answer.
pub(super) fn failed(hub: &Hub, status: StatusCode, page: bool, title: &str, text: &str) -> Response<DevBody> {
    if page {
        return whole(hub, status, "failed", &overlay(&hub.service, title, text));
    }
    let reason = status.canonical_reason().unwrap_or("Error");
    response(status, TEXT, format!("{} {reason}\n{title}\n{}\n", status.as_u16(), super::ansi::plain(text)))
}

fn whole(hub: &Hub, status: StatusCode, kind: &str, content: &str) -> Response<DevBody> {
    let service = escaped(&hub.service);
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{service}: {kind}</title></head>\n\
         <body>\n{content}{}\n</body>\n</html>\n",
        tag(hub, kind)
    );
    response(status, HTML, html)
}
