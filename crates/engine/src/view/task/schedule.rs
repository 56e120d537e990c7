//! When a task is due. Pure: told what time it is.

/// Times of a task: every so long from when it was created.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    created_us: i64,
    every_us: i64,
    /// The time of the last run that was whole.
    last_us: Option<i64>,
}

impl Schedule {
    pub fn new(created_us: i64, every_us: i64, last_us: Option<i64>) -> Self {
        Schedule { created_us, every_us: every_us.max(1), last_us }
    }

    /// The next time: one period behind the last, or the creation.
    pub fn next_us(&self) -> i64 {
        self.last_us.unwrap_or(self.created_us).saturating_add(self.every_us)
    }

    /// The time a run stands for that begins now: of those that have passed the last, so that what was
    /// missed is made up for once.
    pub fn due_us(&self, now_us: i64) -> i64 {
        let next = self.next_us();
        let passed = now_us.saturating_sub(next).max(0) / self.every_us;
        next.saturating_add(passed.saturating_mul(self.every_us))
    }

    pub fn done(&mut self, at_us: i64) {
        self.last_us = Some(at_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_the_creation_and_missed_ones_are_made_up_for_once() {
        let mut schedule = Schedule::new(7, 10, None);
        assert_eq!((schedule.next_us(), schedule.due_us(17)), (17, 17));
        assert_eq!(schedule.due_us(20), 17, "late, for the time that was due");
        schedule.done(17);
        assert_eq!(schedule.next_us(), 27);
        // The server was down over 27, 37 and 47.
        assert_eq!(schedule.due_us(53), 47);
        schedule.done(47);
        assert_eq!(schedule.next_us(), 57);
    }

    #[test]
    fn a_clock_that_goes_back_and_times_at_the_end_do_no_harm() {
        let schedule = Schedule::new(i64::MAX - 5, 10, None);
        assert_eq!(schedule.next_us(), i64::MAX);
        assert_eq!(schedule.due_us(0), i64::MAX);
        assert_eq!(Schedule::new(0, 10, Some(50)).due_us(3), 60);
    }
}
