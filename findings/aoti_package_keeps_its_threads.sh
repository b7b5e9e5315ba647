#!/usr/bin/env bash
# torch 2.13.0: a package of AOTInductor runs on as many threads as torch had where it was compiled.
#
# Guess:  compiled code asks for torch's threads, as every operator of torch does. So torch.set_num_threads, or another
#         number of cores, changes how many compute.
# Seen:   the number is written into the C++ (#pragma omp parallel num_threads(3)). A process that sets one thread starts
#         two more for the package, and none for an operator of torch. TORCHINDUCTOR_CPP_DYNAMIC_THREADS=1, set when
#         it is compiled, leaves the number out, and then torch's setting holds.
#
# Output, 2026-11-28, CPU, g++ 12.2:
#     compiled with 3 threads                   num_threads(3)    set to 1: 2 threads started
#     compiled with 3 threads, dynamic          num_threads()     set to 1: 0 threads started
set -euo pipefail
command -v g++ > /dev/null || { echo "needs g++"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy setuptools
export TORCHINDUCTOR_CACHE_DIR="$work/cache"

cat > "$work/pack.py" <<'PYTHON'
import sys

import torch


class Formula(torch.nn.Module):
    def forward(self, x):
        return torch.tanh(x * 2 + 1)


torch.set_num_threads(3)
exported = torch.export.export(Formula(), (torch.zeros(2048, 512),))
torch._inductor.aoti_compile_and_package(exported, package_path=sys.argv[1])
PYTHON

cat > "$work/use.py" <<'PYTHON'
import os
import re
import sys
import zipfile

import torch

assert torch.__version__.startswith("2.13.0"), torch.__version__
torch.set_num_threads(1)
package, expected = sys.argv[1:]
with zipfile.ZipFile(package) as archive:
    code = "".join(archive.read(name).decode() for name in archive.namelist() if name.endswith(".cpp"))
written = sorted(set(re.findall(r"#pragma omp parallel num_threads\((\d+)\)", code)))
model = torch._inductor.aoti_load_package(package)
x = torch.ones(2048, 512)
torch.tanh(x)
before = len(os.listdir("/proc/self/task"))
assert torch.allclose(model(x), torch.tanh(x * 2 + 1))
started = len(os.listdir("/proc/self/task")) - before
print(f"num_threads({','.join(written)})".ljust(18) + f"set to {torch.get_num_threads()}: {started} threads started")
assert (written, started) == ((["3"], 2) if expected == "fixed" else ([], 0)), (written, started)
PYTHON

run() { "$work/venv/bin/python" -W ignore "$@" 2> "$work/errors" || { cat "$work/errors"; exit 1; }; }
run "$work/pack.py" "$work/fixed.pt2" > /dev/null
printf '%-42s' "compiled with 3 threads"
run "$work/use.py" "$work/fixed.pt2" fixed
TORCHINDUCTOR_CPP_DYNAMIC_THREADS=1 run "$work/pack.py" "$work/dynamic.pt2" > /dev/null
printf '%-42s' "compiled with 3 threads, dynamic"
run "$work/use.py" "$work/dynamic.pt2" dynamic
