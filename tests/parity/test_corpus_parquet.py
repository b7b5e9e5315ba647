"""Corpora in Parquet and in zstd, as pyarrow (which minibert reads and writes them with) has them."""

import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from minibert import SentenceEncoder, quantize_embeddings
from minibert.bulk import embed_corpus
from minibert.bulk import sources as sources_module

TEXTS = [f"A man eats {i}." for i in range(120)]


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder.from_pretrained()


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "ubinary"])
def test_from_parquet_to_parquet(encoder, tmp_path, precision):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"n": list(range(120)), "t": TEXTS}), path, row_group_size=50)
    options = {"column": "t", "id_column": "n", "precision": precision, "keep_texts": True, "shard_rows": 110}
    embed_corpus(encoder, path, tmp_path / "out", output_format="parquet", **options)
    tables = [parquet.read_table(file) for file in sorted((tmp_path / "out").glob("*.parquet"))]
    assert [len(table) for table in tables] == [110, 10]
    table = pyarrow.concat_tables(tables)
    assert table["id"].to_pylist() == [str(i) for i in range(120)]
    assert table["text"].to_pylist() == TEXTS
    kinds = {"float32": "float", "float16": "halffloat", "int8": "int8", "ubinary": "uint8"}
    width = 48 if precision == "ubinary" else 384
    assert str(table.schema.field("embedding").type) == f"fixed_size_list<element: {kinds[precision]}>[{width}]"
    vectors = encoder.encode(TEXTS, batch_invariant=True)
    ranges = np.stack([vectors[:110].min(0), vectors[:110].max(0)]) if precision == "int8" else None
    wanted = vectors.astype("float16") if precision == "float16" else quantize_embeddings(vectors, precision, ranges)
    assert np.array_equal(np.array(table["embedding"].to_pylist(), wanted.dtype), wanted)


def test_bad_rows_of_parquet(encoder, tmp_path):
    path = tmp_path / "x.parquet"
    text = pyarrow.array([b"good", b"\xff", b"a\0b", b"last"]).cast(pyarrow.binary())
    broken = pyarrow.Array.from_buffers(pyarrow.string(), 4, text.buffers())
    parquet.write_table(
        pyarrow.table({"t": pyarrow.chunked_array([broken, pyarrow.array([None], pyarrow.string())])}), path
    )
    with pytest.raises(ValueError, match=r"x\.parquet, row 2: not UTF-8"):
        embed_corpus(encoder, path, tmp_path / "stop", column="t")
    report = embed_corpus(encoder, path, tmp_path / "out", column="t", on_error="skip")
    assert (report.texts, report.rejected) == (2, 3)
    lines = [json.loads(line)["line"] for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert lines == [2, 3, 5]
    assert json.loads((tmp_path / "out" / "shard-000000.json").read_text())["id"] == [f"{path}:1", f"{path}:4"]
    with pytest.raises(ValueError, match=r"x\.parquet: there is no column 'z', only 't'"):
        embed_corpus(encoder, path, tmp_path / "z", column="z")


def test_lines_in_zstd_also_of_several_frames(encoder, tmp_path):
    path = tmp_path / "x.txt.zst"
    pack = pyarrow.Codec("zstd").compress
    frames = [pack("".join(f"{text}\n" for text in part).encode(), asbytes=True) for part in (TEXTS[:50], TEXTS[50:])]
    path.write_bytes(b"".join(frames))
    embed_corpus(encoder, path, tmp_path / "out", keep_texts=True)
    assert json.loads((tmp_path / "out" / "shard-000000.json").read_text())["text"] == TEXTS
    for i, damaged in enumerate((b"".join(frames)[:-9], b"no zstd", frames[0] + b"more")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x\.txt\.zst: not a zstd file, or damaged"):
            embed_corpus(encoder, path, tmp_path / f"damaged-{i}")


def test_progress_counts_bytes_read(encoder, tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"t": TEXTS}), path)
    found = sources_module.find_sources([path], "t")
    reader = sources_module.Reader(found, ["t"], sources_module.Position(), lambda bad: 0)
    assert reader.done == 0
    assert all(0 <= reader.done <= reader.total for _ in reader.windows(7))
    assert reader.done == reader.total == path.stat().st_size
