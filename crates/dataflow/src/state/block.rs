//! Memory of a fixed size that starts as zeros; large pieces lie in huge pages.
//!
//! A random access to a large state in pages of 4 KiB misses the TLB nearly every time. Pieces of
//! 2 MiB and more are therefore mapped by themselves at a multiple of 2 MiB, and the kernel is asked
//! for huge pages; dropped, they go back to it at once. Smaller ones come from the allocator.
//!
//! Not here: what lies in the memory (`rows`, `table`, `agg::quantile`).

use std::mem::{ManuallyDrop, size_of};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes of a huge page.
pub(crate) const HUGE_BYTES: usize = 2 << 20;

/// Types for which any bits are a value.
pub(crate) trait Plain: Copy + Default + Send + Sync + 'static {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}

#[derive(Debug)]
pub(crate) struct Block<T: Plain> {
    at: NonNull<T>,
    len: usize,
    /// Bytes of a mapping of its own; 0 = from the allocator.
    mapped_bytes: usize,
}

// SAFETY: a block owns its memory, which holds plain numbers, and gives it out by `&self` and `&mut self`.
#[allow(unsafe_code, reason = "owns memory by a pointer")]
unsafe impl<T: Plain> Send for Block<T> {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "owns memory by a pointer")]
unsafe impl<T: Plain> Sync for Block<T> {}

impl<T: Plain> Default for Block<T> {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl<T: Plain> Block<T> {
    pub fn zeroed(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).expect("fits the address space");
        if bytes >= HUGE_BYTES
            && let Some(at) = map(bytes)
        {
            return Block { at: at.cast(), len, mapped_bytes: mapped(bytes) };
        }
        let mut held = ManuallyDrop::new(vec![T::default(); len].into_boxed_slice());
        let at = NonNull::new(held.as_mut_ptr()).expect("a slice is never at null");
        Block { at, len, mapped_bytes: 0 }
    }

    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// A longer one that begins with the same; the rest is zeros.
    pub fn grow(&mut self, len: usize) {
        let mut longer = Block::zeroed(len);
        longer[..self.len].copy_from_slice(self);
        *self = longer;
    }
}

impl<T: Plain> Deref for Block<T> {
    type Target = [T];
    #[inline]
    #[allow(unsafe_code, reason = "owns memory by a pointer")]
    fn deref(&self) -> &[T] {
        // SAFETY: `at` points to `len` values that live as long as the block.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Block<T> {
    #[inline]
    #[allow(unsafe_code, reason = "owns memory by a pointer")]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; the block is borrowed for itself.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for Block<T> {
    #[allow(unsafe_code, reason = "gives back memory owned by a pointer")]
    fn drop(&mut self) {
        if self.mapped_bytes > 0 {
            // SAFETY: exactly what `map` left mapped, and nobody borrows it any more.
            let _ = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), self.mapped_bytes) };
        } else {
            // SAFETY: the slice that `zeroed` took apart.
            drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.at.as_ptr(), self.len)) });
        }
    }
}

/// Bytes of a mapping for so many: whole pages, of whatever size the machine has.
fn mapped(bytes: usize) -> usize {
    bytes.next_multiple_of(64 << 10)
}

/// Zeros at a multiple of a huge page; `None` where the kernel has none to give.
#[allow(unsafe_code, reason = "maps memory")]
fn map(bytes: usize) -> Option<NonNull<u8>> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    let kept = mapped(bytes);
    let whole = kept + HUGE_BYTES;
    // SAFETY: a new private mapping wherever the kernel likes; what is unmapped is its head and tail, which
    // nobody has seen; advice changes no content.
    unsafe {
        let begin = mmap_anonymous(
            std::ptr::null_mut(),
            whole,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
        .ok()?;
        let head = begin.cast::<u8>().align_offset(HUGE_BYTES);
        let at = begin.cast::<u8>().add(head);
        if head > 0 {
            let _ = munmap(begin, head);
        }
        if HUGE_BYTES > head {
            let _ = munmap(at.add(kept).cast(), HUGE_BYTES - head);
        }
        // Whole huge pages only: the rest of a last one would be resident for nothing.
        let _ = madvise(at.cast(), bytes / HUGE_BYTES * HUGE_BYTES, Advice::LinuxHugepage);
        NonNull::new(at)
    }
}

/// Asks for the cache line of a value that will be looked at soon.
#[inline(always)]
pub(crate) fn prefetch<T>(of: &T) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code, reason = "a hint to the processor")]
    // SAFETY: prefetching reads nothing and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(of).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = of;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_mapped_blocks_are_zeros_keep_what_is_written_and_grow() {
        for len in [0, 1, 100, HUGE_BYTES / 8, HUGE_BYTES / 8 + 1, 3 * HUGE_BYTES / 8 + 77] {
            let mut block: Block<u64> = Block::zeroed(len);
            assert_eq!((block.len(), block.bytes()), (len, len * 8));
            assert!(block.iter().all(|w| *w == 0));
            block.iter_mut().enumerate().for_each(|(i, w)| *w = i as u64);
            block.grow(len * 2 + 1);
            assert!(block[..len].iter().enumerate().all(|(i, w)| *w == i as u64));
            assert!(block[len..].iter().all(|w| *w == 0));
            prefetch(&block[0]);
        }
        let mapped: Block<u16> = Block::zeroed(HUGE_BYTES);
        assert_eq!(mapped.as_ptr().align_offset(HUGE_BYTES), 0);
    }
}
