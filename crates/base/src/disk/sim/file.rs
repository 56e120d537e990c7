//! An open file of the simulated disk.

use super::{Operation, State, Verdict, crash_error, injected, no_space};
use crate::disk::DiskFile;
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct SimFile {
    pub disk: Arc<Mutex<State>>,
    pub id: u64,
    pub writable: bool,
}

impl SimFile {
    fn refuse_unless_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.lock();
        if state.crashed {
            return Err(crash_error());
        }
        let now = state.reads;
        state.reads += 1;
        if state.read_fault == Some(now) {
            state.read_fault = None;
            state.faults_struck += 1;
            return Err(injected());
        }
        let live = &state.files[&self.id].live;
        let from = live.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let n = buf.len().min(live.len() - from);
        buf[..n].copy_from_slice(&live[from..from + n]);
        Ok(n)
    }

    fn write_all_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        self.refuse_unless_writable()?;
        let mut bytes = Vec::with_capacity(slices.iter().map(|s| s.len()).sum());
        slices.iter().for_each(|s| bytes.extend_from_slice(s));
        let mut state = self.disk.lock();
        let verdict = state.begin(Operation::TakesSpace)?;
        state.refuse_beyond_capacity(self.id, offset + bytes.len() as u64)?;
        let State { files, rng, .. } = &mut *state;
        let file = files.get_mut(&self.id).expect("open files exist");
        match verdict {
            Verdict::Go | Verdict::FailSync => {
                file.write(offset, &bytes);
                Ok(())
            }
            Verdict::NoSpace => {
                let part = rng.usize(..=bytes.len());
                file.write(offset, &bytes[..part]);
                Err(no_space())
            }
            Verdict::Fail => {
                let part = rng.usize(..=bytes.len());
                file.write(offset, &bytes[..part]);
                Err(injected())
            }
            Verdict::Tear(sector_bytes) => {
                file.write_torn(rng, offset, &bytes, sector_bytes);
                state.crash();
                Err(crash_error())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let verdict = state.begin(Operation::Sync)?;
        let State { files, rng, .. } = &mut *state;
        let file = files.get_mut(&self.id).expect("open files exist");
        match verdict {
            Verdict::Go => {
                file.sync();
                Ok(())
            }
            Verdict::Fail | Verdict::FailSync | Verdict::NoSpace => {
                file.fail_sync(rng);
                Err(injected())
            }
            Verdict::Tear(_) => {
                state.crash();
                Err(crash_error())
            }
        }
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.refuse_unless_writable()?;
        let mut state = self.disk.lock();
        state.begin_plain(Operation::Other)?;
        state.refuse_beyond_capacity(self.id, len_bytes)?;
        state.files.get_mut(&self.id).expect("open files exist").set_len(len_bytes);
        Ok(())
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        self.refuse_unless_writable()?;
        let mut state = self.disk.lock();
        state.begin_plain(Operation::TakesSpace)?;
        state.refuse_beyond_capacity(self.id, len_bytes)?;
        let file = state.files.get_mut(&self.id).expect("open files exist");
        if len_bytes > file.live.len() as u64 {
            file.set_len(len_bytes);
        }
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        let state = self.disk.lock();
        if state.crashed { Err(crash_error()) } else { Ok(state.files[&self.id].live.len() as u64) }
    }
}
