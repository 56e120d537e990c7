//! See `weir_inputs::TARGETS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    weir_inputs::run("avro_message", data);
});
