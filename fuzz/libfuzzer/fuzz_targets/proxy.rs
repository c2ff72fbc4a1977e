#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::worker::http::proxy_head(bytes));
