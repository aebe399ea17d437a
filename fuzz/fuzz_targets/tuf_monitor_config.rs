//! See [`tile_proxy_fuzz::tuf_monitor_config`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tile_proxy_fuzz::tuf_monitor_config(data);
});
