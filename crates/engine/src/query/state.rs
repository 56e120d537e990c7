//! The life cycle of one query, as a pure machine.

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Everything was given.
    Finished,
    /// Its client left, or an operator killed it.
    Cancelled,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Known, nothing opened.
    Planned,
    /// Opening sources.
    Starting,
    /// Reading a checkpoint.
    Restoring,
    Running,
    /// Letting go of what it holds; how it will have ended is decided.
    Stopping(Finish),
    Ended(Finish),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Start,
    /// Sources are open and there is a checkpoint to restore.
    Restore,
    /// Sources are open and state is as it should be.
    Run,
    /// Nothing more will come.
    Drained,
    Cancel,
    Fail,
    /// Nothing is held any more.
    Released,
}

impl State {
    /// The next state; `None` = the event makes no sense here, which is a bug in the driver.
    /// A cancel or failure that comes late changes nothing.
    #[must_use]
    pub fn on(self, event: Event) -> Option<State> {
        use {Event as E, Finish as F, State as S};
        Some(match (self, event) {
            (S::Planned, E::Start) => S::Starting,
            (S::Starting, E::Restore) => S::Restoring,
            (S::Starting | S::Restoring, E::Run) => S::Running,
            (S::Running, E::Drained) => S::Stopping(F::Finished),

            // Nothing is held yet.
            (S::Planned, E::Cancel) => S::Ended(F::Cancelled),
            (S::Planned, E::Fail) => S::Ended(F::Failed),
            (S::Starting | S::Restoring | S::Running, E::Cancel) => S::Stopping(F::Cancelled),
            (S::Starting | S::Restoring | S::Running, E::Fail) => S::Stopping(F::Failed),
            // A failure while stopping is what the client should hear, unless it left.
            (S::Stopping(F::Finished), E::Fail) => S::Stopping(F::Failed),
            (S::Stopping(f), E::Fail | E::Cancel) => S::Stopping(f),
            (S::Stopping(f), E::Released) => S::Ended(f),
            (S::Ended(f), E::Cancel | E::Fail | E::Released) => S::Ended(f),

            (S::Planned, E::Restore | E::Run | E::Drained | E::Released) => return None,
            (S::Starting, E::Start | E::Drained | E::Released) => return None,
            (S::Restoring, E::Start | E::Restore | E::Drained | E::Released) => return None,
            (S::Running, E::Start | E::Restore | E::Run | E::Released) => return None,
            (S::Stopping(_) | S::Ended(_), E::Start | E::Restore | E::Run | E::Drained) => return None,
        })
    }

    /// As `system.queries` shows it.
    pub fn name(self) -> &'static str {
        match self {
            State::Planned => "Planned",
            State::Starting => "Starting",
            State::Restoring => "Restoring",
            State::Running => "Running",
            State::Stopping(_) => "Stopping",
            State::Ended(Finish::Finished) => "Finished",
            State::Ended(Finish::Cancelled) => "Cancelled",
            State::Ended(Finish::Failed) => "Failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        use Event::*;
        // (name, events, state at the end)
        let cases: &[(&str, &[Event], Option<&str>)] = &[
            ("runs to its end", &[Start, Run, Drained, Released], Some("Finished")),
            ("restores first", &[Start, Restore, Run], Some("Running")),
            ("cancelled before it starts", &[Cancel], Some("Cancelled")),
            ("fails to plan", &[Fail], Some("Failed")),
            ("cancelled while opening", &[Start, Cancel, Released], Some("Cancelled")),
            ("fails while restoring", &[Start, Restore, Fail, Released], Some("Failed")),
            ("fails while running", &[Start, Run, Fail], Some("Stopping")),
            ("the first reason stays", &[Start, Run, Fail, Cancel, Released], Some("Failed")),
            (
                "cancelled, then fails while letting go",
                &[Start, Run, Cancel, Fail, Released],
                Some("Cancelled"),
            ),
            ("fails after the last row", &[Start, Run, Drained, Fail, Released], Some("Failed")),
            ("cancelled after the last row", &[Start, Run, Drained, Cancel, Released], Some("Finished")),
            ("a late cancel", &[Start, Run, Drained, Released, Cancel], Some("Finished")),
            ("runs before it starts", &[Run], None),
            ("starts twice", &[Start, Start], None),
            ("restarts after its end", &[Start, Run, Drained, Released, Start], None),
        ];
        for (name, events, expected) in cases {
            let end = events.iter().try_fold(State::Planned, |s, e| s.on(*e));
            assert_eq!(end.map(State::name), *expected, "{name}");
        }
    }
}
