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
# Of each generated table; a million and a directory of its own (BENCH_WORK) try the scripts out.
ROWS = int(os.environ.get("BENCH_ROWS", 50_000_000))
# A peer that takes longer is reported as such, not waited for.
RUN_SECONDS_MAX = 600


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


def children(pid):
    out = [pid]
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{p}/stat") as f:
                if int(f.read().rsplit(")", 1)[1].split()[1]) == pid:
                    out += children(int(p))
        except OSError:
            pass
    return out


class Tree(Usage):
    """The memory of a process and what it started."""

    def memory_mb(self):
        sums = [0.0, 0.0]
        for pid in children(self.pid):
            try:
                for i, mb in enumerate(Usage(pid).memory_mb()):
                    sums[i] += mb
            except OSError:
                pass
        return sums


class Peak:
    """The greatest memory of a process while the block runs, sampled 20 times a second."""

    def __init__(self, usage):
        self.usage, self.rss_mb, self.anon_mb = usage, 0.0, 0.0
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

    def client(self, streaming=False, seconds_max=None):
        return Client(self.streaming_port if streaming else self.port, seconds_max)

    def load(self, table, path, *casts):
        """Appends the rows of a Parquet file of DATA; casts: name=type."""
        subprocess.run([python_of("gen"), os.path.join(HERE, "load.py"), str(self.port), table, path, *casts], check=True)


class Client:
    """One connection, kept."""

    def __init__(self, port, seconds_max=None):
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds_max)
        self.http.connect()
        self.used = time.monotonic()

    def send(self, query, body=b"", **settings):
        url = "/?" + urllib.parse.urlencode({"query": query, **settings})
        if time.monotonic() - self.used > 10:
            # The server closes connections that nobody uses.
            self.http.close(), self.http.connect()
        self.http.request("POST", url, body=body)
        answer = self.http.getresponse()
        text = answer.read()
        self.used = time.monotonic()
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


class Streaming:
    """A streaming query over all of history, into FORMAT Null, whose progress is asked for on another connection. Begins with
    the block and ends with it."""

    def __init__(self, server, query, settings=""):
        self.server, self.ended = server, []
        self.query = f"{query} SETTINGS seek_to = 'earliest'{settings and ', ' + settings} FORMAT Null"

    def run(self, follower):
        try:
            follower.send(self.query, query_id="w")
        except http.client.IncompleteRead as e:
            # A query that fails midway is cut after its error.
            self.ended.append(e.partial.decode(errors="replace").strip())
        except Exception as e:
            self.ended.append(e)

    def __enter__(self):
        self.steer = self.server.client(seconds_max=RUN_SECONDS_MAX)
        self.thread = threading.Thread(target=self.run, args=(self.server.client(streaming=True),), daemon=True)
        self.thread.start()
        running = "SELECT count() FROM system.queries WHERE query_id = 'w' AND state = 'Running'"
        while self.steer.query(running) == "0" and not self.ended:
            time.sleep(0.001)
        return self

    def __exit__(self, *_):
        # Where the server hangs or is gone, killing it ends the query.
        try:
            self.steer.send("KILL QUERY WHERE query_id = 'w' SYNC")
        except (RuntimeError, OSError, http.client.HTTPException):
            pass

    def sync(self):
        """Returns once all that is durable has been worked through and what it emits has been taken by the client: rows out, keys and
        bytes of state, as the server says."""
        counts = []
        try:
            self.steer.send("SYSTEM SYNC QUERY 'w'")
            counts = self.steer.query("SELECT rows_out, keys, state_bytes FROM system.queries WHERE query_id = 'w' AND state = 'Running'").split()
        except (RuntimeError, OSError) as e:
            self.ended.append(e)
        if not counts:
            self.thread.join(5)
            raise RuntimeError(str(self.ended[0] if self.ended else "the query has gone"))
        return dict(zip(("rows_out", "keys", "state_bytes"), map(int, counts)))


def stream(data_dir, query, settings="", options=()):
    """Figures of a streaming query over all of history in a server of its own."""
    with Weir(*options, data_dir=data_dir) as server:
        cpu = server.usage.cpu_s()
        with Peak(server.usage) as peak:
            began = time.perf_counter()
            with Streaming(server, query, settings) as running:
                figures = running.sync()
                figures |= {"seconds": time.perf_counter() - began, "cpu_s": server.usage.cpu_s() - cpu}
        return {**figures, "rss_mb": peak.rss_mb, "anon_mb": peak.anon_mb}


def peer(who, script, *arguments):
    """Figures of a script of peers/, whose last line is JSON with its seconds."""
    command = [python_of(who), os.path.join(HERE, "peers", script), *arguments]
    what = f"{who} {arguments[-1]}"
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        late = threading.Timer(RUN_SECONDS_MAX, os.killpg, (child.pid, signal.SIGKILL))
        late.start()
        with Peak(Tree(child.pid)) as peak:
            out = child.stdout.read()
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if not late.is_alive():
            raise RuntimeError(f"{what}: > {RUN_SECONDS_MAX} s")
        late.cancel()
        if child.returncode != 0:
            errors.seek(0)
            raise RuntimeError(f"{what} ended with {child.returncode}: {(errors.read().strip().splitlines() or [''])[-1]}")
    figures = json.loads(out.strip().splitlines()[-1])
    return {"seconds": figures["seconds"], "cpu_s": used.ru_utime + used.ru_stime, "rss_mb": peak.rss_mb,
            "anon_mb": peak.anon_mb}


def medians(run, times):
    """Of each figure over several runs; None, and why in the log, if one fails: the table goes on."""
    try:
        all_ = [run() for _ in range(times)]
    except (RuntimeError, OSError, subprocess.CalledProcessError, http.client.HTTPException) as e:
        log(e)
        return None
    return {key: median(one[key] for one in all_) for key in all_[0]}


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
