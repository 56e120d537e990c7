//! Against librdkafka's own cluster of mocks: what is asked of a coordinator, and errors it gives back. (A real
//! broker: `crates/server/tests/e2e/kafka.rs`.)

use super::KafkaConnector;
use crate::remote::RemoteHosts;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::{Code, SeqNo, SystemClock};
use weir_plan::{
    Connector, ExternalRead, ExternalScan, ExternalSpec, ExternalStream, ExternalWrite, ExternalWriter,
    Position, SourcePosition, StreamError,
};

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn stream(cluster: &Cluster, settings: &[(&str, &str)]) -> Arc<dyn ExternalStream> {
    let brokers = cluster.bootstrap_servers();
    let base = [("type", "kafka"), ("brokers", &brokers), ("topic", "t")];
    let all = base.iter().chain(settings).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let spec = ExternalSpec {
        name: "default.t".into(),
        settings: all.collect(),
        schemas: BTreeMap::new(),
        payload: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)])),
        around: Arc::new(Schema::new(vec![Field::new("_tp_time", time, false)])),
    };
    KafkaConnector::new(Arc::new(SystemClock::new()), RemoteHosts::default()).open(spec).unwrap()
}

fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    cluster
}

fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let n = ids.end - ids.start;
    let times = TimestampMillisecondArray::from_iter_values((0..n).map(|i| 1_700_000_000_000 + i));
    RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef),
        ("_tp_time", Arc::new(times.with_timezone("UTC")) as ArrayRef),
    ])
    .unwrap()
}

fn at(next: u64) -> Position {
    let source =
        SourcePosition { next: vec![SeqNo(next), SeqNo(7)], frontier_us: i64::MIN, backfilled: true };
    Position { sources: vec![source], ticked: false }
}

async fn writer(
    stream: &Arc<dyn ExternalStream>,
    name: &str,
) -> Result<(Box<dyn ExternalWriter>, Option<Position>), StreamError> {
    let mut writer = stream.write(ExternalWrite::Transactional(name.into())).await?;
    let reached = writer.reached().await?;
    Ok((writer, reached))
}

/// The mocks take part in transactions and keep nothing of them.
#[tokio::test]
async fn rows_and_positions_are_committed_and_one_of_the_same_name_goes_on() {
    let cluster = cluster();
    let stream = stream(&cluster, &[("delivery", "exactly_once")]);
    assert!(stream.is_transactional());
    let (mut first, reached) = writer(&stream, "weir-a").await.unwrap();
    assert_eq!(reached, None);
    for (ids, next) in [(0..10, 10), (10..15, 15)] {
        first.write(&rows(ids)).await.unwrap();
        first.flush(Some(&at(next))).await.unwrap();
    }
    first.write(&rows(15..20)).await.unwrap();
    drop(first);
    let (mut second, _) = writer(&stream, "weir-a").await.unwrap();
    second.write(&rows(15..30)).await.unwrap();
    second.flush(Some(&at(30))).await.unwrap();
}

#[tokio::test]
async fn the_position_that_lies_with_a_group_is_where_to_go_on() {
    let cluster = cluster();
    let stream = stream(&cluster, &[("delivery", "exactly_once")]);
    let commit = |group: &'static str, text: String| {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", group);
        let consumer: BaseConsumer = config.create().unwrap();
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset("t", 0, Offset::Offset(0)).unwrap();
        offsets.find_partition("t", 0).unwrap().set_metadata(text);
        consumer.commit(&offsets, CommitMode::Sync).unwrap();
    };
    commit("weir-a", STANDARD.encode(at(30).encode()));
    commit("weir-b", "somebody else's".into());
    assert_eq!(writer(&stream, "weir-a").await.unwrap().1, Some(at(30)));
    let e = writer(&stream, "weir-b").await.err().unwrap();
    assert_eq!(e.code, Code::CorruptedData, "{}", e.message);
    assert_eq!(writer(&stream, "weir-c").await.unwrap().1, None);
}

#[tokio::test]
async fn a_coordinator_that_moves_is_asked_again_and_one_that_refuses_ends_it() {
    use RDKafkaRespErr as E;
    let cluster = cluster();
    let stream = stream(&cluster, &[("delivery", "exactly_once")]);
    let (mut writer, _) = writer(&stream, "weir-a").await.unwrap();
    let moves = [E::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, E::RD_KAFKA_RESP_ERR_NOT_COORDINATOR];
    for key in [
        RDKafkaApiKey::AddPartitionsToTxn,
        RDKafkaApiKey::AddOffsetsToTxn,
        RDKafkaApiKey::TxnOffsetCommit,
        RDKafkaApiKey::EndTxn,
    ] {
        cluster.request_errors(key, &moves);
    }
    writer.write(&rows(0..10)).await.unwrap();
    writer.flush(Some(&at(10))).await.unwrap();

    writer.write(&rows(10..20)).await.unwrap();
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[E::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    let e = writer.flush(Some(&at(20))).await.unwrap_err();
    assert!(e.message.contains("could not commit"), "{}", e.message);
}

#[tokio::test]
async fn a_message_that_is_refused_ends_an_insert() {
    let cluster = cluster();
    let stream = stream(&cluster, &[]);
    let mut plain = stream.write(ExternalWrite::Plain).await.unwrap();
    plain.write(&rows(0..5)).await.unwrap();
    plain.flush(None).await.unwrap();
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::Produce, &[refused; 5]);
    plain.write(&rows(5..6)).await.unwrap();
    let e = plain.flush(None).await.unwrap_err();
    assert_eq!(e.code, Code::AccessDenied, "{}", e.message);
}

async fn ids(
    stream: &Arc<dyn ExternalStream>,
    from: &[(i32, u64)],
    n: usize,
) -> Result<(Vec<i64>, Vec<String>), StreamError> {
    let from = from.iter().map(|(p, at)| (*p, SeqNo(*at))).collect();
    let mut reader = stream.read(ExternalScan { from, ..ExternalScan::default() }).await?;
    let (mut ids, mut notices) = (Vec::new(), Vec::new());
    while ids.len() < n {
        match reader.next().await? {
            ExternalRead::Rows(rows) => {
                let column = rows.batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
                ids.extend(column.values());
            }
            ExternalRead::Notice(what) => notices.push(what),
            ExternalRead::PassedOver { error, .. } | ExternalRead::BadMessage { error, .. } => {
                return Err(error);
            }
            ExternalRead::CaughtUp { .. } | ExternalRead::Appeared(_) => {}
        }
    }
    ids.sort_unstable();
    Ok((ids, notices))
}

#[tokio::test]
async fn offsets_that_are_gone_are_an_error_or_passed_over_as_told() {
    let cluster = cluster();
    let plain = stream(&cluster, &[("one_message_per_row", "1")]);
    let mut writer = plain.write(ExternalWrite::Plain).await.unwrap();
    writer.write(&rows(0..20)).await.unwrap();
    writer.flush(None).await.unwrap();
    let parts = plain.partitions().await.unwrap();
    assert_eq!(parts.iter().map(|p| p.end.0 - p.first.0).sum::<u64>(), 20);
    let all = ids(&plain, &[(0, 0), (1, 0)], 20).await.unwrap();
    assert_eq!(all.0, (0..20).collect::<Vec<_>>());

    let gone = [(0, 5_000), (1, 5_000)];
    let e = ids(&plain, &gone, 20).await.unwrap_err();
    assert_eq!(e.code, Code::SequenceOutOfRange);
    assert!(e.message.contains("auto.offset.reset"), "{}", e.message);
    let resets = stream(&cluster, &[("properties", "auto.offset.reset=earliest")]);
    let (found, notices) = ids(&resets, &gone, 20).await.unwrap();
    assert_eq!(found, (0..20).collect::<Vec<_>>());
    assert!(notices.iter().any(|n| n.contains("passed over")), "{notices:?}");
}
