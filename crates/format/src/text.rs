//! Single values as text: what SQL literals, casts and the text formats share.
//!
//! [`parse_into`] reads the text of one value, [`render`] shows one; both speak of a field made
//! by [`crate::types::Type::field`].

pub(crate) mod ident;
pub(crate) mod number;
pub(crate) mod quoted;
pub(crate) mod time;
pub(crate) mod write;

use crate::column::Column;
use crate::fault::{Fault, Stop};
use crate::kind::{Kind, Shape};
use crate::types::Type;
use crate::view::{View, stored};
use crate::{FormatError, FormatSettings};
use arrow_array::ArrayRef;
use arrow_schema::Field;
use quoted::Cursor;
use write::{Style, Writer};

/// What some tools begin a file with: UTF-8 has no order of bytes.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Builds one column from the text of its values.
pub struct TextColumn {
    column: Column,
    settings: FormatSettings,
    name: String,
}

impl TextColumn {
    /// A builder for `field`'s type.
    pub fn new(field: &Field, settings: &FormatSettings) -> TextColumn {
        TextColumn {
            column: Column::new(&Kind::of_field(field)),
            settings: settings.clone(),
            name: field.name().clone(),
        }
    }

    /// How many values were added.
    pub fn len(&self) -> usize {
        self.column.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a null, or the default where the type has none and `null_as_default` allows it.
    pub fn push_null(&mut self) -> Result<(), FormatError> {
        let done = self.column.push_null(self.settings.null_as_default).map(|_| ());
        self.settle(done)
    }

    /// Adds the type's default.
    pub fn push_default(&mut self) {
        self.column.push_default();
    }

    /// Adds the value that `text`, without quotes around it, stands for: `2024-01-01`, `5`,
    /// `[1, 2]`, `('a', 1)`.
    ///
    /// # Errors
    /// [`FormatError::Parse`] with the row counted from 1 within this column.
    pub fn push(&mut self, text: &str) -> Result<(), FormatError> {
        let done = match self.column.kind.shape {
            Shape::Array(_) | Shape::Map(..) | Shape::Tuple(_) => {
                whole_literal(text.as_bytes(), &mut self.column, &self.settings)
            }
            _ => self.column.push_text(text.as_bytes(), self.settings.best_effort_times),
        };
        self.settle(done)
    }

    /// Adds the value of a literal as SQL writes it: text in single quotes, `NULL`, numbers.
    pub fn push_literal(&mut self, literal: &str) -> Result<(), FormatError> {
        let done = whole_literal(literal.as_bytes(), &mut self.column, &self.settings);
        self.settle(done)
    }

    fn settle(&mut self, done: Result<(), Fault>) -> Result<(), FormatError> {
        done.map_err(|fault| {
            // What a half-read array left is dropped with the next truncate, so do it now.
            let rows = self.rows_whole();
            self.column.truncate(rows);
            fault.in_column(&self.name).at_row(rows as u64 + 1)
        })
    }

    fn rows_whole(&self) -> usize {
        self.column.len()
    }

    /// The values so far; the builder starts anew.
    pub fn finish(&mut self) -> Result<ArrayRef, FormatError> {
        self.column.finish(self.settings.utf8_replace).map_err(|e| FormatError::Parse {
            row: e.row as u64 + 1,
            column: Some(self.name.clone()),
            what: "not UTF-8; set input_utf8='replace' to take it anyway".to_owned(),
            text: String::from_utf8_lossy(&e.bytes).chars().take(100).collect(),
        })
    }
}

/// Adds the value that `text` stands for to `column`; see [`TextColumn::push`].
pub fn parse_into(column: &mut TextColumn, text: &str) -> Result<(), FormatError> {
    column.push(text)
}

/// One value of a type from its text, as an array of one.
pub fn parse_value(ty: &Type, text: &str, settings: &FormatSettings) -> Result<ArrayRef, FormatError> {
    let mut column = TextColumn::new(&ty.field("value"), settings);
    column.push(text)?;
    column.finish()
}

/// Renders values of one column.
pub struct Renderer {
    kind: Kind,
}

impl Renderer {
    pub fn new(field: &Field) -> Renderer {
        Renderer { kind: Kind::of_field(field) }
    }

    /// Calls `each` with the text of every value, `None` for nulls, as `to_string` shows it: no
    /// quotes around text, dates and times in the type's zone, arrays as `[1,'a']`.
    ///
    /// # Errors
    /// [`FormatError::Encode`] if the array can not be cast to the field's type.
    pub fn each(&self, array: &ArrayRef, mut each: impl FnMut(Option<&[u8]>)) -> Result<(), FormatError> {
        let array = stored(&self.kind, array)
            .map_err(|what| FormatError::Encode { column: "value".to_owned(), what })?;
        let view = View::new(&self.kind, &array);
        let writer = Writer::new(Style::Plain, &FormatSettings::default());
        let mut out = Vec::new();
        for row in 0..array.len() {
            if view.is_null(row) {
                each(None);
                continue;
            }
            out.clear();
            writer.value(&view, row, &mut out);
            each(Some(&out));
        }
        Ok(())
    }
}

/// The text of `array[row]`, a value of `field`; `None` if it is null. For many values take a
/// [`Renderer`].
pub fn render(field: &Field, array: &ArrayRef, row: usize) -> Result<Option<String>, FormatError> {
    let mut text = None;
    Renderer::new(field).each(&array.slice(row, 1), |t| {
        text = t.map(|t| String::from_utf8_lossy(t).into_owned());
    })?;
    Ok(text)
}

/// Reads all of `text` as one literal into the column.
pub(crate) fn whole_literal(text: &[u8], column: &mut Column, s: &FormatSettings) -> Result<(), Fault> {
    // A blank after the text ends bare tokens.
    let mut input = text.to_vec();
    input.push(b' ');
    let mut c = Cursor::new(&input);
    match quoted::value(&mut c, column, s) {
        Ok(_) => {}
        Err(Stop::Bad(fault)) => return Err(fault),
        Err(Stop::More) => {
            return Err(Fault::new(format!("an unfinished literal of {}", column.kind.ty), text));
        }
    }
    c.space();
    if c.at < input.len() {
        return Err(Fault::new("text after the end of the value", c.rest()));
    }
    Ok(())
}
