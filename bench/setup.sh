#!/usr/bin/env bash
# setup.sh: what the tables need, into bench/.work (or $BENCH_WORK): one virtual environment a
# peer, pinned, and 1.1 GB of generated data. Needs Python 3.11 or later. A few minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${BENCH_WORK:-$here/.work}
mkdir -p "$work/venvs" "$work/data"
for peer in gen chdb duckdb datafusion; do
    [ -x "$work/venvs/$peer/bin/python" ] || python3 -m venv "$work/venvs/$peer"
    "$work/venvs/$peer/bin/pip" install -q -r "$here/requirements/$peer.txt"
done
[ -f "$work/data/done" ] || "$work/venvs/gen/bin/python" "$here/gen.py" "$work/data"
