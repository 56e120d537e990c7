#!/usr/bin/env bash
# setup.sh: what the tables need, into bench/.work (or $BENCH_WORK): one virtual environment a
# peer, pinned, and 3 GB of generated data. Needs Python 3.11 or later. A few minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${BENCH_WORK:-$here/.work}
mkdir -p "$work/venvs" "$work/data"
for peer in gen plot chdb duckdb datafusion; do
    [ -x "$work/venvs/$peer/bin/python" ] || python3 -m venv "$work/venvs/$peer"
    "$work/venvs/$peer/bin/pip" install -q -r "$here/requirements/$peer.txt"
done
"$work/venvs/gen/bin/python" "$here/gen.py" "$work/data"
# Flink is large and needs a JDK: FLINK=1 bench/setup.sh
[ -z "${FLINK:-}" ] || {
    [ -x "$work/venvs/flink/bin/python" ] || python3 -m venv "$work/venvs/flink"
    "$work/venvs/flink/bin/pip" install -q -r "$here/requirements/flink.txt"
    "$work/venvs/gen/bin/python" "$here/gen.py" "$work/data" --raw
}
