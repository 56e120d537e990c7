//! Sessions and waiting rows as they are written down at an epoch, and back.

use super::{Cut, Order, ROWS_MAX, Session, Waiting, arrow, damaged};
use crate::op::held::Handle;
use crate::op::kept::{RowsOf, pieces};
use crate::operator::OpError;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keys::Key;
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use std::collections::VecDeque;
use weir_plan::OpenSession;

impl Session {
    pub(super) fn write(&self, out: &mut Writer) -> Result<(), OpError> {
        let (sessions, waiting) = self.state.in_order();
        let sessions: Vec<&Cut> = sessions
            .iter()
            .map(|s| self.state.sessions[*s as usize].as_ref().expect("it is there"))
            .collect();
        out.u64(sessions.len() as u64);
        for session in &sessions {
            self.state.table.key(session.key).save(out);
            out.i64(session.bounds.first_ns);
            out.i64(session.bounds.last_ns);
            let flags = [session.bounds.empty, session.left_out, session.ended];
            out.u64(flags.iter().rev().fold(0, |all, f| all << 1 | u64::from(*f)));
            save_order(session.began, out);
            out.u64(session.len() as u64);
        }
        let pieces = pieces(&sessions, |s| s.len());
        out.u64(pieces.len() as u64);
        for sessions in pieces {
            let all: Vec<RowsOf<'_>> = sessions.iter().map(|s| s.rows_of()).collect();
            out.u64(sessions.len() as u64);
            save_rows(&self.kept.gather(&self.state.held, &all)?, out)?;
        }
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
            let mut session = |from: &mut Reader<'_>| -> Result<(Cut, usize), Damaged> {
                let key = self.state.key(Key::load(from)?)?;
                let (first_ns, last_ns, flags) = (from.i64()?, from.i64()?, from.u64()?);
                let session = Cut {
                    number: self.state.next_number,
                    key,
                    bounds: OpenSession { first_ns, last_ns, empty: flags & 1 == 1 },
                    began: load_order(from)?,
                    on_disk: 0,
                    rows: Vec::new(),
                    left_out: flags & 2 == 2,
                    ended: flags & 4 == 4,
                };
                self.state.next_number += 1;
                Ok((session, from.u64()? as usize))
            };
            sessions.push_back(session(from).map_err(damaged)?);
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
