"""Damage the files of tiny published folders, load them and encode, and write down every exception that isn't ours.

    python tools/fuzz --minutes 15 --seed 1 --out found.jsonl
    python tools/fuzz --seed 1 --case 4711        # one case again, with its changes and its traceback

A child process with limits on its time and memory loads and encodes. Its error must be an OSError or a ValueError that
minibert raised itself, with no line above 2,000 letters. Of each other kind ``--out`` gets the first case, as a line of
JSON. Needs fork and /proc, so it runs on Linux only.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))

import minibert
from minibert import CrossEncoder, SentenceEncoder
from tools.fuzz.damage import change, write_folders

PACKAGE = str(Path(minibert.__file__).parent)
SECONDS, BYTES = 20, 2 << 30  # for one case, beyond what is in memory before it
TEXTS = ["", "the cat", "abc [MASK] xyz é 漢", "the " * 70]


def load_and_encode(folder: Path) -> None:
    """Do what a user does with a folder."""
    if folder.name == "cross":
        CrossEncoder.from_pretrained(folder, device="cpu").predict([(text, TEXTS[1]) for text in TEXTS])
        return
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    encoder.similarity(encoder.encode(TEXTS), encoder.encode_query(TEXTS[:2], normalize_embeddings=True))


def verdict(folder: Path) -> str:
    """Load and encode; return "" or what no user should see."""
    try:
        load_and_encode(folder)
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if frame.filename.startswith(PACKAGE)] or frames
        own = isinstance(error, (OSError, ValueError)) and ours[-1] is frames[-1]
        if not own or max(map(len, str(error).split("\n"))) > 2000:
            return f"{type(error).__name__}{' too long' * own} at {ours[-1].name} ({ours[-1].line}): {str(error)[:200]}"
    return ""


def run_case(folder: Path, said: Path) -> str:
    """Return what a child process says of a folder, "" if all is well."""
    said.write_text("")
    if (child := os.fork()) == 0:
        signal.alarm(SECONDS)  # nothing handles it, so it ends the process, whatever that is doing
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # of the tokenizers library, when it panics
        said.write_text(verdict(folder), errors="replace")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return f"ended by signal {status}: " if status else said.read_text()


def main() -> None:
    """Run cases until the time is over, or one case again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this case alone, in this process")
    parser.add_argument("--out", type=Path, default=Path("found.jsonl"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kinds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        sources = write_folders(Path(place))
        for folder in sources:
            load_and_encode(folder)  # what a first call imports and measures is not a case's
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            case = kinds.total() if options.case is None else options.case
            chance = random.Random(f"{options.seed} {case}")
            source = chance.choice(sources)
            folder = Path(shutil.copytree(source, Path(place) / "case" / source.name))
            changes = [change(folder, chance) for _ in range(chance.choice((1, 1, 2, 3)))]
            if options.case is not None:
                print(*changes, sep="\n")
                load_and_encode(folder)
                return
            said = run_case(folder, Path(place) / "said")
            kinds[kind := said.split("): ")[0]] += 1
            if kind and kinds[kind] == 1:
                with options.out.open("a") as file:
                    print(json.dumps({"seed": options.seed, "case": case, "said": said, "changes": changes}), file=file)
            shutil.rmtree(folder.parent)
    print(f"{kinds.total()} cases, {kinds.pop('', 0)} as they should be, {len(kinds)} kinds of foreign exception")
    print(*(f"{count:6}  {kind}" for kind, count in kinds.most_common()), sep="\n")


if __name__ == "__main__":
    main()
