//! Some values of one type for each key: as words in the key's row where they fit, else beside it.
//!
//! A value is a word (numbers, times) or its bytes in Arrow's row format, whose bytes order as the
//! values do.

use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Column, Flag, Layout, RowStore};
use arrow_array::{Array, ArrayRef, make_array};
use arrow_buffer::{Buffer, NullBuffer};
use arrow_row::{RowConverter, Rows, SortField};
use arrow_schema::{ArrowError, DataType, TimeUnit};

/// Values of a key that lie in its row; more of them lie beside it.
const INLINE_MAX: usize = 4;
const THERE: &str = "columns reach to the last group";

#[derive(Debug)]
enum Codec {
    Word(DataType),
    Bytes(RowConverter),
}

/// A column's values, each looked at by its row.
pub(super) enum Encoded {
    Words(Vec<u64>, Option<NullBuffer>),
    Bytes(Rows),
}

/// Values put together for a column.
pub(super) enum Collected {
    Words(Vec<u64>, Vec<bool>),
    /// Bytes of all, and where each ends.
    Bytes(Vec<u8>, Vec<usize>),
}

#[derive(Debug)]
enum Place {
    /// Words of the row, and whether each holds a value.
    Inline {
        at: Vec<usize>,
        set: Vec<Flag>,
    },
    Words(Column<Vec<Option<u64>>>),
    Bytes(Column<Vec<Option<Box<[u8]>>>>),
}

#[derive(Debug)]
pub(super) struct Values {
    codec: Codec,
    slots: usize,
    place: Place,
    /// Bytes beside the rows, without the columns themselves.
    beside: usize,
}

fn width(t: &DataType) -> Option<usize> {
    Some(match t {
        DataType::Int8 | DataType::UInt8 => 1,
        DataType::Int16 | DataType::UInt16 => 2,
        DataType::Int32
        | DataType::UInt32
        | DataType::Float32
        | DataType::Date32
        | DataType::Time32(TimeUnit::Second | TimeUnit::Millisecond) => 4,
        DataType::Int64
        | DataType::UInt64
        | DataType::Float64
        | DataType::Date64
        | DataType::Timestamp(..)
        | DataType::Time64(_)
        | DataType::Duration(_) => 8,
        _ => return None,
    })
}

/// Integers keep their value, so that words of one signedness compare as they do.
fn to_words(array: &ArrayRef) -> Vec<u64> {
    let data = array.to_data();
    let n = array.len();
    let signed = !array.data_type().is_unsigned_integer() && *array.data_type() != DataType::Float32;
    match width(array.data_type()).expect("a word, checked when made") {
        1 if signed => data.buffer::<i8>(0)[..n].iter().map(|v| i64::from(*v) as u64).collect(),
        1 => data.buffer::<u8>(0)[..n].iter().map(|v| u64::from(*v)).collect(),
        2 if signed => data.buffer::<i16>(0)[..n].iter().map(|v| i64::from(*v) as u64).collect(),
        2 => data.buffer::<u16>(0)[..n].iter().map(|v| u64::from(*v)).collect(),
        4 if signed => data.buffer::<i32>(0)[..n].iter().map(|v| i64::from(*v) as u64).collect(),
        4 => data.buffer::<u32>(0)[..n].iter().map(|v| u64::from(*v)).collect(),
        _ => data.buffer::<u64>(0)[..n].to_vec(),
    }
}

fn from_words(words: Vec<u64>, set: Vec<bool>, t: &DataType) -> Result<ArrayRef, ArrowError> {
    let n = words.len();
    let buffer = match width(t).expect("a word, checked when made") {
        1 => Buffer::from_vec(words.iter().map(|w| *w as u8).collect::<Vec<_>>()),
        2 => Buffer::from_vec(words.iter().map(|w| *w as u16).collect::<Vec<_>>()),
        4 => Buffer::from_vec(words.iter().map(|w| *w as u32).collect::<Vec<_>>()),
        _ => Buffer::from_vec(words),
    };
    let nulls = set.contains(&false).then(|| NullBuffer::from(set));
    let data = arrow::array::ArrayData::builder(t.clone()).len(n).add_buffer(buffer).nulls(nulls).build()?;
    Ok(make_array(data))
}

impl Values {
    /// `ordered`: values will be compared.
    ///
    /// # Errors
    /// Arrow's, for types that it cannot write as rows.
    pub fn new(t: &DataType, slots: usize, ordered: bool, layout: &mut Layout) -> Result<Self, ArrowError> {
        let word = width(t).is_some() && !(ordered && t.is_floating());
        let codec = if word {
            Codec::Word(t.clone())
        } else {
            Codec::Bytes(RowConverter::new(vec![SortField::new(t.clone())])?)
        };
        let place = match &codec {
            Codec::Word(_) if slots <= INLINE_MAX => Place::Inline {
                at: (0..slots).map(|_| layout.word(0)).collect(),
                set: (0..slots).map(|_| layout.flag()).collect(),
            },
            Codec::Word(_) => Place::Words(Column::default()),
            Codec::Bytes(_) => Place::Bytes(Column::default()),
        };
        Ok(Values { codec, slots, place, beside: 0 })
    }

    pub fn encode(&self, array: &ArrayRef) -> Result<Encoded, ArrowError> {
        Ok(match &self.codec {
            Codec::Word(_) => Encoded::Words(to_words(array), array.nulls().cloned()),
            Codec::Bytes(converter) => {
                Encoded::Bytes(converter.convert_columns(std::slice::from_ref(array))?)
            }
        })
    }

    pub fn collector(&self, rows: usize) -> Collected {
        match self.codec {
            Codec::Word(_) => Collected::Words(Vec::with_capacity(rows), Vec::with_capacity(rows)),
            Codec::Bytes(_) => Collected::Bytes(Vec::new(), Vec::with_capacity(rows)),
        }
    }

    pub fn column(&self, of: Collected) -> Result<ArrayRef, ArrowError> {
        match (&self.codec, of) {
            (Codec::Word(t), Collected::Words(words, set)) => from_words(words, set, t),
            (Codec::Bytes(converter), Collected::Bytes(bytes, ends)) => {
                let parser = converter.parser();
                let starts = std::iter::once(0).chain(ends.iter().copied());
                let rows = starts.zip(&ends).map(|(from, to)| parser.parse(&bytes[from..*to]));
                let mut columns = converter.convert_rows(rows)?;
                Ok(columns.pop().expect("one column was encoded"))
            }
            _ => unreachable!("collected by the same codec"),
        }
    }

    /// Groups up to `len` exist after it.
    pub fn extend_to(&mut self, len: usize) {
        match &mut self.place {
            Place::Inline { .. } => {}
            Place::Words(c) => c.extend_to(len),
            Place::Bytes(c) => c.extend_to(len),
        }
    }

    /// Appends what a slot holds, which must have been set.
    pub fn get(&self, rows: &RowStore, group: u32, slot: usize, out: &mut Collected) {
        match (&self.place, out) {
            (Place::Inline { at, set }, Collected::Words(words, there)) => {
                words.push(rows.word(group, at[slot]));
                there.push(rows.flag(group, set[slot]));
            }
            (Place::Words(c), Collected::Words(words, there)) => {
                let value = c.held(group).expect(THERE)[slot];
                words.push(value.unwrap_or(0));
                there.push(value.is_some());
            }
            (Place::Bytes(c), Collected::Bytes(bytes, ends)) => {
                bytes.extend_from_slice(c.held(group).expect(THERE)[slot].as_deref().unwrap_or_default());
                ends.push(bytes.len());
            }
            _ => unreachable!("collected by the same codec"),
        }
    }

    pub fn set(&mut self, rows: &mut RowStore, group: u32, slot: usize, from: &Encoded, row: usize) {
        match (&mut self.place, from) {
            (Place::Inline { at, set }, Encoded::Words(words, nulls)) => {
                let there = nulls.as_ref().is_none_or(|n| n.is_valid(row));
                *rows.word_mut(group, at[slot]) = words[row];
                rows.put_flag(group, set[slot], there);
            }
            (Place::Words(c), Encoded::Words(words, nulls)) => {
                let values = c.get_mut(group);
                if slot >= values.len() {
                    let before = values.capacity();
                    values.resize(slot + 1, None);
                    self.beside += (values.capacity() - before) * size_of::<Option<u64>>();
                }
                values[slot] = nulls.as_ref().is_none_or(|n| n.is_valid(row)).then(|| words[row]);
            }
            (Place::Bytes(c), Encoded::Bytes(encoded)) => {
                let values = c.get_mut(group);
                if slot >= values.len() {
                    let before = values.capacity();
                    values.resize(slot + 1, None);
                    self.beside += (values.capacity() - before) * size_of::<Option<Box<[u8]>>>();
                }
                let new: Box<[u8]> = encoded.row(row).as_ref().into();
                self.beside += new.len();
                self.beside -= values[slot].as_ref().map_or(0, |old| old.len());
                values[slot] = Some(new);
            }
            _ => unreachable!("encoded by the same codec"),
        }
    }

    /// Whether a row's value goes before what slot 0 holds, or behind it (`greater`).
    pub fn beats(&self, rows: &RowStore, group: u32, from: &Encoded, row: usize, greater: bool) -> bool {
        let order = match (&self.place, from) {
            (Place::Inline { at, .. }, Encoded::Words(words, _)) => {
                let (new, old) = (words[row], rows.word(group, at[0]));
                match &self.codec {
                    Codec::Word(t) if t.is_unsigned_integer() => new.cmp(&old),
                    _ => (new as i64).cmp(&(old as i64)),
                }
            }
            (Place::Bytes(c), Encoded::Bytes(encoded)) => {
                encoded.row(row).as_ref().cmp(c.held(group).expect(THERE)[0].as_deref().unwrap_or_default())
            }
            _ => unreachable!("one ordered value lies in the row or as bytes"),
        };
        if greater { order.is_gt() } else { order.is_lt() }
    }

    pub fn bytes(&self) -> usize {
        self.beside
            + match &self.place {
                Place::Inline { .. } => 0,
                Place::Words(c) => c.bytes(),
                Place::Bytes(c) => c.bytes(),
            }
    }

    /// Forgets all groups.
    pub fn clear(&mut self) {
        self.beside = 0;
        match &mut self.place {
            Place::Inline { .. } => {}
            Place::Words(c) => *c = Column::default(),
            Place::Bytes(c) => *c = Column::default(),
        }
    }

    /// What does not lie in the row of a group.
    pub fn save(&self, group: u32, out: &mut Writer) {
        match &self.place {
            Place::Inline { .. } => {}
            Place::Words(c) => {
                let values = c.held(group).expect(THERE);
                out.u64(values.len() as u64);
                for value in values {
                    out.u64(u64::from(value.is_some()));
                    out.u64(value.unwrap_or(0));
                }
            }
            Place::Bytes(c) => {
                let values = c.held(group).expect(THERE);
                out.u64(values.len() as u64);
                values.iter().for_each(|v| out.bytes(v.as_deref().unwrap_or_default()));
            }
        }
    }

    /// Of a group that holds nothing yet.
    pub fn load(&mut self, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.extend_to(group as usize + 1);
        let too_many = Damaged("a key holds more values than its functions look at");
        match &mut self.place {
            Place::Inline { .. } => {}
            Place::Words(c) => {
                let n = from.count(16)?;
                if n > self.slots {
                    return Err(too_many);
                }
                let values = c.get_mut(group);
                for _ in 0..n {
                    let set = from.u64()? == 1;
                    let value = from.u64()?;
                    values.push(set.then_some(value));
                }
                self.beside += values.capacity() * size_of::<Option<u64>>();
            }
            Place::Bytes(c) => {
                let n = from.count(8)?;
                if n > self.slots {
                    return Err(too_many);
                }
                let values = c.get_mut(group);
                for _ in 0..n {
                    let bytes: Box<[u8]> = from.bytes()?.into();
                    self.beside += bytes.len();
                    values.push(Some(bytes));
                }
                self.beside += values.capacity() * size_of::<Option<Box<[u8]>>>();
            }
        }
        Ok(())
    }
}

impl Collected {
    /// Appends a row of a column.
    pub fn push(&mut self, from: &Encoded, row: usize) {
        match (self, from) {
            (Collected::Words(words, set), Encoded::Words(values, nulls)) => {
                words.push(values[row]);
                set.push(nulls.as_ref().is_none_or(|n| n.is_valid(row)));
            }
            (Collected::Bytes(bytes, ends), Encoded::Bytes(rows)) => {
                bytes.extend_from_slice(rows.row(row).as_ref());
                ends.push(bytes.len());
            }
            _ => unreachable!("collected by the same codec"),
        }
    }
}
