//! State as bytes: little endian, lengths in front.

/// The bytes end early or say something impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the saved state is damaged: {0}")]
pub(crate) struct Damaged(pub &'static str);

#[derive(Debug, Default)]
pub(crate) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    pub fn u16(&mut self, v: u16) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    pub fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    pub fn i64(&mut self, v: i64) {
        self.u64(v as u64);
    }
    pub fn words(&mut self, all: &[u64]) {
        self.u64(all.len() as u64);
        all.iter().for_each(|w| self.u64(*w));
    }
    pub fn bytes(&mut self, all: &[u8]) {
        self.u64(all.len() as u64);
        self.0.extend_from_slice(all);
    }
}

#[derive(Debug)]
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Damaged> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Damaged("it ends early"))?;
        self.0 = rest;
        Ok(head)
    }
    pub fn u64(&mut self) -> Result<u64, Damaged> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }
    pub fn u8(&mut self) -> Result<u8, Damaged> {
        self.take(1).map(|b| b[0])
    }
    pub fn u16(&mut self) -> Result<u16, Damaged> {
        let bytes = self.take(2)?;
        Ok(u16::from_le_bytes(bytes.try_into().expect("two bytes were taken")))
    }
    pub fn u32(&mut self) -> Result<u32, Damaged> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }
    pub fn i64(&mut self) -> Result<i64, Damaged> {
        self.u64().map(|v| v as i64)
    }
    /// A number of things that follow, each of at least `size` bytes.
    pub fn count(&mut self, size: usize) -> Result<usize, Damaged> {
        let n = self.u64()? as usize;
        match n.checked_mul(size) {
            Some(bytes) if bytes <= self.0.len() => Ok(n),
            _ => Err(Damaged("a length is more than what is there")),
        }
    }
    pub fn words(&mut self) -> Result<Vec<u64>, Damaged> {
        let n = self.count(8)?;
        (0..n).map(|_| self.u64()).collect()
    }
    pub fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let n = self.count(1)?;
        self.take(n)
    }
}
