//! The life of a view, as a pure machine: what happened goes in, what to do comes out.
//!
//! ```text
//! Created -> Starting | Restoring -> Running -> Backoff -> Starting …
//!                                      |  \-> Error (until RECOVER)
//!                                      \----> Paused (until RESUME)       any -> Dropped
//! ```
//!
//! No clock and no task: times come with events.

use weir_base::{Code, ErrorKind};

/// Waits before a failed view starts again, microseconds: the first, and the longest.
const BACKOFF_FIRST_US: i64 = 500_000;
const BACKOFF_MAX_US: i64 = 30_000_000;
/// A view that ran so long counts its failures anew.
const HEALTHY_US: i64 = 60_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Known, not begun.
    Created,
    /// Its query is being started; it has no checkpoint yet.
    Starting,
    /// It goes on from a checkpoint and passes what was written before.
    Restoring,
    Running,
    /// Starts again at this time, microseconds since the epoch.
    Backoff(i64),
    Paused,
    /// Does not go on by itself.
    Error,
    Dropped,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Created => "Created",
            State::Starting => "Starting",
            State::Restoring => "Restoring",
            State::Running => "Running",
            State::Backoff(_) => "Backoff",
            State::Paused => "Paused",
            State::Error => "Error",
            State::Dropped => "Dropped",
        }
    }

    /// Its query runs, or is about to.
    pub fn is_active(self) -> bool {
        matches!(self, State::Starting | State::Restoring | State::Running)
    }
}

/// What ended a view's query, as far as its supervisor cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may go well the next time: memory, disk, a target that does not answer, a bug.
    Passing,
    /// It would fail again: a row, a query that no longer fits, a source that is gone, damage.
    Lasting,
}

impl Failure {
    pub fn of(code: Code) -> Self {
        match code.kind() {
            ErrorKind::Unavailable | ErrorKind::Cancelled | ErrorKind::Internal => Failure::Passing,
            ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Corrupt => {
                Failure::Lasting
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It is to run; `restores` = it has been here before.
    Start {
        restores: bool,
    },
    /// Its query runs.
    Started {
        now_us: i64,
    },
    Failed {
        how: Failure,
        now_us: i64,
    },
    /// It starts again at once, from its checkpoint.
    Again,
    /// Its query has given all there will be.
    Finished,
    /// The time of its backoff has come.
    Due {
        restores: bool,
    },
    Pause,
    Resume {
        restores: bool,
    },
    Recover {
        restores: bool,
    },
    Drop,
}

/// What whoever drives the machine does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start the query.
    Start,
    /// Write a checkpoint, then end the query.
    Stop,
    /// Nothing until the next event.
    Wait,
    /// Give [`Event::Due`] at this time, microseconds since the epoch.
    WaitUntil(i64),
    /// End the query and forget all that was kept for it.
    Remove,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    state: State,
    /// Failures since it was last healthy.
    failures: u32,
    running_since_us: i64,
}

impl Machine {
    pub fn new() -> Self {
        Machine { state: State::Created, failures: 0, running_since_us: i64::MAX }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Takes what happened; `None` = it cannot happen in this state, and changes nothing.
    pub fn on(&mut self, event: Event) -> Option<Action> {
        let starting = |restores: bool| if restores { State::Restoring } else { State::Starting };
        let (state, action) = match (self.state, event) {
            (State::Dropped, _) => return None,
            (_, Event::Drop) => (State::Dropped, Action::Remove),
            (State::Created, Event::Start { restores })
            | (
                State::Backoff(_),
                Event::Due { restores } | Event::Resume { restores } | Event::Recover { restores },
            )
            | (State::Paused, Event::Resume { restores })
            | (State::Error, Event::Recover { restores }) => (starting(restores), Action::Start),
            (State::Starting | State::Restoring, Event::Started { now_us }) => {
                self.running_since_us = now_us;
                (State::Running, Action::Wait)
            }
            (state, Event::Failed { how, now_us }) if state.is_active() => {
                if now_us.saturating_sub(self.running_since_us) > HEALTHY_US {
                    self.failures = 0;
                }
                self.running_since_us = i64::MAX;
                self.failures = self.failures.saturating_add(1);
                match how {
                    Failure::Lasting => (State::Error, Action::Wait),
                    Failure::Passing => {
                        let doubled = BACKOFF_FIRST_US.saturating_mul(1 << (self.failures - 1).min(20));
                        let until = now_us.saturating_add(doubled.min(BACKOFF_MAX_US));
                        (State::Backoff(until), Action::WaitUntil(until))
                    }
                }
            }
            (state, Event::Again) if state.is_active() => (State::Restoring, Action::Start),
            (State::Running, Event::Finished) => (State::Paused, Action::Stop),
            (state, Event::Pause) if state.is_active() => (State::Paused, Action::Stop),
            (State::Created | State::Backoff(_) | State::Error, Event::Pause) => {
                (State::Paused, Action::Wait)
            }
            _ => return None,
        };
        if matches!(event, Event::Resume { .. } | Event::Recover { .. }) {
            self.failures = 0;
        }
        self.state = state;
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Event = Event::Start { restores: false };

    fn failed(now_us: i64) -> Event {
        Event::Failed { how: Failure::Passing, now_us }
    }

    #[test]
    fn a_view_starts_fails_waits_longer_each_time_and_starts_again() {
        let mut m = Machine::new();
        assert_eq!(m.on(NEW), Some(Action::Start));
        let mut waits = Vec::new();
        for _ in 0..9 {
            let Some(Action::WaitUntil(until)) = m.on(failed(1_000)) else { panic!("{m:?}") };
            assert_eq!(m.state(), State::Backoff(until));
            waits.push((until - 1_000) / 1_000);
            assert_eq!(m.on(Event::Due { restores: true }), Some(Action::Start));
            assert_eq!(m.state(), State::Restoring);
        }
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(m.on(Event::Started { now_us: 5_000 }), Some(Action::Wait));
        // Once it has run a while an old failure is forgotten.
        let later = 5_000 + HEALTHY_US + 1;
        assert_eq!(m.on(failed(later)), Some(Action::WaitUntil(later + BACKOFF_FIRST_US)));
    }

    #[test]
    fn what_would_fail_again_waits_for_an_operator() {
        let mut m = Machine::new();
        m.on(NEW);
        m.on(Event::Started { now_us: 0 });
        assert_eq!(m.on(Event::Failed { how: Failure::Lasting, now_us: 1 }), Some(Action::Wait));
        assert_eq!(m.state(), State::Error);
        assert_eq!(m.on(Event::Due { restores: true }), None);
        assert_eq!(m.on(Event::Resume { restores: true }), None, "RESUME is for what was paused");
        assert_eq!(m.on(Event::Recover { restores: true }), Some(Action::Start));
        assert_eq!((m.state(), m.failures()), (State::Restoring, 0));
    }

    #[test]
    fn pausing_stops_a_query_with_a_checkpoint_and_a_late_failure_changes_nothing() {
        let mut m = Machine::new();
        m.on(NEW);
        m.on(Event::Started { now_us: 0 });
        assert_eq!(m.on(Event::Pause), Some(Action::Stop));
        assert_eq!(m.on(failed(1)), None);
        assert_eq!(m.on(Event::Pause), None);
        assert_eq!(m.on(Event::Resume { restores: true }), Some(Action::Start));
        assert_eq!(m.on(Event::Drop), Some(Action::Remove));
        assert_eq!(m.on(Event::Drop), None);
        assert_eq!(m.on(NEW), None);
    }

    /// Whatever comes in whatever order: only a view that is to run starts, and a dropped one does nothing.
    #[test]
    fn every_event_in_every_state() {
        let events = [
            NEW,
            Event::Started { now_us: 1 },
            failed(2),
            Event::Failed { how: Failure::Lasting, now_us: 3 },
            Event::Again,
            Event::Finished,
            Event::Due { restores: true },
            Event::Pause,
            Event::Resume { restores: true },
            Event::Recover { restores: false },
            Event::Drop,
        ];
        let mut seen: Vec<Machine> = vec![Machine::new()];
        let mut at = 0;
        while at < seen.len() && seen.len() < 2_000 {
            let machine = seen[at].clone();
            at += 1;
            for event in events {
                let mut next = machine.clone();
                match next.on(event) {
                    None => assert_eq!(next, machine, "{event:?} changes nothing where it cannot happen"),
                    Some(Action::Start) => {
                        let again = event == Event::Again;
                        assert!(machine.state().is_active() == again, "{machine:?} {event:?}");
                        assert!(next.state().is_active());
                    }
                    Some(Action::Stop) => {
                        assert!(machine.state().is_active() && !next.state().is_active());
                    }
                    Some(Action::Remove) => assert_eq!(next.state(), State::Dropped),
                    Some(Action::WaitUntil(us)) => assert_eq!(next.state(), State::Backoff(us)),
                    Some(Action::Wait) => {}
                }
                if !seen.contains(&next) {
                    seen.push(next);
                }
            }
        }
        assert!(seen.iter().any(|m| m.state() == State::Running));
    }
}
