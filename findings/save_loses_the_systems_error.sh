#!/usr/bin/env bash
# numpy 2.4.6: np.save into a real file hides why it failed, and can't write into a pipe.
#
# Guess:  np.save writes bytes to the file object that it is given, so a full disk is an OSError with its errno, and a
#         pipe takes an array as it takes any bytes.
# Seen:   given a real file, it writes past the file object, with C's fwrite. A write that stops halfway is an OSError
#         without errno, and a pipe is refused. np.savez, which goes through zipfile, keeps the errno.
#
# Output, 2026-11-28 (a limit on the file's size stands for a full disk):
#     2.4.6 np.save None 100000 requested and 16352 written
#     2.4.6 np.savez 27 [Errno 27] File too large
#     2.4.6 file.write 27 [Errno 27] File too large
#     2.4.6 pipe None obtaining file position failed
#     2.4.6 pipe, hidden in an object with `write`: 400128 bytes
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/show.py" <<'PYTHON'
import os
import resource
import signal
import sys
import threading
from types import SimpleNamespace

import numpy as np

array, path = np.zeros(100_000, np.float32), sys.argv[1]


def into_a_pipe(save):
    reading, writing = os.pipe()
    got = []
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb") as target:
        reader = threading.Thread(target=lambda: got.append(len(source.read())))
        reader.start()
        try:
            save(target)
        except OSError as error:
            got.append(error)
        target.close()
        reader.join()
    return got


(refused, _) = into_a_pipe(lambda target: np.save(target, array))
(count,) = into_a_pipe(lambda target: np.save(SimpleNamespace(write=target.write), array))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit is an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
seen = {}
for name, save in {
    "np.save": lambda file: np.save(file, array),
    "np.savez": lambda file: np.savez(file, array=array),
    "file.write": lambda file: file.write(array.tobytes()),
}.items():
    try:
        with open(path, "wb") as file:
            save(file)
    except OSError as error:
        seen[name] = error.errno
        print(np.__version__, name, error.errno, error)
print(np.__version__, "pipe", refused.errno, refused)
print(np.__version__, f"pipe, hidden in an object with `write`: {count} bytes")
assert seen == {"np.save": None, "np.savez": 27, "file.write": 27}, seen
assert refused.errno is None and count == array.nbytes + 128
PYTHON

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6
"$work/venv/bin/python" "$work/show.py" "$work/array.npy"
