//! See `weir_inputs::TARGETS`. Panics inside the reader of another project are caught and become
//! errors; the fuzzer's own hook would abort on them. One that is not caught still does.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| { weir_inputs::run("parquet", data); }
);
