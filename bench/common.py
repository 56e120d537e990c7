"""Shared by the tables: the server under test, its clients, CPU and memory of a process, and how a
table is printed and kept."""
import http.client
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
WORK = os.environ.get("BENCH_WORK", os.path.join(HERE, ".work"))
WEIR = os.environ.get("BENCH_WEIR", os.path.join(HERE, "..", "target", "release", "weir"))
DATA = os.path.join(WORK, "data")


def python_of(peer):
    return os.path.join(WORK, "venvs", peer, "bin", "python")


def log(*what):
    print(*what, file=sys.stderr, flush=True)


class Usage:
    """CPU seconds (user and system) and memory of a process, from /proc."""

    def __init__(self, pid):
        self.pid = pid

    def cpu_s(self):
        with open(f"/proc/{self.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self):
        """(resident, of it anonymous), MB of 10^6 bytes."""
        rss = anon = 0
        with open(f"/proc/{self.pid}/status") as f:
            for line in f:
                if line.startswith("VmRSS:"):
                    rss = int(line.split()[1])
                elif line.startswith(("RssAnon:", "RssShmem:")):
                    anon += int(line.split()[1])
        return rss * 1024 / 1e6, anon * 1024 / 1e6


class Peak:
    """The greatest memory of a process while the block runs, sampled 20 times a second."""

    def __init__(self, pid):
        self.usage, self.rss_mb, self.anon_mb = Usage(pid), 0.0, 0.0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.sample)

    def sample(self):
        while True:
            try:
                rss, anon = self.usage.memory_mb()
            except OSError:
                return
            self.rss_mb, self.anon_mb = max(self.rss_mb, rss), max(self.anon_mb, anon)
            if self.stop.wait(0.05):
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


class Weir:
    """A server on a directory of its own; gone with the block."""

    def __init__(self, *options, data_dir=None):
        self.own = data_dir is None
        self.dir = data_dir or tempfile.mkdtemp(prefix="weir-", dir=WORK)
        self.options = options
        self.process = None

    def start(self):
        """Seconds until the line that says it is ready."""
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [WEIR, "server", "--data-dir", self.dir, "--http-port", "0", "--http-streaming-port", "0", *self.options],
            stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
        line = self.process.stdout.readline()
        took = time.perf_counter() - began
        ports = [int(word.split(":")[-1].strip("/")) for word in line.replace(",", " ").split() if "127.0.0.1:" in word]
        assert len(ports) == 2, f"not the line of a ready server: {line!r}"
        self.port, self.streaming_port = ports
        self.usage = Usage(self.process.pid)
        return took

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        if self.own:
            shutil.rmtree(self.dir, ignore_errors=True)

    def client(self, streaming=False):
        return Client(self.streaming_port if streaming else self.port)


class Client:
    """One connection, kept."""

    def __init__(self, port):
        self.http = http.client.HTTPConnection("127.0.0.1", port)
        self.http.connect()

    def send(self, query, body=b"", **settings):
        url = "/?" + urllib.parse.urlencode({"query": query, **settings})
        self.http.request("POST", url, body=body)
        answer = self.http.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{query[:200]}: {text.decode(errors='replace')}")
        return text

    def query(self, query, **settings):
        return self.send(query, **settings).decode().strip()

    def follow(self, query, **settings):
        """The lines of a query that never ends."""
        url = "/?" + urllib.parse.urlencode({"query": query, **settings})
        self.http.request("POST", url, body=b"")
        answer = self.http.getresponse()
        if answer.status != 200:
            raise RuntimeError(answer.read().decode(errors="replace"))
        return answer


def drop_page_cache():
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("3")
    except OSError:
        log("the page cache can not be dropped here: cold figures are warm")


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p / 100))]


def directory_bytes(path):
    return sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(path) for f in files)


def median(values):
    return statistics.median(values)


def machine():
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "unknown CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GB, Linux {platform.release()}"


def report(name, title, columns, rows, notes=()):
    """Prints a Markdown table and keeps it as .work/results/<name>.md and .json."""
    lines = [f"### {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(v) for v in row) + " |" for row in rows]
    lines += ["", *[f"- {n}" for n in notes], f"- {machine()}; {time.strftime('%Y-%m-%d')}", ""]
    text = "\n".join(lines)
    print(text)
    results = os.path.join(WORK, "results")
    os.makedirs(results, exist_ok=True)
    with open(os.path.join(results, name + ".md"), "w") as f:
        f.write(text)
    with open(os.path.join(results, name + ".json"), "w") as f:
        json.dump({"columns": columns, "rows": rows}, f)
