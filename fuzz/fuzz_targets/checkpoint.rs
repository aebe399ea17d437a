//! See [`tile_proxy_fuzz::checkpoint`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tile_proxy_fuzz::checkpoint(data);
});
