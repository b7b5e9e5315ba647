"""Search over the shards of a corpus: exact in every precision, in blocks, and rescored as it says."""

import json

import numpy as np
import pytest
import torch
from tiny_folder import MEAN, write_encoder

from minibert import SentenceEncoder, quantize_embeddings
from minibert.bulk import Index, embed_corpus, paraphrase_mining_embeddings, semantic_search
from minibert.bulk import search as search_module
from minibert.checkpoint.save import write_json
from minibert.cli import main
from minibert.vectors import SIMILARITIES

WORDS = ["the", "cat", "dog", "sat", "on", "mat", "hello", "world", "man", "eats", "food", "who", "is"]
DRAW = np.random.default_rng(0)
TEXTS = [" ".join(DRAW.choice(WORDS, 6)) for _ in range(250)]
QUERIES = ["the cat sat", "who eats food"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("model"), ("Pooling", MEAN))


@pytest.fixture(scope="module")
def encoder(model):
    return SentenceEncoder.from_pretrained(model)


@pytest.fixture
def corpus(encoder, tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("\n".join(TEXTS))

    def embed(name="index", **options):
        embed_corpus(encoder, path, tmp_path / name, shard_rows=110, **options)
        return Index(tmp_path / name)

    return embed


def places(found):
    return [[hit["corpus_id"] for hit in hits] for hits in found]


def assert_best(found, scores, k=5):
    """The k highest scores were found, each text once; texts that are equally near may come in any order."""
    for hits, row in zip(places(found), np.asarray(scores), strict=True):
        assert len(set(hits)) == k
        np.testing.assert_allclose(row[hits], np.sort(row)[::-1][:k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_floats_are_searched_exactly(encoder, corpus, monkeypatch, precision):
    monkeypatch.setattr(search_module, "ROWS", 30)
    index = corpus(precision=precision, keep_texts=True)
    queries = encoder.encode(QUERIES)
    found = index.search(queries, 5)
    scores = SIMILARITIES["cosine"](torch.tensor(queries), index[:])
    assert_best(found, scores)
    assert np.allclose([hit["score"] for hit in found[1]], np.sort(scores[1])[::-1][:5], atol=1e-6)
    hit = found[0][0]
    assert hit["text"] == TEXTS[hit["corpus_id"]]
    assert hit["id"].endswith(f"x.txt:{hit['corpus_id'] + 1}")
    assert index.search(queries[0], 5)[0] == index.search(queries[:1], 5)[0]
    assert len(index.search(queries, 1000)[0]) == len(index) == 250


@pytest.mark.parametrize("measure", ["dot", "euclidean", "manhattan"])
def test_the_measure_is_the_models(encoder, corpus, measure):
    index = corpus()
    index.measure = measure
    queries = torch.tensor(encoder.encode(QUERIES))
    assert_best(index.search(queries, 5), SIMILARITIES[measure](queries, index[:]))


def test_codes_are_compared_as_the_vectors_they_stand_for(encoder, corpus):
    index = corpus(precision="int8")
    queries, exact = encoder.encode(QUERIES), encoder.encode(TEXTS, batch_invariant=True)
    step = np.ptp(np.load(index.folder / "ranges.npy"), axis=0) / 255
    inside = (exact[:110] >= exact[:110].min(0)) & (exact[:110] <= exact[:110].max(0))
    assert (np.abs(index[:110].numpy() - exact[:110]) <= step / 2 + 1e-5)[inside].all()
    assert_best(index.search(queries, 5), SIMILARITIES["cosine"](torch.tensor(queries), index[:]))


def test_codes_of_a_dimension_without_a_range_are_its_value(tmp_path):
    """The built-in model has two dimensions that are always 0."""
    encoder, path = SentenceEncoder.from_pretrained(), tmp_path / "x.txt"
    path.write_text("\n".join(TEXTS))
    embed_corpus(encoder, path, tmp_path / "index", precision="int8")
    exact, restored = torch.tensor(encoder.encode(TEXTS)), Index(tmp_path / "index")[:]
    constant = torch.tensor(np.ptp(exact.numpy(), axis=0) == 0)
    assert constant.sum() == 2
    assert torch.equal(restored[:, constant], exact[:, constant])
    assert torch.cosine_similarity(exact, restored).min() > 0.999


def differing(queries, vectors):
    a, b = (np.unpackbits(quantize_embeddings(x, "ubinary"), axis=1).astype(int) for x in (queries, vectors))
    return np.abs(a[:, None] - b[None]).sum(-1)


@pytest.mark.parametrize("copy", [None, "float16", "float32"])
@pytest.mark.parametrize("precision", ["ubinary", "int8"])
def test_the_best_are_scored_again_by_the_copy(encoder, corpus, precision, copy):
    index = corpus(precision=precision, copy=copy)
    queries, exact = encoder.encode(QUERIES), encoder.encode(TEXTS, batch_invariant=True)
    found = index.search(queries, 5, rescore_multiplier=50)  # all of them
    other = index[:].numpy() if copy is None else exact.astype(copy).astype(np.float32)
    scores = SIMILARITIES["cosine"](torch.tensor(queries), torch.tensor(other)).numpy()
    assert [[hit["score"] for hit in hits] for hits in found] == [
        pytest.approx(scores[i, row], abs=1e-6) for i, row in enumerate(places(found))
    ]
    assert np.allclose([hits[4]["score"] for hits in found], -np.sort(-scores, axis=1)[:, 4], atol=1e-6)
    if precision == "ubinary":
        few = index.search(queries, 5, rescore_multiplier=2)
        distances = differing(queries, exact)
        for i, row in enumerate(places(few)):
            assert max(distances[i, row]) <= np.sort(distances[i])[9]


def test_shards_are_given_as_they_are_stored(corpus):
    index = corpus(precision="ubinary")
    shards = list(index.shards())
    assert [len(ids) for ids, _ in shards] == [len(codes) for _, codes in shards] == [110, 110, 30]
    assert [name.rsplit(":")[1] for ids, _ in shards for name in ids] == [str(i + 1) for i in range(250)]
    stored = [np.load(path) for path in sorted(index.folder.glob("*.npy"))]
    assert all(np.array_equal(codes, twin) for (_, codes), twin in zip(shards, stored, strict=True))
    assert shards[0][1].dtype == np.uint8


def test_an_index_stands_for_its_vectors_in_blocks(encoder, corpus):
    index = corpus()
    vectors = np.concatenate([np.load(path) for path in sorted(index.folder.glob("*.npy"))])
    for rows in (slice(0, 3), slice(100, 230), slice(109, 111), slice(240, 999), slice(5, 5)):
        assert np.array_equal(index[rows], vectors[rows])
    queries = encoder.encode(QUERIES)
    assert semantic_search(queries, index, corpus_chunk_size=64) == semantic_search(
        queries, vectors, corpus_chunk_size=64
    )
    assert paraphrase_mining_embeddings(index, top_k=3) == paraphrase_mining_embeddings(vectors, top_k=3)


def test_the_closest_pairs_are_those_of_the_whole_matrix(encoder, monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    scores = encoder.similarity(vectors, vectors).numpy()
    pairs = sorted(((scores[i, j], i, j) for i in range(30) for j in range(i + 1, 30)), reverse=True)
    for most in (1, 100, 10_000):  # numbers in memory at once
        monkeypatch.setattr("minibert.bulk.mining.SCORES", most)
        found = paraphrase_mining_embeddings(vectors, max_pairs=12, top_k=12, score_function=encoder.similarity)
        assert [tuple(pair[1:]) for pair in found] == [pair[1:] for pair in pairs[:12]]
        assert np.allclose([pair[0] for pair in found], [pair[0] for pair in pairs[:12]], atol=1e-6)
    assert len(paraphrase_mining_embeddings(vectors)) == len(pairs)


def test_bits_of_any_width(encoder, corpus):
    for width in (32, 20, 5):
        index = corpus(name=f"w{width}", precision="ubinary", truncate_dim=width)
        queries, exact = encoder.encode(QUERIES)[:, :width], encoder.encode(TEXTS, batch_invariant=True)[:, :width]
        found = search_module.differing_bits(index._codes[0], quantize_embeddings(queries[0], "ubinary"))
        assert np.array_equal(found, differing(queries[:1], exact[:110])[0])
        assert index.search(queries, 3)[0][0]["score"] <= 1.000001


def test_what_is_no_index_is_said(encoder, corpus, tmp_path):
    index = corpus()
    with pytest.raises(ValueError, match="of width 3, and the corpus is of width 32"):
        index.search(np.ones((1, 3)))
    (tmp_path / "file").touch()
    for name, why in (
        ("none", "there is no such folder"),
        ("file", "it is a file"),
        (".", r"it has no manifest\.json"),
    ):
        with pytest.raises(
            FileNotFoundError, match=f"is no index, {why}: `minibert embed-corpus FILE -o FOLDER` makes"
        ):
            Index(tmp_path / name)
    with pytest.raises(ValueError, match="the format is jsonl, and a search needs npy"):
        corpus(name="jsonl", output_format="jsonl")
    values = json.loads((index.folder / "manifest.json").read_text())
    write_json({**values, "complete": False}, index.folder / "manifest.json")
    with pytest.raises(ValueError, match="not all is embedded yet"):
        Index(index.folder)
    write_json(values, index.folder / "manifest.json")
    whole = (index.folder / "shard-000001.npy").read_bytes()
    for damaged in (b"nothing", whole[:-4], whole[:20], b""):
        (index.folder / "shard-000001.npy").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"shard-000001\.npy: not an array of numpy, or damaged"):
            Index(index.folder)
    write_json({"some": "file"}, index.folder / "manifest.json")
    with pytest.raises(ValueError, match=r"manifest\.json: not a manifest"):
        Index(index.folder)


def test_the_command(encoder, corpus, model, tmp_path, capsys):
    index = corpus(keep_texts=True, precision="ubinary", copy="float16")
    assert main(["search", *QUERIES, "--index", str(index.folder), "-k", "3", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.pop("query") for row in rows] == [QUERIES[0]] * 3 + [QUERIES[1]] * 3
    assert rows[:3] == index.search(encoder.encode_query(QUERIES), 3)[0]
    assert main(["search", "the cat", "--index", str(index.folder), "-k", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    other = write_encoder(tmp_path / "other", ("Pooling", {**MEAN, "pooling_mode_cls_token": True}))
    assert main(["search", "the cat", "--index", str(index.folder), "-m", str(other)]) == 1
    assert "the vectors are of another model" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["float32", "int8", "ubinary"])
def test_no_queries_find_nothing(corpus, precision):
    index = corpus(precision=precision)
    assert index.search(np.empty((0, index.width))) == []


@pytest.mark.parametrize("size", [2, 100])
def test_what_is_not_a_number_comes_last_not_first(size):
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    good = vectors[[0, 2, 3, 5, 6, 7, 8]]
    vectors[[1, 4]] = np.nan
    kept = [0, 2, 3, 5, 6, 7, 8]
    found = semantic_search(vectors[[0, 1]], vectors, corpus_chunk_size=size, top_k=8)
    assert places(found)[0][:7] == [kept[i] for i in places(semantic_search(good[:1], good))[0]]
    assert [np.isnan(hit["score"]) for hit in found[0]] == [False] * 7 + [True]
    assert all(np.isnan(hit["score"]) for hit in found[1])  # that query is none either
    pairs = paraphrase_mining_embeddings(vectors, corpus_chunk_size=size, top_k=1)
    expected = [[score, kept[i], kept[j]] for score, i, j in paraphrase_mining_embeddings(good, top_k=1)]
    assert [pair[1:] for pair in pairs] == [pair[1:] for pair in expected]


def test_a_damaged_vector_of_an_index_comes_last(encoder, corpus):
    index = corpus()
    shard = next(path for path in sorted(index.folder.glob("*.npy")) if np.load(path).ndim == 2)
    vectors = np.load(shard)
    vectors[3] = np.nan
    np.save(shard, vectors)
    found = Index(index.folder).search(encoder.encode(QUERIES), 250)
    for hits in found:
        assert [np.isnan(hit["score"]) for hit in hits] == [False] * 249 + [True]
        assert hits[-1]["corpus_id"] == 3


def test_queries_of_another_dtype_or_width(encoder, corpus):
    vectors = encoder.encode(TEXTS[:20])
    found = semantic_search(vectors[:2].astype(np.float64), vectors)
    assert places(found) == places(semantic_search(vectors[:2], vectors))
    with pytest.raises(ValueError, match="the queries are of width 31, and the corpus is of width 32"):
        semantic_search(vectors[:2, :31], vectors)
    index = corpus()
    for rows in (3, slice(0, 6, 2)):
        with pytest.raises(TypeError, match=r"index\[start:stop\]"):
            index[rows]
    with pytest.raises(IndexError, match="no place -1"):
        index.row(-1)


@pytest.mark.parametrize(
    "values",
    [
        *({"options": value} for value in (None, {}, {"precision": "float32"})),
        *({"model": value} for value in (3, {}, {"similarity": "zz"})),
        {"rows": None},
        {"rows": -1},
        {"shards": "a"},
        {"shards": -1},
        {"width": "x"},
    ],
    ids=str,
)
def test_a_damaged_manifest_is_named(corpus, values):
    folder = corpus().folder
    path = folder / "manifest.json"
    write_json({**json.loads(path.read_text()), **values}, path)
    with pytest.raises(ValueError, match=r"manifest\.json: damaged, or of another version"):
        Index(folder)


@pytest.mark.parametrize("file", ["shard-000001.npy", "shard-000000.float16.npy", "ranges.npy", "shard-000001.json"])
def test_a_file_that_is_missing_is_named_and_what_to_do(encoder, corpus, file):
    index = corpus(precision="int8", copy="float16")
    (index.folder / file).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"{file} is missing from a complete index: embed the corpus into anoth"
    ):
        Index(index.folder).search(encoder.encode(QUERIES), 250)


def test_an_index_of_no_vectors_is_valid_and_its_search_fails(model, tmp_path, capsys):
    (tmp_path / "empty.txt").touch()
    assert main(["embed-corpus", str(tmp_path / "empty.txt"), "-o", str(tmp_path / "out"), "-m", str(model)]) == 0
    assert "there is no text in these files" in capsys.readouterr().err
    assert Index(tmp_path / "out").search(np.ones((1, 32))) == [[]]
    assert main(["search", "a", "--index", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "out holds no vectors" in err


def test_ids_that_are_missing_are_named(encoder, corpus):
    index = corpus()
    (index.folder / "shard-000000.json").write_text('{"id": ["only one"]}')
    with pytest.raises(ValueError, match=r"shard-000000\.json: damaged"):
        index.search(encoder.encode(QUERIES), 250)
