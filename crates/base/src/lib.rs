//! Floor 0: the words every other crate uses, and the handles to the world.
//!
//! Everything that decides is a pure state machine; everything that touches the world
//! goes through a handle made here: [`clock`], [`rng`], [`disk`]. One seed then replays
//! a failure exactly, and a test can hold the disk a crash left behind.
//!
//! Not here: rows, Arrow, SQL, async runtimes, sockets.

pub mod clock;
pub mod disk;
pub mod error;
pub mod id;
pub mod memory;
pub mod metrics;
pub mod rng;
pub mod thread;

pub use clock::{Clock, ManualClock, SystemClock};
pub use disk::{Disk, DiskFile};
pub use error::{Code, Error, ErrorKind, Result};
pub use id::{AppendTime, EventTime, SeqNo, ShardId};
pub use memory::{MemoryBudget, Reservation};
pub use rng::Rng;
