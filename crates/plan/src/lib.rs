//! Floor 3, the waist: a streaming query as plain data, and the contracts around it.
//!
//! `sql` writes a [`StreamPlan`], `dataflow` runs it, neither knows the other. Sources and
//! sinks are made by `engine`. Expressions are DataFusion [`PhysicalExpr`]s, evaluated on
//! whole batches.
//!
//! Not here: behaviour. No operator, no task, no clock. (What a window means is arithmetic: [`window`],
//! [`session`].)

pub mod aggregate;
pub mod checkpoint;
pub mod element;
mod error;
pub mod external;
pub mod history;
pub mod runtime;
pub mod session;
pub mod stateful;
pub mod stream_plan;
pub mod window;

pub use aggregate::{AggregateKind, AggregateSpec, EmitPolicy, EmitSpec, LifeSpec, RowOrder, WindowKeys};
pub use checkpoint::{
    CheckpointFile, CheckpointRead, CheckpointStatus, CheckpointStore, Lasting, Position, RowsAt,
    SourcePosition,
};
pub use element::{Element, Epoch, LateRows, Rows, WatermarkTime};
pub use external::{
    Connector, ExternalRead, ExternalReader, ExternalRows, ExternalScan, ExternalSpec, ExternalStream,
    ExternalWrite, ExternalWriter, LogTopic, MESSAGE_HEADERS_COLUMN, MESSAGE_KEY_COLUMN,
    MESSAGE_PARTITION_COLUMN, Partition, SchemaText,
};
pub use history::{HistorySpec, ReplaySpec, SourceOrder};
pub use runtime::{
    Durable, QueryCounters, Running, Runtime, ShardProgress, Sink, Source, SourceFactory, StreamError,
};
pub use session::{Brackets, OpenSession, Place, SessionSpec};
pub use stateful::{
    DEDUP_KEYS_DEFAULT, DedupSpec, LAG_ROWS_MAX, OverFunction, OverKind, OverSpec, RankKind, RankSpec,
};
pub use stream_plan::{
    Judged, KEY_WATERMARK_COLUMN, KeyedChangelog, NodeId, PartitionSpec, Projection, ReplayOrder, Retracted,
    ScanColumns, SessionKeys, SortKey, SourceSpec, StartPosition, StateSpec, StreamNode, StreamPlan, Timeout,
    WATERMARK_COLUMN, WEIGHT_COLUMN, WatermarkSpec, WindowTime,
};
pub use window::{CalendarUnit, Span, WINDOWS_PER_ROW_MAX, WindowBound, WindowKind, WindowSpec};
