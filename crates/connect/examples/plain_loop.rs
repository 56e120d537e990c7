//! What librdkafka gives by itself: reads so many messages of a topic one by one and adds their lengths
//! (`bench/kafka.py` times it beside Weir). Arguments: brokers, topic, messages.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(brokers), Some(topic), Some(messages)) = (args.next(), args.next(), args.next()) else {
        return Err("arguments: brokers, topic, messages".into());
    };
    let messages: u64 = messages.parse()?;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "plain")
        .set("enable.auto.commit", "false")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(10))?;
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
        all.add_partition_offset(&topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let (mut read, mut bytes) = (0, 0);
    while read < messages {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            bytes += message?.payload().map_or(0, <[u8]>::len);
            read += 1;
        }
    }
    println!("{read} messages, {bytes} bytes");
    Ok(())
}
