//! The allocator, told about a small machine.

use std::ffi::{c_int, c_long};

/// Below this the memory of a burst is wanted back at once.
const SMALL_BYTES: u64 = 1 << 30;
/// `mi_option_purge_delay` of mimalloc 3 (mimalloc.h): milliseconds for which free pages are kept.
const PURGE_DELAY: c_int = 15;

#[allow(unsafe_code, reason = "the allocator is C")]
unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

/// With so much memory: gives free pages back to the system at once, where there is little. Under three views in
/// 256 MiB that was 120 MB resident instead of 170; it costs system calls, so large machines keep them for a while.
pub fn fit_to(available_bytes: u64) {
    if available_bytes < SMALL_BYTES {
        #[allow(unsafe_code, reason = "a call into the allocator: sets a number it reads")]
        // SAFETY: the function takes any option and value, from any thread.
        unsafe {
            mi_option_set(PURGE_DELAY, 0);
        }
    }
}
