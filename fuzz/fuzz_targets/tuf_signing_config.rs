//! See [`tile_proxy_fuzz::tuf_signing_config`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tile_proxy_fuzz::tuf_signing_config(data);
});
