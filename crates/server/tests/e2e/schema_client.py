"""A schema registry that is kept in memory, and confluent-kafka's own serializers on the other side of a topic.

serve USER:PASSWORD | -            prints its port, serves until it is killed
produce BROKER REGISTRY TOPIC avro SCHEMA | protobuf   (rows as JSON on stdin, a line each)
consume BROKER REGISTRY TOPIC avro | protobuf COUNT    (rows as JSON, a line each)
raw BROKER TOPIC                   (payloads as hex on stdin, a line each)
"""

import base64
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WHAT, *ARGS = sys.argv[1:]


def serve(credentials):
    schemas, subjects, lock = {}, {}, threading.Lock()

    class Registry(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def allowed(self):
            given = self.headers.get("authorization", "")
            if credentials == "-" or given == "Basic " + base64.b64encode(credentials.encode()).decode():
                return True
            self.answer(401, {"error_code": 401, "message": "Unauthorized"})
            return False

        def told(self, id):
            kind, text, references = schemas[id]
            out = {"schema": text, "id": id}
            if kind != "AVRO":
                out["schemaType"] = kind
            if references:
                out["references"] = references
            return out

        def do_GET(self):
            if not self.allowed():
                return
            parts = self.path.split("?")[0].strip("/").split("/")
            with lock:
                if parts[:2] == ["schemas", "ids"]:
                    id = int(parts[2])
                    if id not in schemas:
                        return self.answer(404, {"error_code": 40403, "message": "Schema not found"})
                    return self.answer(200, self.told(id))
                versions = subjects.get(parts[1])
                if parts[0] != "subjects" or not versions:
                    return self.answer(404, {"error_code": 40401, "message": f"Subject '{parts[1]}' not found."})
                version = len(versions) if parts[3] == "latest" else int(parts[3])
                told = self.told(versions[version - 1])
                self.answer(200, {"subject": parts[1], "version": version} | told)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
            if not self.allowed():
                return
            parts = self.path.split("?")[0].strip("/").split("/")
            schema = (body.get("schemaType", "AVRO"), body["schema"], body.get("references") or [])
            with lock:
                id = next((i for i, s in schemas.items() if s == schema), None)
                if id is None:
                    id = 100 + len(schemas)
                    schemas[id] = schema
                versions = subjects.setdefault(parts[1], [])
                if id not in versions:
                    versions.append(id)
                self.answer(200, {"id": id, "subject": parts[1], "version": versions.index(id) + 1} | self.told(id))

    server = ThreadingHTTPServer(("127.0.0.1", int(ARGS[1]) if len(ARGS) > 1 else 0), Registry)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def order():
    """message Order { int64 id = 1; string name = 2; repeated string tags = 3; }, second in its file."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="shop/orders.proto", package="shop", syntax="proto3")
    file.message_type.add(name="Other")
    message = file.message_type.add(name="Order")
    for number, (name, kind, label) in enumerate([("id", 3, 1), ("name", 9, 1), ("tags", 9, 3)], 1):
        message.field.add(name=name, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


def clients(registry):
    from confluent_kafka.schema_registry import SchemaRegistryClient

    return SchemaRegistryClient({"url": registry})


def produce(broker, registry, topic, language, schema=None):
    from confluent_kafka import Producer
    from confluent_kafka.schema_registry.avro import AvroSerializer
    from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    if language == "avro":
        serializer, make = AvroSerializer(clients(registry), schema), lambda row: row
    else:
        Order = order()
        serializer, make = ProtobufSerializer(Order, clients(registry)), lambda row: Order(**row)
    producer = Producer({"bootstrap.servers": broker})
    for line in sys.stdin.read().splitlines():
        value = serializer(make(json.loads(line)), SerializationContext(topic, MessageField.VALUE))
        producer.produce(topic, value, partition=0)
    producer.flush(30)


def consume(broker, registry, topic, language, count):
    from confluent_kafka import Consumer, TopicPartition
    from confluent_kafka.schema_registry.avro import AvroDeserializer
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
    from confluent_kafka.serialization import MessageField, SerializationContext
    from google.protobuf.json_format import MessageToDict

    if language == "avro":
        deserializer, told = AvroDeserializer(clients(registry)), lambda row: row
    else:
        deserializer = ProtobufDeserializer(order(), {}, clients(registry))
        told = lambda row: MessageToDict(row, preserving_proto_field_name=True)
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    for _ in range(int(count)):
        message = consumer.poll(20)
        if message is None or message.error():
            sys.exit(f"no message: {message and message.error()}")
        row = told(deserializer(message.value(), SerializationContext(topic, MessageField.VALUE)))
        print(json.dumps(row, default=str))


def raw(broker, topic):
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker})
    for line in sys.stdin.read().splitlines():
        producer.produce(topic, bytes.fromhex(line), partition=0)
    producer.flush(30)


{"serve": lambda: serve(ARGS[0]), "produce": lambda: produce(*ARGS), "consume": lambda: consume(*ARGS), "raw": lambda: raw(*ARGS)}[WHAT]()
