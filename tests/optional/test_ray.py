"""Whole corpora on a cluster of Ray, on this machine: complete and the same as the local engine's, whoever dies."""

import gzip
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_folder import MEAN, write_encoder
from waiting_encoder import WaitingEncoder

from minibert import SentenceEncoder
from minibert.bulk import Embedder, JobError, embed_corpus
from minibert.bulk import ray as on_ray
from minibert.bulk.ray import Part, _Writer
from minibert.bulk.settings import CorpusOptions
from minibert.bulk.sources import Position, Window
from minibert.cli import main
from minibert.tables import BadRow

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
ray = pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own

TEXTS = [f"the cat {i} sat on the mat" if i % 7 else "" for i in range(3000)]
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
# A machine that says nothing for half a second three times is dead.
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    tests = str(Path(__file__).parent.parent)  # where the machines find waiting_encoder
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    found = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "_system_config": QUICK})
    found.add_node(**NODE)
    found.add_node(**NODE)
    ray.init(address=found.address, log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("model"), ("Pooling", MEAN))


@pytest.fixture(scope="module")
def encoder(model):
    return SentenceEncoder.from_pretrained(model)


def table(folder):
    """All shards in order."""
    return pa.concat_tables([parquet.read_table(path) for path in sorted(folder.glob("shard-*.parquet"))])


def same(ours, theirs, atol=1e-6):
    assert ours.schema.equals(theirs.schema, check_metadata=True)
    for name in [name for name in ours.column_names if name != "embedding"]:
        assert ours[name].to_pylist() == theirs[name].to_pylist()
    left, right = (np.array(each["embedding"].to_pylist()) for each in (ours, theirs))
    assert np.allclose(left, right, rtol=0, atol=atol)


def write_sources(folder, texts=TEXTS, files=3):
    paths = []
    for i in range(files):
        some = texts[i::files]
        paths.append(folder / f"{i}.parquet")
        parquet.write_table(pa.table({"n": [f"{i}-{j}" for j in range(len(some))], "t": some}), paths[-1])
    return paths


BAD = [b"good", b"\xff", b"", b"a\0b"]


def test_files_of_all_forms_give_the_local_result_in_the_local_order(cluster, encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("b.jsonl").write_text("".join(json.dumps({"t": text}) + "\n" for text in TEXTS[:300]) + '{"t": 5}')
    Path("a.csv").write_text("n,t\n" + "".join(f'{i},"the ""{i}"" cat"\n' for i in range(100)) + "1\n2,last\n")
    Path("empty.csv").write_text("n,t\n")
    parquet.write_table(pa.table({"t": ["hello", None, "日本", "cat " * 60]}), "c.parquet")
    options = {"column": "t", "on_error": "skip", "output_format": "parquet", "keep_texts": True, "shard_rows": 100}
    names = ["b.jsonl", "a.csv", "empty.csv", "c.parquet"]
    local = embed_corpus(encoder, names, "local", **options)
    report = embed_corpus(encoder, names, "ray", engine="ray", **options)
    same(table(Path("ray")), table(Path("local")))
    assert Path("ray/rejects.jsonl").read_bytes() == Path("local/rejects.jsonl").read_bytes()
    for name in ("texts", "tokens", "truncated", "rejected"):
        assert getattr(report, name) == getattr(local, name)
    assert (report.rejected, report.truncated, report.shards) == (3, 1, 6)
    assert {path.suffix for path in Path("ray").iterdir()} == {".parquet", ".json", ".jsonl"}
    manifests = [json.loads(Path(name, "manifest.json").read_text()) for name in ("local", "ray")]
    for one in manifests:
        del one["options"]["engine"], one["position"], one["shards"]
    assert manifests[0] == manifests[1]
    again = embed_corpus(encoder, names, "ray", engine="ray", **options)
    assert (again.texts, again.resumed) == (report.texts, report.texts)
    with pytest.raises(JobError, match=r'options.engine: "ray", and now "local"'):
        embed_corpus(encoder, names, "ray", **options)


@pytest.mark.parametrize("precision", ["float16", "ubinary"])
def test_precisions_prompts_and_actors(cluster, encoder, tmp_path, precision):
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress("\n".join(TEXTS[:500]).encode()))
    options = {"prompt": "query: ", "truncate_dim": 20, "precision": precision, "output_format": "parquet"}
    embed_corpus(encoder, path, tmp_path / "local", **options)
    embed_corpus(encoder, path, tmp_path / "ray", engine="ray", processes=2, shard_rows=200, **options)
    same(table(tmp_path / "ray"), table(tmp_path / "local"), atol=1e-3 if precision == "float16" else 0)


def test_a_bad_row_and_a_text_that_the_model_refuses_are_said_as_locally(cluster, model, encoder, tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\n".join(BAD))
    options = {"engine": "ray", "output_format": "parquet"}
    with pytest.raises(BadRow, match=r"x\.txt, line 2: not UTF-8"):
        embed_corpus(encoder, path, tmp_path / "out", **options)
    report = embed_corpus(encoder, path, tmp_path / "out", on_error="skip", **options)
    assert (report.texts, report.rejected) == (2, 2)
    path.write_text("the cat " * 60)
    strict = SentenceEncoder.from_pretrained(model, truncation="error")
    with pytest.raises(ValueError, match=r"among .*x\.txt:1 to .*: texts longer than 40 tokens"):
        embed_corpus(strict, path, tmp_path / "strict", **options)
    path.with_suffix(".txt.gz").write_bytes(gzip.compress(b"hello\n" * 10_000)[:-9])
    with pytest.raises(ValueError, match=r"x\.txt\.gz: not a gzip file, or damaged"):
        embed_corpus(encoder, path.with_suffix(".txt.gz"), tmp_path / "damaged", on_error="skip", **options)


def test_what_other_machines_cannot_read_is_refused(encoder, tmp_path):
    with pytest.raises(ValueError, match="stdin: other machines can't read it"):
        embed_corpus(encoder, "-", tmp_path / "out", engine="ray", output_format="parquet")
    assert not (tmp_path / "out").exists()


def test_a_machine_that_does_not_share_the_disk_is_said(cluster, encoder, tmp_path):
    chosen = CorpusOptions(engine="ray", output_format="parquet")
    part = Part(0, 0, Window(["a"], ["hello"], Position()), [], 0, {})
    sent = _Writer(ray.put(encoder), tmp_path / "none", chosen)({"part": pickle.dumps(part)})
    assert isinstance(error := pickle.loads(sent["part"]), JobError)
    assert "give a folder on a disk that all share" in str(error)


def test_ray_is_imported_only_when_it_is_asked_for():
    code = "import sys, minibert.bulk.corpus, minibert.bulk.ray, minibert.cli; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_driver_that_died_goes_on(cluster, encoder, tmp_path, monkeypatch):
    sources = write_sources(tmp_path, TEXTS[:400], files=2)
    options = {"engine": "ray", "output_format": "parquet", "column": "t", "shard_rows": 50}
    embed_corpus(encoder, sources, tmp_path / "local", output_format="parquet", column="t")

    def die(*args):
        raise KeyboardInterrupt

    for name in ("_gather", "finish"):  # before and after the shards have their numbers
        with monkeypatch.context() as patch:
            patch.setattr(on_ray, name, die)
            with pytest.raises(KeyboardInterrupt):
                embed_corpus(encoder, sources, tmp_path / name, **options)
        assert not json.loads((tmp_path / name / "manifest.json").read_text())["complete"]
        if name == "_gather":
            (tmp_path / name / "parts" / "1-2" / "counts.json").unlink()  # not all of it was written
        report = embed_corpus(encoder, sources, tmp_path / name, **options)
        assert (report.texts, report.resumed) == (400, 350 if name == "_gather" else 400)
        same(table(tmp_path / name), table(tmp_path / "local"))
        assert len(list((tmp_path / name).iterdir())) == 9  # shards and the manifest


def test_the_command(cluster, model, tmp_path, capfd):
    [path] = write_sources(tmp_path, TEXTS[:200], files=1)
    line = ["embed-corpus", str(path), "--column", "t", "--id", "n", "-m", str(model), "--json"]
    assert main([*line, "--format", "parquet", "-o", str(tmp_path / "local")]) == 0
    assert main([*line, "--engine", "ray", "-o", str(tmp_path / "ray")]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["texts"] == 200
    same(table(tmp_path / "ray"), table(tmp_path / "local"))
    assert table(tmp_path / "ray")["id"][199].as_py() == "0-199"


@pytest.mark.parametrize("by_name", [True, False])
def test_the_actor_class_in_a_pipeline_of_ones_own(cluster, model, encoder, tmp_path, by_name):
    (tmp_path / "in").mkdir()
    write_sources(tmp_path / "in", TEXTS[:300])
    (
        ray.data.read_parquet(str(tmp_path / "in"))
        .map_batches(
            Embedder,
            batch_format="pyarrow",
            batch_size=64,
            fn_constructor_kwargs={"model": str(model) if by_name else encoder, "column": "t", "batch_size": 16},
            compute=ray.data.ActorPoolStrategy(max_size=2),
        )
        .write_parquet(str(tmp_path / "out"))
    )
    found = pa.concat_tables([parquet.read_table(path) for path in (tmp_path / "out").iterdir()]).sort_by("n")
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    assert len(found) == 300
    vectors = np.array(found["embedding"].to_pylist(), np.float32)
    assert np.allclose(vectors, encoder.encode_document(found["t"].to_pylist()), rtol=0, atol=1e-6)


def test_a_machine_dies_in_the_middle_and_nothing_is_lost(cluster, model, tmp_path):
    sources, options = write_sources(tmp_path), {"column": "t", "output_format": "parquet", "keep_texts": True}
    encoder = WaitingEncoder.from_pretrained(model)
    embed_corpus(encoder, sources, tmp_path / "local", **options)
    encoder.place, encoder.driver = str(tmp_path), ray.get_runtime_context().get_node_id()
    killed = []

    def kill():
        while not (tmp_path / "started").exists():
            time.sleep(0.05)
        name = (tmp_path / "started").read_text()
        node = next(node for node in cluster.worker_nodes if node.node_id == name)
        cluster.remove_node(node, allow_graceful=False)
        killed.append(name)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    report = embed_corpus(encoder, sources, tmp_path / "ray", engine="ray", shard_rows=64, **options)
    thread.join(100)
    assert len(killed) == 1
    same(table(tmp_path / "ray"), table(tmp_path / "local"))
    assert (report.texts, report.shards, report.resumed) == (3000, 48, 0)
