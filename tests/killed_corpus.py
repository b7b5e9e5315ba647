"""Embed a corpus in processes that are killed, or on a full disk, and compare the folder with that of one that was not.

A process of its own, without other threads, which a fork would lack.
"""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from ast import literal_eval
from functools import partial
from itertools import count
from pathlib import Path

import torch

from minibert import SentenceEncoder
from minibert.bulk import embed_corpus

WRITES = "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "tempfile.mkdtemp", "shutil.rmtree"


def forked(work, delay=None):
    """Do the work in a process that is killed after so many seconds. Return whether it was killed."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0


def killed_before_write(number, folder):
    """Let this process be killed before its n-th change of the folder."""
    done = count(1)

    def hook(event, args):
        reads = event == "open" and args[1] in ("r", "rb", None)
        if event in WRITES and str(folder) in str(args[0]) and not reads and next(done) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def at_each_write(embed, place):
    embed(place / "whole")
    number = killed = 1
    while killed:
        folder = place / f"killed-{number}"

        def work(number=number, folder=folder):
            killed_before_write(number, folder)
            embed(folder)

        killed = forked(work)
        embed(folder)
        assert content(folder) == content(place / "whole"), number
        number += 1
    return number - 2


def at_random_times(embed, place):
    start = time.perf_counter()
    embed(place / "whole")
    seconds, kills = time.perf_counter() - start, 0
    for seed in range(2):
        folder, draw = place / f"killed-{seed}", random.Random(seed)

        def work(folder=folder):
            embed(folder)

        for _ in range(6):
            kills += forked(work, delay=draw.uniform(0, seconds / 3))
        embed(folder)
        assert content(folder) == content(place / "whole"), seed
    return kills


def at_each_space(embed, place):
    """On file systems with room for ever more bytes, then for ever more files. Needs the right to mount."""
    embed(place / "whole")
    whole, disk, stops = content(place / "whole"), place / "disk", 0
    disk.mkdir()
    for limit, numbers in ("size", count(4096, 4096)), ("nr_inodes", count(2)):
        for number in numbers:
            before, folder = stops, disk / "out"
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"{limit}={number}", "tmpfs", disk], check=True)
            try:
                embed(folder)
            except OSError as error:
                if error.errno != errno.ENOSPC or folder not in (Path(error.filename), Path(error.filename).parent):
                    raise
                for name, data in content(folder).items() if folder.exists() else ():
                    if name in ("manifest.json", "progress.json"):
                        json.loads(data)
                    elif name != "rejects.jsonl":  # which grows
                        assert data == whole[name], (limit, number, name)
                stops += 1
                subprocess.run(["mount", "-o", "remount,size=4m,nr_inodes=1000", disk], check=True)
                embed(folder)
            assert content(folder) == whole, (limit, number)
            subprocess.run(["umount", disk], check=True)
            if stops == before:
                break
    return stops


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of few vectors, for the ranges of int8
    way, model, texts, place, options = sys.argv[1:]
    ways = {"write": at_each_write, "time": at_random_times, "space": at_each_space}
    encoder = SentenceEncoder.from_pretrained(model)
    print(ways[way](partial(embed_corpus, encoder, texts, **literal_eval(options)), Path(place)))
