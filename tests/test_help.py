"""Every example in a help text is run as it stands, among small files of the names that it mentions."""

import argparse
import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from terminal import MINIBERT
from tiny_folder import MEAN, write_encoder

from minibert.cli import _parser, main

(COMMANDS,) = (action.choices for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
EPILOGS = [parser.epilog for parser in (_parser(), *COMMANDS.values()) if parser.epilog]
EXAMPLES = [  # a line that ends in \ goes on; two spaces, and words on the example follow
    re.split("  +", re.sub(r"\\\n +", "", example))[0]
    for epilog in EPILOGS
    for example in re.findall(r"^  (.*\bminibert (?:.*\\\n)*.*)$", epilog, re.MULTILINE)
    if not re.match(r"\w+ = ", example)
]
TOML = "".join(f"{line}\n" for line in re.findall(r"^  (\w+ = .*)$", COMMANDS["train"].epilog, re.MULTILINE))

TEXTS = ["A man is eating food.", "Someone has lunch.", "The sky is blue.", "A dog sat on the mat."]
PAIRS = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
STS = "".join(f"x\tx\tx\tx\t{i}.0\t{a}\t{b}\n" for i, (a, b) in enumerate(PAIRS))
FILES = {
    **dict.fromkeys(("texts.txt", "text.txt", "held-out.txt"), "\n".join(TEXTS)),
    **dict.fromkeys(("sts-train.csv", "sts-dev.csv"), STS),
    "nli.tsv.gz": "".join(f"{word}\t{TEXTS[0]}\t{TEXTS[1]}\n" for word in ("neutral", "entailment", "contradiction")),
    "faq.csv": "question,answer\n" + "".join(f"{a},{b}\n" for a, b in PAIRS),
    "pairs.jsonl": "".join(
        json.dumps({"sentence1": a, "sentence2": b, "score": i}) + "\n" for i, (a, b) in enumerate(PAIRS)
    ),
    "triplets.tsv": "\t".join(TEXTS[:3]) + "\n" + "\t".join(TEXTS[1:]) + "\n",
    "run.toml": TOML,
}
MODELS = "my-model", "compiled", "runs/first/model", "sentence-transformers/bert-base-nli-cls-token"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, text in FILES.items():
        content = text.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    for name in MODELS:
        write_encoder(folder / name, ("Pooling", MEAN))
    assert main(["embed-corpus", str(folder / "texts.txt"), "-o", str(folder / "index"), "--keep-texts"]) == 0
    return folder


@pytest.mark.parametrize("command", EXAMPLES)
def test_an_example_of_the_help_does_what_it_says(command, folder, tmp_path, monkeypatch):
    if "run.toml" in command and sys.version_info < (3, 11):
        pytest.skip("Python reads TOML from 3.11 on")
    if "minibert compile" in command and shutil.which("g++") is None:
        pytest.skip("needs g++")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if "minibert train" in command:
        shutil.rmtree("runs")  # it refuses a folder that has a model
    if "--resume" in command:
        run(command.replace("--resume", ""))
    run(command)


def run(command):
    if command.startswith("minibert ") and "|" not in command:
        assert main(shlex.split(command)[1:]) == 0
        return
    python = shlex.quote(sys.executable)
    line = re.sub(r"(?<!-m )\bminibert\b", " ".join(map(shlex.quote, MINIBERT)), command)
    line = line.replace("torchrun", f"{python} -m torch.distributed.run --standalone")
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_no_example_is_left_out():
    assert len(EXAMPLES) == sum(len(re.findall(r"^ .*\bminibert [a-z]", epilog, re.MULTILINE)) for epilog in EPILOGS)
    assert all(re.search(r"\bminibert (\w+)", command)[1] in COMMANDS for command in EXAMPLES)
    for verb in ("train", "pretrain", "evaluate"):
        assert sum(f"minibert {verb} " in command for command in EXAMPLES) >= 3
