#!/usr/bin/env python3
"""(m) A topic of a Kafka-compatible broker (tansu, `.ci/test-servers`): read as it is beside a plain loop over librdkafka,
read as JSON, filtered into another topic, and from topic to topic one message at a time.

kafka.py [read | latency | log]; needs `cargo build --release -p weir-server -p weir-connect --bin weir --example plain_loop`, and the
test servers (`make test-servers`), whose Python runs it."""
import json
import os
import socket
import subprocess
import sys
import threading
import time

from common import HERE, WEIR, Weir, log, median, percentile, report

VENV = os.environ.get("BENCH_KAFKA_VENV", os.path.join(HERE, "..", ".venv"))
PLAIN = os.environ.get("BENCH_PLAIN_LOOP", os.path.join(os.path.dirname(WEIR), "examples", "plain_loop"))
MESSAGES = int(os.environ.get("BENCH_MESSAGES", 2_000_000))
PARTITIONS = 2
RUNS = 3


class Broker:
    def __enter__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{s.getsockname()[1]}"
        url = f"tcp://{self.address}"
        self.process = subprocess.Popen(
            [os.path.join(VENV, "bin", "tansu"), "broker", "--listener-url", url, "--advertised-listener-url", url,
             "--storage-engine", "memory://tansu/"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        host, port = self.address.split(":")
        while True:
            try:
                socket.create_connection((host, int(port))).close()
                return self
            except OSError:
                time.sleep(0.05)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def create(self, *topics):
        from confluent_kafka.admin import AdminClient, NewTopic
        admin = AdminClient({"bootstrap.servers": self.address})
        for done in admin.create_topics([NewTopic(t, PARTITIONS, 1) for t in topics]).values():
            done.result()

    def fill(self, topic, messages):
        """About 130 bytes each; every tenth has level 'error'."""
        from confluent_kafka import Producer
        producer = Producer({"bootstrap.servers": self.address, "linger.ms": 20, "queue.buffering.max.messages": 500_000})
        for i in range(messages):
            level = "error" if i % 10 == 0 else "info"
            payload = f'{{"id":{i},"level":"{level}","value":{i * 0.25},"host":"host-{i % 500}.example.com","text":"request {i} took {i % 977} ms"}}'
            while True:
                try:
                    producer.produce(topic, payload, partition=i % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.flush()

    def external(self, name, columns, topic, settings=""):
        return (f"CREATE EXTERNAL STREAM {name} ({columns}) SETTINGS type='kafka', brokers='{self.address}', "
                f"topic='{topic}'{settings}")


COLUMNS = "id int64, level string, value float64, host string, text string"


def plain(broker, topic, messages):
    began = time.perf_counter()
    child = subprocess.Popen([PLAIN, broker.address, topic, str(messages)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0, "plain_loop failed"
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


def counted(server, sql, rows):
    """Seconds and CPU seconds of a streaming query over a topic's history until it has given so many rows."""
    cpu, began = server.usage.cpu_s(), time.perf_counter()
    body = server.client(streaming=True).query(sql)
    took = time.perf_counter() - began
    assert int(body.split()[-1]) == rows, body
    return took, server.usage.cpu_s() - cpu


def read(broker):
    broker.create("events")
    log(f"{MESSAGES} messages into a topic of {PARTITIONS} partitions")
    broker.fill("events", MESSAGES)
    # The last batch of a partition is not counted by this broker's end offsets: a query reads until it has them all.
    with Weir() as server:
        client = server.client()
        client.query(broker.external("raw", "raw string", "events"))
        client.query(broker.external("events", COLUMNS, "events"))
        last = f"LIMIT {MESSAGES} SETTINGS seek_to='earliest'"
        queries = {
            "as it is (RawBLOB)": f"SELECT count() FROM (SELECT raw FROM raw {last.split(' SETTINGS')[0]}) SETTINGS seek_to='earliest' FORMAT TSV",
            "as JSON, 5 columns": f"SELECT count() FROM (SELECT id, level, value, host, text FROM events {last.split(' SETTINGS')[0]}) SETTINGS seek_to='earliest' FORMAT TSV",
            "as JSON, 1 column": f"SELECT count() FROM (SELECT id FROM events {last.split(' SETTINGS')[0]}) SETTINGS seek_to='earliest' FORMAT TSV",
        }
        rows = []
        loops, ours = [], {what: [] for what in queries}
        for _ in range(RUNS):
            loops.append(plain(broker, "events", MESSAGES))
            for what, sql in queries.items():
                ours[what].append(counted(server, sql, MESSAGES))
        base, cpu = median(t for t, _ in loops), median(c for _, c in loops)
        rows.append(["a plain loop over librdkafka", f"{MESSAGES / base / 1e3:,.0f}", f"{cpu:.1f}", "1.00"])
        for what, runs in ours.items():
            took, cpu = median(t for t, _ in runs), median(c for _, c in runs)
            rows.append([what, f"{MESSAGES / took / 1e3:,.0f}", f"{cpu:.1f}", f"{base / took:.2f}"])
        took = []
        for i in range(RUNS):
            broker.create(f"errors{i}")
            client.query(broker.external(f"errors{i}", COLUMNS, f"errors{i}", ", one_message_per_row=1"))
            began = time.perf_counter()
            client.query(f"CREATE MATERIALIZED VIEW copy{i} INTO errors{i} AS SELECT id, level, value, host, text FROM events "
                         "WHERE level = 'error' SETTINGS seek_to='earliest'")
            seen = server.client(streaming=True).query(
                f"SELECT count() FROM (SELECT id FROM errors{i} LIMIT {MESSAGES // 10}) SETTINGS seek_to='earliest' FORMAT TSV")
            assert int(seen.split()[-1]) == MESSAGES // 10, seen
            took.append(time.perf_counter() - began)
            client.query(f"DROP VIEW copy{i}")
        t = median(took)
        rows.append(["JSON, a tenth of it into another topic, and read back", f"{MESSAGES / t / 1e3:,.0f}", "", f"{base / t:.2f}"])
    report("kafka_read", "(m) A topic read", ["", "thousand messages/s", "CPU s", "of the plain loop"], rows,
           [f"{MESSAGES / 1e6:g} M messages of 130 bytes in {PARTITIONS} partitions, broker (tansu, in memory) on the same machine; "
            f"median of {RUNS}; reach: as it is ≥ 0.7 of the loop"])


def latency(broker):
    from confluent_kafka import Consumer, Producer, TopicPartition
    rows = []
    with Weir() as server:
        client = server.client()
        for rate in (1_000, 10_000):
            topic, out = f"in{rate}", f"out{rate}"
            broker.create(topic, out)
            client.query(broker.external(topic, "sent_ns int64, level string", topic))
            client.query(broker.external(out, "sent_ns int64", out, ", one_message_per_row=1"))
            client.query(f"CREATE MATERIALIZED VIEW v{rate} INTO {out} AS SELECT sent_ns FROM {topic} WHERE level = 'error'")
            for through, watched in (("the broker alone", topic), ("Weir", out)):
                took = []
                consumer = Consumer({"bootstrap.servers": broker.address, "group.id": f"{through}{rate}", "fetch.wait.max.ms": 5})
                consumer.assign([TopicPartition(watched, p, -1) for p in range(PARTITIONS)])
                stop = threading.Event()

                def watch():
                    while not stop.is_set():
                        message = consumer.poll(0.1)
                        if message is not None and not message.error():
                            now = time.time_ns()
                            row = json.loads(message.value())
                            if row.get("level", "error") == "error":
                                took.append((now - row["sent_ns"]) / 1e6)

                thread = threading.Thread(target=watch)
                thread.start()
                time.sleep(2)
                producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 1})
                began, sent, seconds = time.perf_counter(), 0, 10
                while sent < rate * seconds:
                    due = int((time.perf_counter() - began) * rate)
                    while sent < min(due, rate * seconds):
                        level = "error" if sent % 10 == 0 else "info"
                        producer.produce(topic, json.dumps({"sent_ns": time.time_ns(), "level": level}), partition=sent % PARTITIONS)
                        sent += 1
                    producer.poll(0.0005)
                producer.flush()
                time.sleep(1)
                stop.set()
                thread.join()
                consumer.close()
                rows.append([rate, through, len(took), f"{percentile(took, 50):.1f}", f"{percentile(took, 99):.1f}"])
    report("kafka_latency", "(m) From topic to topic, one message at a time",
           ["messages/s", "through", "seen", "p50 ms", "p99 ms"], rows,
           ["from the producer's clock to a consumer of the same process, a tenth of the messages, ten seconds; producer lingers 1 ms, "
            "Weir's 5 ms; broker (tansu, in memory), producer, consumer and Weir on the same two cores"])


def topic_log(broker):
    """A topic as a stream's log, beside a log of our own: taken in, asked, and what an INSERT and its result take."""
    broker.create("events")
    log(f"{MESSAGES} messages into a topic of {PARTITIONS} partitions")
    broker.fill("events", MESSAGES)
    kept = f"SETTINGS logstore='kafka', brokers='{broker.address}', topic='events'"
    rows, taken, cpus, peaks = [], [], [], []
    for i in range(RUNS):
        with Weir() as server:
            client = server.client()
            began = time.perf_counter()
            client.query(f"CREATE STREAM log ({COLUMNS}) {kept}")
            # The last batch is not counted by this broker's end offsets: one row more tells that all are there.
            client.query(f"INSERT INTO log (id) SELECT -1 FROM numbers({PARTITIONS * 2}) SETTINGS max_insert_block_size=1")
            assert int(client.query("SELECT count() FROM table(log) WHERE id >= 0")) >= MESSAGES * (i == 0)
            taken.append(time.perf_counter() - began)
            cpus.append(server.usage.cpu_s())
            peaks.append(server.usage.memory_mb()[0])
            client.query("SYSTEM FLUSH STREAM log")
            asked = []
            for _ in range(20):
                began = time.perf_counter()
                client.query("SELECT count() FROM table(log) WHERE id < 0")
                asked.append((time.perf_counter() - began) * 1e3)
    rows.append(["a topic that is there, to the first answer over all of it: thousand rows/s", f"{MESSAGES / median(taken) / 1e3:,.0f}"])
    rows.append(["CPU s of that", f"{median(cpus):.1f}"])
    rows.append(["resident MB after it", f"{median(peaks):,.0f}"])
    rows.append(["a small bounded query over parts, p50 ms", f"{percentile(asked, 50):.1f}"])
    with Weir() as server:
        client = server.client()
        for name, settings in (("own", ""), ("topic", f"SETTINGS logstore='kafka', brokers='{broker.address}', topic='fresh', properties='fetch.wait.max.ms=5'")):
            client.query(f"CREATE STREAM {name} (sent_ns int64) {settings}")
            sent, seen, acked = 0, [], []
            follower = server.client(streaming=True).follow(f"SELECT sent_ns FROM {name} FORMAT TSV")
            stop = threading.Event()

            def watch():
                for line in follower:
                    seen.append((time.time_ns() - int(line)) / 1e6)
                    if stop.is_set() and len(seen) == sent:
                        return

            thread = threading.Thread(target=watch, daemon=True)
            thread.start()
            time.sleep(0.5)
            began = time.perf_counter()
            while (wait := began + sent / 100 - time.perf_counter()) < 10 and sent < 1_000:
                time.sleep(max(0, wait))
                at = time.time_ns()
                client.query(f"INSERT INTO {name} VALUES ({at})")
                acked.append((time.time_ns() - at) / 1e6)
                sent += 1
            stop.set()
            thread.join(5)
            rows.append([f"an INSERT of a row into a log of {'our own' if name == 'own' else 'a topic'}, p50 / p99 ms",
                         f"{percentile(acked, 50):.1f} / {percentile(acked, 99):.1f}"])
            rows.append(["... to the result of a streaming query", f"{percentile(seen, 50):.1f} / {percentile(seen, 99):.1f}"])
    report("kafka_log", "(p) A topic as a stream's log", ["", ""], rows,
           [f"{MESSAGES / 1e6:g} M messages of 130 bytes of JSON in {PARTITIONS} partitions, median of {RUNS}; INSERTs of one row, 100 a second, "
            "ten seconds; broker (tansu, in memory) on the same machine, which tells of new messages only when a fetch has waited "
            "(fetch.wait.max.ms=5 there)"])


def main():
    which = sys.argv[1:] or ["read", "latency", "log"]
    with Broker() as broker:
        if "read" in which:
            read(broker)
    with Broker() as broker:
        if "latency" in which:
            latency(broker)
    with Broker() as broker:
        if "log" in which:
            topic_log(broker)


main()
