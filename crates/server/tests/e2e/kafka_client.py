"""The other side of a topic: confluent-kafka, which shares nothing with Weir's code.

create TOPIC PARTITIONS | produce TOPIC (lines on stdin: partition TAB key TAB payload; \\N = none)
consume TOPIC COUNT SECONDS (lines: partition TAB key TAB payload TAB headers as JSON)
partitions TOPIC COUNT
"""

import json
import sys

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

BROKER, WHAT, TOPIC, *REST = sys.argv[1:]


def text(value):
    return None if value == "\\N" else value


def produce():
    producer = Producer({"bootstrap.servers": BROKER, "message.max.bytes": 20_000_000, "linger.ms": 1})
    failed = []
    for line in sys.stdin.read().splitlines():
        partition, key, payload = line.split("\t", 2)
        while True:
            try:
                producer.produce(
                    TOPIC,
                    text(payload),
                    key=text(key),
                    partition=int(partition),
                    headers={"from": "test"},
                    on_delivery=lambda e, m: failed.append(e) if e else None,
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    left = producer.flush(30)
    if failed or left:
        sys.exit(f"{left} messages were not taken: {failed[:1]}")


def consume(count, seconds):
    consumer = Consumer(
        {
            "bootstrap.servers": BROKER,
            "group.id": "reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.message.max.bytes": 20_000_000,
        }
    )
    partitions = consumer.list_topics(TOPIC, 10).topics[TOPIC].partitions
    consumer.assign([TopicPartition(TOPIC, p, 0) for p in partitions])
    got, silent = 0, 0
    while got < count and silent < seconds * 10:
        message = consumer.poll(0.1)
        if message is None:
            silent += 1
            continue
        if message.error():
            sys.exit(str(message.error()))
        got, silent = got + 1, 0
        key, payload = message.key(), message.value()
        headers = {k: v.decode() for k, v in message.headers() or []}
        line = [
            str(message.partition()),
            "\\N" if key is None else key.decode(),
            "\\N" if payload is None else payload.decode(),
            json.dumps(headers),
        ]
        print("\t".join(line))
    consumer.close()


def main():
    admin = AdminClient({"bootstrap.servers": BROKER})
    if WHAT == "create":
        for done in admin.create_topics([NewTopic(TOPIC, int(REST[0]), 1)]).values():
            done.result()
    elif WHAT == "partitions":
        for done in admin.create_partitions([NewPartitions(TOPIC, int(REST[0]))]).values():
            done.result()
    elif WHAT == "produce":
        produce()
    else:
        consume(int(REST[0]), int(REST[1]))


main()
