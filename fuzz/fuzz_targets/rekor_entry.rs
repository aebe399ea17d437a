//! See [`tile_proxy_fuzz::rekor_entry`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tile_proxy_fuzz::rekor_entry(data);
});
