//! Threads for work that nobody waits for.

use std::io;
use std::thread::JoinHandle;

/// Less of a core than the default of 0, more than nothing: about a third where both want all of it.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// Starts a thread that gives way to the others: commits and merges delay no answer.
///
/// # Errors
/// The system has no room for another thread.
pub fn spawn_yielding<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(move || {
        // Of this thread alone: Linux counts threads here where POSIX says processes. Elsewhere it
        // would slow the whole process down. Refused, the thread has the usual priority.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, NICENESS);
        work()
    })
}
