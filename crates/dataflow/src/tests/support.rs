//! Sources that follow a script, sinks that keep what they get.

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use weir_base::SeqNo;
use weir_plan::{
    Element, HistorySpec, NodeId, Rows, Sink, Source, SourceFactory, SourceSpec, StartPosition, StreamError,
    StreamNode,
};

/// (source, a, b)
pub type Row = (i64, i64, Option<i64>);

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("src", DataType::Int64, false),
        Field::new("a", DataType::Int64, false),
        Field::new("b", DataType::Int64, true),
    ]))
}

pub fn batch(rows: &[Row]) -> RecordBatch {
    RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| r.2).collect::<Int64Array>()),
        ],
    )
    .unwrap()
}

pub fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    let c = |i: usize| batch.column(i).as_primitive::<Int64Type>().clone();
    let (s, a, b) = (c(0), c(1), c(2));
    (0..batch.num_rows()).map(|i| (s.value(i), a.value(i), b.iter().nth(i).unwrap())).collect()
}

pub fn source_node(id: u32) -> StreamNode {
    StreamNode::Source {
        id: NodeId(id),
        spec: SourceSpec {
            database: "default".into(),
            relation: format!("s{id}"),
            columns: schema().fields().iter().map(|f| f.name().clone()).collect(),
            schema: schema(),
            start: StartPosition::Latest,
            prune: None,
            watermark: None,
            history: HistorySpec::default(),
            log_order: false,
        },
    }
}

/// What a scripted source does when asked.
#[derive(Debug, Clone)]
pub enum Step {
    Give(Element),
    /// Says "not now" once to `try_next`, or yields once in `next`.
    NotYet,
    Fail(StreamError),
    Panic,
}

pub fn give(rows: &[Row]) -> Step {
    Step::Give(Element::Rows(Rows::append(batch(rows))))
}

/// Elements in the order sources gave them.
pub type Given = Arc<Mutex<Vec<(NodeId, Element)>>>;

pub struct Scripted {
    pub id: NodeId,
    pub steps: VecDeque<Step>,
    pub given: Given,
    pub dropped: Arc<AtomicBool>,
}

impl Scripted {
    fn give(&mut self, element: Element) -> Element {
        self.given.lock().push((self.id, element.clone()));
        element
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Source for Scripted {
    async fn next(&mut self) -> Result<Element, StreamError> {
        loop {
            match self.steps.pop_front() {
                Some(Step::Give(e)) => return Ok(self.give(e)),
                Some(Step::NotYet) => tokio::task::yield_now().await,
                Some(Step::Fail(e)) => return Err(e),
                Some(Step::Panic) => panic!("scripted"),
                // A tail without new rows.
                None => std::future::pending().await,
            }
        }
    }
    fn try_next(&mut self) -> Result<Option<Element>, StreamError> {
        match self.steps.pop_front() {
            Some(Step::Give(e)) => Ok(Some(self.give(e))),
            Some(Step::Fail(e)) => Err(e),
            Some(Step::Panic) => panic!("scripted"),
            Some(Step::NotYet) | None => Ok(None),
        }
    }
    fn position(&self) -> Vec<SeqNo> {
        Vec::new()
    }
}

/// Opens scripts by node.
#[derive(Default)]
pub struct Scripts {
    pub scripts: Mutex<HashMap<NodeId, Vec<Step>>>,
    pub given: Given,
    pub dropped: Mutex<HashMap<NodeId, Arc<AtomicBool>>>,
}

impl Scripts {
    pub fn of(scripts: impl IntoIterator<Item = (u32, Vec<Step>)>) -> Arc<Self> {
        let scripts = scripts.into_iter().map(|(id, s)| (NodeId(id), s)).collect();
        Arc::new(Scripts { scripts: Mutex::new(scripts), ..Default::default() })
    }
    pub fn open_one(&self, id: NodeId) -> Box<dyn Source> {
        let steps = self.scripts.lock().remove(&id).unwrap_or_default().into();
        let dropped = Arc::new(AtomicBool::new(false));
        self.dropped.lock().insert(id, dropped.clone());
        Box::new(Scripted { id, steps, given: self.given.clone(), dropped })
    }
}

#[async_trait::async_trait]
impl SourceFactory for Scripts {
    async fn open(&self, id: NodeId, _: &SourceSpec) -> Result<Box<dyn Source>, StreamError> {
        Ok(self.open_one(id))
    }
}

/// Hands elements to the test through a channel of one.
pub struct ChannelSink(pub tokio::sync::mpsc::Sender<Element>);

#[async_trait::async_trait]
impl Sink for ChannelSink {
    async fn send(&mut self, element: Element) -> Result<(), StreamError> {
        self.0.send(element).await.map_err(|_| StreamError {
            code: weir_base::Code::QueryWasCancelled,
            message: "the reader is gone".into(),
        })
    }
}

/// Keeps everything.
#[derive(Default, Clone)]
pub struct Kept(pub Arc<Mutex<Vec<Element>>>);

impl Kept {
    pub fn rows(&self) -> Vec<Row> {
        let all = self.0.lock();
        all.iter()
            .flat_map(|e| match e {
                Element::Rows(r) => rows_of(&r.batch),
                _ => Vec::new(),
            })
            .collect()
    }
}

#[async_trait::async_trait]
impl Sink for Kept {
    async fn send(&mut self, element: Element) -> Result<(), StreamError> {
        self.0.lock().push(element);
        Ok(())
    }
}
