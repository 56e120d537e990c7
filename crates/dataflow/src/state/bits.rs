//! A set of row numbers, a bit each.

#[derive(Debug, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    #[inline]
    pub fn contains(&self, row: u32) -> bool {
        self.words.get(row as usize / 64).is_some_and(|w| w & 1 << (row % 64) != 0)
    }

    /// Whether it was not there.
    #[inline]
    pub fn insert(&mut self, row: u32) -> bool {
        let (word, bit) = (row as usize / 64, 1u64 << (row % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        new
    }

    /// Whether it was there.
    #[inline]
    pub fn remove(&mut self, row: u32) -> bool {
        let Some(word) = self.words.get_mut(row as usize / 64) else { return false };
        let was = *word & 1 << (row % 64) != 0;
        *word &= !(1 << (row % 64));
        was
    }

    /// All below `n`.
    pub fn all(n: usize) -> Self {
        let mut words = vec![u64::MAX; n / 64];
        if !n.is_multiple_of(64) {
            words.push((1 << (n % 64)) - 1);
        }
        Bits { words }
    }

    /// Removes and gives the least row from `word` on (a word has 64), and says in which it was found.
    pub fn take_next(&mut self, word: &mut usize) -> Option<u32> {
        while let Some(bits) = self.words.get_mut(*word) {
            if *bits != 0 {
                let bit = bits.trailing_zeros();
                *bits &= *bits - 1;
                return Some(*word as u32 * 64 + bit);
            }
            *word += 1;
        }
        None
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    pub fn bytes(&self) -> usize {
        self.words.capacity() * 8
    }
}
