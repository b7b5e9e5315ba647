#!/usr/bin/env bash
# Ray Data 2.60.0: a task that unfolds a file is fused with the actors that follow, so a file is one actor's work alone.
#
# Guess:  flat_map(read) .map(Actor) reads a file in a task and spreads its rows over the pool of actors.
# Seen:   where both ask for the same resources they become one operator, the actors': each file stays with the actor that
#         read it, and the others idle. With num_cpus=0 for the reader they stay two operators, and rows are spread.
#
# Output, 2026-11-28 (one "file", four rows that take a while each, two actors):
#     num_cpus=1 for the reader: rows by 1 of 2 actors
#     num_cpus=0 for the reader: rows by 2 of 2 actors
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "ray[data]==2.60.0" pyarrow pandas numpy==2.4.6
export RAY_USAGE_STATS_ENABLED=0

"$work/venv/bin/python" - <<'PYTHON' 2>/dev/null
import os
import time

import ray

ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False


def read(row):
    for _ in range(4):
        yield {"row": "x" * 2**21}  # more than a block each


class Actor:
    def __call__(self, row):
        time.sleep(1)
        return {"pid": os.getpid()}


ray.data.DataContext.get_current().target_max_block_size = 2**20
seen = []
for cores in (1, 0):
    rows = ray.data.from_items([0]).flat_map(read, num_cpus=cores)
    rows = rows.map(Actor, num_cpus=1, compute=ray.data.ActorPoolStrategy(size=2)).take_all()
    seen.append(len({row["pid"] for row in rows}))
    print(f"num_cpus={cores} for the reader: rows by {seen[-1]} of 2 actors", flush=True)
assert seen == [1, 2], seen
PYTHON
