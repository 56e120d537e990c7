//! Sessions and waiting rows as they are written down at an epoch, and back.

use super::{Cut, NAME, Order, ROWS_MAX, Session, State, Waiting, arrow, damaged};
use crate::op::held::Handle;
use crate::op::kept::{Kept, RowsOf, pieces};
use crate::operator::OpError;
use crate::state::StateReader;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keys::Key;
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use std::collections::VecDeque;
use weir_plan::OpenSession;

/// Rows that are restored before memory is looked at.
const RESTORE_ROWS: usize = 8_192;

impl Session {
    pub(super) fn write(&self, out: &mut Writer) -> Result<(), OpError> {
        let (sessions, waiting) = self.state.in_order();
        let sessions: Vec<&Cut> = sessions
            .iter()
            .map(|s| self.state.sessions[*s as usize].as_ref().expect("it is there"))
            .collect();
        out.u64(sessions.len() as u64);
        for session in &sessions {
            save_session(&self.state, session, out);
            out.u64(session.len() as u64);
        }
        let pieces = pieces(&sessions, |s| s.len());
        out.u64(pieces.len() as u64);
        for sessions in pieces {
            let all: Vec<RowsOf<'_>> = sessions.iter().map(|s| s.rows_of()).collect();
            out.u64(sessions.len() as u64);
            save_rows(&self.kept.gather(&self.state.held, &all)?, out)?;
        }
        self.write_rows(&waiting, out)
    }

    pub(super) fn write_waiting(&self, out: &mut Writer) -> Result<(), OpError> {
        let (_, waiting) = self.state.in_order();
        self.write_rows(&waiting, out)
    }

    fn write_rows(&self, waiting: &[Waiting], out: &mut Writer) -> Result<(), OpError> {
        let chunks: Vec<&[Waiting]> = waiting.chunks(ROWS_MAX).collect();
        out.u64(chunks.len() as u64);
        for rows in chunks {
            out.u64(rows.len() as u64);
            for row in rows {
                save_order(row.order, out);
                out.u64(u64::from(row.starts) | u64::from(row.ends) << 1);
            }
            let handles: Vec<Handle> = rows.iter().map(|w| w.at).collect();
            save_rows(&self.state.held.gather(&handles).map_err(arrow)?, out)?;
        }
        Ok(())
    }

    pub(super) fn read(&mut self, from: &mut Reader<'_>) -> Result<(), OpError> {
        let missing = || damaged(Damaged("kept rows are missing"));
        let mut sessions = VecDeque::new();
        for _ in 0..from.count(57).map_err(damaged)? {
            let number = self.state.next_number;
            self.state.next_number += 1;
            let session = load_session(&mut self.state, number, from).map_err(damaged)?;
            sessions.push_back((session, from.u64().map_err(damaged)? as usize));
        }
        for _ in 0..from.count(16).map_err(damaged)? {
            let n = (from.u64().map_err(damaged)? as usize).min(sessions.len());
            let mut moved = self.load_rows(from)?.into_iter();
            let mut some = Vec::with_capacity(n);
            for (mut session, rows) in sessions.drain(..n) {
                session.rows = moved.by_ref().take(rows).map(|(at, _)| at).collect();
                if session.rows.len() != rows || session.left_out && rows == 0 {
                    return Err(missing());
                }
                some.push(session);
            }
            let moved = some.iter().flat_map(|s| s.rows.iter().map(|at| (*at, s.key))).collect();
            self.refill(some, Vec::new(), moved);
            self.make_room()?;
        }
        if !sessions.is_empty() {
            return Err(missing());
        }
        self.read_waiting(from)
    }

    fn read_waiting(&mut self, from: &mut Reader<'_>) -> Result<(), OpError> {
        let missing = || damaged(Damaged("kept rows are missing"));
        for _ in 0..from.count(16).map_err(damaged)? {
            let mut waiting = Vec::new();
            for _ in 0..from.count(32).map_err(damaged)? {
                let order = load_order(from).map_err(damaged)?;
                let flags = from.u64().map_err(damaged)?;
                let (starts, ends) = (flags & 1 == 1, flags & 2 == 2);
                waiting.push(Waiting { order, at: (0, 0), key: 0, starts, ends });
            }
            let moved = self.load_rows(from)?;
            if moved.len() != waiting.len() {
                return Err(missing());
            }
            self.refill(Vec::new(), waiting, moved);
            self.make_room()?;
        }
        Ok(())
    }

    pub(super) fn read_runs(&mut self, from: &StateReader) -> Result<(), OpError> {
        self.state.next_number = from.u64(NAME, "next_number")? as i64;
        let mut lasting = std::mem::take(&mut self.lasting);
        let (mut sessions, mut rows) = (Vec::new(), Vec::new());
        lasting.restore(NAME, from, |slot, rest| {
            let mut session = |from: &mut Reader<'_>| -> Result<(Cut, usize), Damaged> {
                let number = from.i64()?;
                let session = load_session(&mut self.state, number, from)?;
                Ok((session, Kept::load(from, &mut rows)?))
            };
            let (session, n) = session(rest).map_err(damaged)?;
            sessions.push((slot, session, n));
            if rows.len() >= RESTORE_ROWS {
                self.come_back(&mut sessions, &mut rows)?;
            }
            Ok(())
        })?;
        self.lasting = lasting;
        self.come_back(&mut sessions, &mut rows)?;
        let free = |s: &u32| self.state.sessions[*s as usize].is_none();
        self.state.free = (0..self.state.sessions.len() as u32).filter(free).collect();
        self.read_waiting(&mut Reader(from.bytes(NAME, "waiting")?))
    }

    /// Sessions in their slots, with so many of the rows each.
    fn come_back(
        &mut self,
        sessions: &mut Vec<(u32, Cut, usize)>,
        rows: &mut Vec<Box<[u8]>>,
    ) -> Result<(), OpError> {
        if sessions.is_empty() {
            return Ok(());
        }
        let mut moved = match rows.is_empty() {
            true => Vec::new(),
            false => self.keep_all(&self.kept.columns(rows)?)?,
        }
        .into_iter();
        rows.clear();
        for (slot, mut session, n) in sessions.drain(..) {
            session.rows = moved.by_ref().take(n).map(|(at, _)| at).collect();
            if session.left_out && n == 0 {
                return Err(damaged(Damaged("kept rows are missing")));
            }
            let (key, ended, end) = (session.key, session.ended, session.bounds.end_ns(&self.spec));
            self.state.use_key(key);
            self.state.put_at(slot, session, end);
            if !ended {
                self.state.keys[key as usize].open = slot;
            }
        }
        self.make_room()
    }

    fn load_rows(&mut self, from: &mut Reader<'_>) -> Result<Vec<(Handle, u32)>, OpError> {
        let unread = |_| damaged(Damaged("kept rows do not read"));
        let bytes = from.bytes().map_err(damaged)?;
        let mut reader = arrow::ipc::reader::StreamReader::try_new(bytes, None).map_err(unread)?;
        let batch = reader.next().ok_or_else(|| damaged(Damaged("kept rows are missing")))?;
        let batch = batch.map_err(unread)?;
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        self.keep_all(&batch).map_err(|_| damaged(Damaged("kept rows are not this query's")))
    }
}

/// Writes a session, if there is one; its slot stands before.
pub(super) fn put(
    kept: &Kept,
    state: &State,
    session: Option<&Cut>,
    out: &mut Writer,
) -> Result<bool, OpError> {
    let Some(session) = session else { return Ok(false) };
    out.i64(session.number);
    save_session(state, session, out);
    kept.save(&state.held, session.rows_of(), out)?;
    Ok(true)
}

/// A session without its rows.
fn save_session(state: &State, session: &Cut, out: &mut Writer) {
    state.table.key(session.key).save(out);
    out.i64(session.bounds.first_ns);
    out.i64(session.bounds.last_ns);
    let flags = [session.bounds.empty, session.left_out, session.ended];
    out.u64(flags.iter().rev().fold(0, |all, f| all << 1 | u64::from(*f)));
    save_order(session.began, out);
}

fn load_session(state: &mut State, number: i64, from: &mut Reader<'_>) -> Result<Cut, Damaged> {
    let key = state.key(Key::load(from)?)?;
    let (first_ns, last_ns, flags) = (from.i64()?, from.i64()?, from.u64()?);
    Ok(Cut {
        number,
        key,
        bounds: OpenSession { first_ns, last_ns, empty: flags & 1 == 1 },
        began: load_order(from)?,
        on_disk: 0,
        rows: Vec::new(),
        left_out: flags & 2 == 2,
        ended: flags & 4 == 4,
    })
}

fn save_rows(batch: &RecordBatch, out: &mut Writer) -> Result<(), OpError> {
    let written = || -> Result<Vec<u8>, ArrowError> {
        let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema())?;
        writer.write(batch)?;
        writer.into_inner()
    };
    out.bytes(&written().map_err(arrow)?);
    Ok(())
}

fn save_order((time, shard, sn): Order, out: &mut Writer) {
    out.i64(time);
    out.i64(i64::from(shard));
    out.i64(sn);
}

fn load_order(from: &mut Reader<'_>) -> Result<Order, Damaged> {
    Ok((from.i64()?, from.i64()? as i32, from.i64()?))
}
