//! Rows of 64-bit words and columns of anything, in segments that never move.
//!
//! Growing a flat vector to ten million rows needs its old and new memory at once; here only the
//! first segment grows, so a peak is what is held. A row of four words is half a cache line, so
//! that updating several aggregates of a key touches one.

use super::block::{Block, prefetch};

/// Rows of a first segment at first.
const FIRST_ROWS: usize = 4;
/// Rows of one segment.
const SEGMENT_ROWS: usize = 1 << 16;
const SHIFT: u32 = SEGMENT_ROWS.trailing_zeros();
const MASK: usize = SEGMENT_ROWS - 1;

/// A segment that later ones follow is made whole at once; the first grows.
fn next_segment<T>(segments: &[Vec<T>], width: usize) -> Vec<T> {
    if segments.is_empty() { Vec::new() } else { Vec::with_capacity(SEGMENT_ROWS * width) }
}

/// Which words of a row belong to whom, and what they are at first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    pub initial: Vec<u64>,
    free_half: Option<usize>,
    flags: Option<(Half, u32)>,
}

/// 32 bits of a word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Half {
    word: usize,
    shift: u32,
}

/// One bit of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    half: Half,
    mask: u64,
}

impl Layout {
    pub fn word(&mut self, initial: u64) -> usize {
        self.initial.push(initial);
        self.initial.len() - 1
    }

    /// Zero at first.
    pub fn half(&mut self) -> Half {
        match self.free_half.take() {
            Some(word) => Half { word, shift: 32 },
            None => {
                let word = self.word(0);
                self.free_half = Some(word);
                Half { word, shift: 0 }
            }
        }
    }

    /// Not set at first.
    pub fn flag(&mut self) -> Flag {
        let (half, used) = match self.flags {
            Some((half, used)) if used < 32 => (half, used),
            _ => (self.half(), 0),
        };
        self.flags = Some((half, used + 1));
        Flag { half, mask: 1 << (half.shift + used) }
    }
}

#[derive(Debug)]
pub(crate) struct RowStore {
    initial: Vec<u64>,
    segments: Vec<Block<u64>>,
    len: usize,
}

impl RowStore {
    pub fn new(layout: &Layout) -> Self {
        let mut initial = layout.initial.clone();
        if initial.is_empty() {
            initial.push(0);
        }
        RowStore { initial, segments: Vec::new(), len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Words of a row.
    pub fn width(&self) -> usize {
        self.initial.len()
    }

    /// A new row, as the layout has it.
    pub fn push(&mut self) -> u32 {
        let width = self.initial.len();
        let at = (self.len & MASK) * width;
        match self.segments.last_mut() {
            None => self.segments.push(Block::zeroed(FIRST_ROWS * width)),
            Some(_) if at == 0 => self.segments.push(Block::zeroed(SEGMENT_ROWS * width)),
            Some(last) if at == last.len() => last.grow(2 * at),
            Some(_) => {}
        }
        let last = self.segments.last_mut().expect("pushed above when there was none");
        last[at..at + width].copy_from_slice(&self.initial);
        self.len += 1;
        (self.len - 1) as u32
    }

    /// Asks for a row that will be needed soon.
    #[inline]
    pub fn prefetch(&self, row: u32) {
        let width = self.initial.len();
        let row = &self.segments[(row >> SHIFT) as usize][(row as usize & MASK) * width..][..width];
        // Rows of four words lie in one line each, others may lie in two.
        row.iter().step_by(8).for_each(prefetch);
        if width > 4 {
            prefetch(&row[width - 1]);
        }
    }

    #[inline]
    pub fn word(&self, row: u32, at: usize) -> u64 {
        self.segments[(row >> SHIFT) as usize][(row as usize & MASK) * self.initial.len() + at]
    }

    #[inline]
    pub fn word_mut(&mut self, row: u32, at: usize) -> &mut u64 {
        let width = self.initial.len();
        &mut self.segments[(row >> SHIFT) as usize][(row as usize & MASK) * width + at]
    }

    #[inline]
    pub fn half(&self, row: u32, at: Half) -> u32 {
        (self.word(row, at.word) >> at.shift) as u32
    }

    #[inline]
    pub fn set_half(&mut self, row: u32, at: Half, value: u32) {
        let word = self.word_mut(row, at.word);
        *word = (*word & !(0xFFFF_FFFF << at.shift)) | (u64::from(value) << at.shift);
    }

    #[inline]
    pub fn flag(&self, row: u32, at: Flag) -> bool {
        self.word(row, at.half.word) & at.mask != 0
    }

    #[inline]
    pub fn set_flag(&mut self, row: u32, at: Flag) {
        *self.word_mut(row, at.half.word) |= at.mask;
    }

    #[inline]
    pub fn put_flag(&mut self, row: u32, at: Flag, set: bool) {
        let word = self.word_mut(row, at.half.word);
        *word = if set { *word | at.mask } else { *word & !at.mask };
    }

    pub fn bytes(&self) -> usize {
        self.segments.iter().map(Block::bytes).sum()
    }
}

/// One value a row, of any type.
#[derive(Debug)]
pub(crate) struct Column<T> {
    segments: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Column { segments: Vec::new(), len: 0 }
    }
}

impl<T: Default> Column<T> {
    /// Rows up to `len` exist after it.
    pub fn extend_to(&mut self, len: usize) {
        while self.len < len {
            if self.len & MASK == 0 {
                self.segments.push(next_segment(&self.segments, 1));
            }
            self.segments.last_mut().expect("pushed above when there was none").push(T::default());
            self.len += 1;
        }
    }
    /// `None` for rows that are not there yet.
    pub fn held(&self, row: u32) -> Option<&T> {
        self.segments.get((row >> SHIFT) as usize)?.get(row as usize & MASK)
    }
    pub fn get_mut(&mut self, row: u32) -> &mut T {
        &mut self.segments[(row >> SHIFT) as usize][row as usize & MASK]
    }
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|s| s.capacity() * size_of::<T>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_over_several_segments_keep_their_words() {
        let mut layout = Layout::default();
        let a = layout.word(7);
        let (x, y) = (layout.half(), layout.half());
        let (f, g) = (layout.flag(), layout.flag());
        assert_eq!(layout.initial.len(), 3, "two halves share a word, flags another");
        let mut rows = RowStore::new(&layout);
        let n = SEGMENT_ROWS as u32 * 2 + 10;
        for i in 0..n {
            assert_eq!(rows.push(), i);
            assert_eq!(rows.word(i, a), 7);
            *rows.word_mut(i, a) = u64::from(i);
            rows.set_half(i, x, i);
            rows.set_half(i, y, !i);
            if i % 3 == 0 {
                rows.set_flag(i, g);
            }
        }
        for i in (0..n).step_by(977) {
            rows.prefetch(i);
            assert_eq!((rows.word(i, a), rows.half(i, x), rows.half(i, y)), (u64::from(i), i, !i));
            assert_eq!((rows.flag(i, f), rows.flag(i, g)), (false, i % 3 == 0));
        }
    }
}
