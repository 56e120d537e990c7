//! Sessions that clients keep by name over several requests.
//!
//! A session belongs to one request at a time, as drivers expect: a second one meanwhile is
//! refused. Idle ones go after their timeout. At most [`SESSIONS_MAX`] are kept; one more is
//! refused.

use super::ask::SessionAsk;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use weir_base::{Clock, Result, err};
use weir_engine::Session;

pub const SESSIONS_MAX: usize = 10_000;

struct Kept {
    /// `None` while a request has it.
    session: Option<Session>,
    expires_at: Duration,
}

pub struct Sessions {
    clock: Arc<dyn Clock>,
    kept: Mutex<HashMap<(String, String), Kept>>,
}

/// One request's hold on a session; given back when dropped.
pub struct Lease {
    sessions: Arc<Sessions>,
    key: (String, String),
    timeout: Duration,
    pub session: Session,
}

impl Sessions {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Sessions> {
        Arc::new(Sessions { clock, kept: Mutex::default() })
    }

    /// Takes the session, or a new one where none is kept.
    ///
    /// # Errors
    /// 373 while another request has it, 372 if it must exist and does not, 202 past
    /// [`SESSIONS_MAX`].
    pub fn take(self: &Arc<Self>, user: &str, ask: &SessionAsk) -> Result<Lease> {
        let now = self.clock.monotonic();
        let key = (user.to_owned(), ask.id.clone());
        let mut kept = self.kept.lock();
        if kept.len() >= SESSIONS_MAX {
            kept.retain(|_, k| k.session.is_none() || k.expires_at > now);
        }
        let found = match kept.get_mut(&key) {
            Some(k) if k.session.is_some() && k.expires_at <= now => None,
            Some(k) => Some(k.session.take().ok_or_else(|| {
                err!(
                    SessionIsLocked,
                    "session {} is in use by another request; wait for it, or use another id",
                    ask.id
                )
            })?),
            None => None,
        };
        let session = match found {
            Some(session) => session,
            None if ask.check => {
                return Err(err!(SessionNotFound, "session {} does not exist or has expired", ask.id));
            }
            None if kept.len() >= SESSIONS_MAX => {
                return Err(err!(
                    TooManyQueries,
                    "{SESSIONS_MAX} sessions are open, no more are kept; retry later"
                ));
            }
            None => {
                kept.insert(key.clone(), Kept { session: None, expires_at: now });
                Session { user: user.to_owned(), ..Session::default() }
            }
        };
        if let Some(k) = kept.get_mut(&key) {
            k.session = None;
        }
        drop(kept);
        let timeout = Duration::from_secs(ask.timeout_s);
        Ok(Lease { sessions: self.clone(), key, timeout, session })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let expires_at = self.sessions.clock.monotonic() + self.timeout;
        let session = Some(std::mem::take(&mut self.session));
        self.sessions.kept.lock().insert(self.key.clone(), Kept { session, expires_at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_base::ManualClock;

    #[test]
    fn one_request_at_a_time_and_gone_after_the_timeout() {
        let clock = Arc::new(ManualClock::new(0));
        let sessions = Sessions::new(clock.clone());
        let ask = SessionAsk { id: "s".into(), timeout_s: 60, check: false };
        let must = SessionAsk { check: true, ..ask.clone() };
        assert!(sessions.take("default", &must).is_err());
        let mut lease = sessions.take("default", &ask).unwrap();
        lease.session.database = "d".into();
        assert_eq!(sessions.take("default", &ask).err().unwrap().code.number(), 373);
        assert!(sessions.take("other", &must).is_err());
        drop(lease);
        assert_eq!(sessions.take("default", &must).unwrap().session.database, "d");
        clock.advance(Duration::from_secs(61));
        assert_eq!(sessions.take("default", &must).err().unwrap().code.number(), 372);
        assert_eq!(sessions.take("default", &ask).unwrap().session.database, "default");
    }
}
