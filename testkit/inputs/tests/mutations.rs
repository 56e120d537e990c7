//! The corpus with random changes, through the entry functions: what a fuzzer does, without the
//! instrumentation, in every CI run. No allocation may be as large as a length in the input says.
#![allow(clippy::disallowed_methods, reason = "reads the corpus of the checkout it runs in")]

use fastrand::Rng;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use weir_testkit::crash;

/// Inputs are below 64 KiB and the limits given to decoders are 1 MiB.
const ALLOCATION_MAX: usize = 96 << 20;

/// Remembers the largest allocation.
struct Watching;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code, reason = "an allocator is unsafe by its nature; this one adds a number")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

fn corpus() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let files = |target: &str| {
        let dir = root.join(target);
        let mut paths: Vec<_> = std::fs::read_dir(&dir)
            .expect("it is in the repository")
            .map(|e| e.expect("listed").path())
            .collect();
        paths.sort();
        paths.iter().map(|path| std::fs::read(path).expect("listed just now")).collect()
    };
    weir_inputs::TARGETS.iter().map(|(target, _)| (*target, files(target))).collect()
}

/// Numbers at which lengths and counts go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x8000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
];

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        bytes.push(rng.u8(..));
    }
    let at = rng.usize(..bytes.len());
    match rng.u8(..9) {
        0 => bytes[at] ^= 1 << rng.u8(..8),
        1 => bytes[at] = rng.u8(..),
        2 => bytes.truncate(at),
        3 => {
            let width = [1, 2, 4, 8][rng.usize(..4)];
            let number = EDGES[rng.usize(..EDGES.len())].to_le_bytes();
            let to = (at + width).min(bytes.len());
            bytes[at..to].copy_from_slice(&number[..to - at]);
        }
        4 => {
            let number = rng.u64(..).to_string();
            bytes.splice(at..at, number.bytes());
        }
        5 => {
            let to = (at + rng.usize(1..40)).min(bytes.len());
            bytes.drain(at..to);
        }
        6 => {
            let to = (at + rng.usize(1..200)).min(bytes.len());
            let copy = bytes[at..to].to_vec();
            let into = rng.usize(..=bytes.len());
            bytes.splice(into..into, copy);
        }
        7 if !other.is_empty() => {
            let from = rng.usize(..other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            let sign = [b'-', b'"', b'\\', b'\n', b'\t', b',', b'[', b'{', b'(', 0x80, 0xff, b'0'];
            bytes.insert(at, sign[rng.usize(..sign.len())]);
        }
    }
}

#[test]
fn changed_inputs_are_answered_or_refused_within_bounds() {
    let corpus = corpus();
    crash::seeds("changed inputs", 5_000, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (target, files) = &corpus[seed as usize % corpus.len()];
        let mut bytes = files[rng.usize(..files.len())].clone();
        let other = &files[rng.usize(..files.len())];
        for _ in 0..rng.u32(1..6) {
            mutate(&mut rng, &mut bytes, other);
        }
        let _seen = crash::OnPanic(|| eprintln!("target {target}, input {bytes:?}"));
        weir_inputs::run(target, &bytes);
        let largest = LARGEST.load(Ordering::Relaxed);
        assert!(largest <= ALLOCATION_MAX, "{largest} bytes at once for an input of {}", bytes.len());
    });
}
