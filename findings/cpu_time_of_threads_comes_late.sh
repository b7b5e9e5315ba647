#!/usr/bin/env bash
# Linux 6.18, torch 2.13.0: time.process_time() leaves out what other running threads have used since their last tick.
#
# Guess:  around a product that torch computes on two cores, process_time() grows by twice as much as perf_counter(). So
#         the ratio tells how many cores a call got.
# Seen:   the kernel brings only the calling thread up to date. Another running thread counts at its ticks, 1 to 10 ms
#         apart. So most short calls seem to have had one core, and the rest more than there are. Sums over many calls
#         are right.
#
# Output, 2026-11-28, Linux 6.18, Python 3.11, torch 2.13.0, 2 cores:
#     a product on 2 threads: 67% seem to have one core, 30% more than three; 2.0 cores in all
set -euo pipefail
[ "$(uname)" = Linux ] && [ "$(nproc)" -ge 2 ] || { echo "needs Linux and two idle cores"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy

"$work/venv/bin/python" - <<'PYTHON'
import time

import torch

torch.set_num_threads(2)
x = torch.ones(512, 512)
for _ in range(500):
    x @ x
calls = []
begin, used = time.perf_counter(), time.process_time()
while time.perf_counter() - begin < 3:
    wall, busy = time.perf_counter(), time.process_time()
    x @ x
    calls.append((time.process_time() - busy) / (time.perf_counter() - wall))
cores = (time.process_time() - used) / (time.perf_counter() - begin)
one = sum(call < 1.2 for call in calls) / len(calls)
many = sum(call > 3 for call in calls) / len(calls)
print(f"a product on 2 threads: {one:.0%} seem to have one core, {many:.0%} more than three;{cores:4.1f} cores in all")
assert cores > 1.7, cores
assert one > 0.4, one
assert many > 0.02, many
PYTHON
