"""Encoders in other libraries, each tried with the library itself. What is not installed is skipped, and named.

`pip install -e ".[test,adapters]"` installs all.
"""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from documents import DOCS, blocks, run

from minibert import SentenceEncoder

os.environ.update(HAYSTACK_TELEMETRY_ENABLED="False", ANONYMIZED_TELEMETRY="False")
pytestmark = pytest.mark.filterwarnings("default")  # of the libraries

TEXTS = ["a man is eating food", "the cat sleeps", "it rains in the town"]
PROMPTS = {"query": "what is asked: ", "document": "what is known: "}


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """A folder whose queries and documents have prompts, and its encoder."""
    folder = tmp_path_factory.mktemp("models") / "prompted"
    SentenceEncoder.from_pretrained(prompts=PROMPTS).save_pretrained(folder)
    return str(folder), SentenceEncoder.from_pretrained(folder)


@pytest.fixture
def changed():
    """An encoder whose name would bring other vectors."""
    encoder = SentenceEncoder.from_pretrained()
    with torch.no_grad():
        encoder.model.layers[0].feed_forward.up.weight += 0.1
    return encoder


def close(a, b):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-5)


def test_langchain(prompted, changed):
    pytest.importorskip("langchain_core")
    from langchain_core.load import dumps, loads
    from langchain_core.messages import HumanMessage

    from minibert.adapters.langchain import MinibertEmbeddings

    folder, same = prompted
    ours = MinibertEmbeddings(model_name=folder, encode_kwargs={"truncate_dim": 8})
    close(ours.embed_query(TEXTS[0]), same.encode_query(TEXTS[0], truncate_dim=8))
    close(ours.embed_documents(TEXTS), same.encode_document(TEXTS, truncate_dim=8))
    again = loads(dumps(ours), valid_namespaces=["minibert"], allowed_objects=[MinibertEmbeddings])
    assert again.embed_query("x") == ours.embed_query("x")
    close(pickle.loads(pickle.dumps(MinibertEmbeddings(same))).embed_query("x"), same.encode_query("x"))
    with pytest.raises(ValueError, match="no name brings this encoder"):
        dumps(MinibertEmbeddings(changed))
    assert ours.embed_documents([]) == []
    for odd in (None, 3, HumanMessage("x"), ["x"]):
        with pytest.raises(TypeError, match="expected one text"):
            ours.embed_query(odd)
    for odd in (None, [None], [3], [HumanMessage("x")]):
        with pytest.raises(TypeError, match=r"text 0 is|a list of texts, not NoneType"):
            ours.embed_documents(odd)
    with pytest.raises(TypeError, match="a list of texts"):
        ours.embed_documents("x")


def test_langchains_own_tests():
    pytest.importorskip("langchain_tests")
    code = """
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from minibert.adapters.langchain import MinibertEmbeddings


class TestUnit(EmbeddingsUnitTests):
    embeddings_class = MinibertEmbeddings


class TestIntegration(EmbeddingsIntegrationTests):
    embeddings_class = MinibertEmbeddings
"""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:  # in a process of its own: its plugins are not meant for other tests
        path = os.path.join(folder, "test_own.py")
        with open(path, "w") as file:
            file.write(code)
        command = [sys.executable, "-m", "pytest", "-q", "--asyncio-mode=auto", "-p", "no:cacheprovider", path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (str(DOCS.parent), *sys.path) if p)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert "8 passed" in done.stdout, done.stdout + done.stderr


def test_llama_index(prompted, changed):
    core = pytest.importorskip("llama_index.core")
    from llama_index.core.schema import TextNode

    from minibert.adapters.llama_index import MinibertEmbedding

    folder, same = prompted
    ours = MinibertEmbedding(folder, encode_kwargs={"normalize_embeddings": True})
    close(ours.get_query_embedding(TEXTS[0]), same.encode_query(TEXTS[0], normalize_embeddings=True))
    close(ours.get_text_embedding_batch(TEXTS), same.encode_document(TEXTS, normalize_embeddings=True))
    assert MinibertEmbedding.from_json(ours.to_json()).get_query_embedding("x") == ours.get_query_embedding("x")
    index = core.VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=ours)
    assert index.as_retriever(similarity_top_k=1).retrieve("who eats")[0].text == TEXTS[0]
    for name in ("model_kwargs", "encode_kwargs"):
        with pytest.raises(TypeError, match=f"{name} must be a dict of keywords, not 3"):
            MinibertEmbedding(**{name: 3})
    ready = MinibertEmbedding(changed)
    close(pickle.loads(pickle.dumps(ready)).get_text_embedding("x"), changed.encode_document("x"))
    with pytest.raises(ValueError, match="no name brings this encoder"):
        ready.to_json()
    assert ours.get_text_embedding_batch([]) == []
    for odd in (None, 3, TextNode(text="x")):
        with pytest.raises(TypeError, match="expected one text"):
            ours.get_query_embedding(odd)
        with pytest.raises(TypeError, match="text 0 is"):
            ours.get_text_embedding_batch([odd])
    for odd in (None, "two"):
        with pytest.raises(TypeError, match="a list of texts"):
            ours.get_text_embedding_batch(odd)
    with pytest.raises(ValueError, match="modle"):
        MinibertEmbedding(modle="x")


def test_haystack(prompted, changed):
    haystack = pytest.importorskip("haystack")
    from minibert.adapters.haystack import MinibertDocumentEmbedder, MinibertTextEmbedder

    folder, same = prompted
    pipeline = haystack.Pipeline()
    pipeline.add_component("text", MinibertTextEmbedder(folder, truncate_dim=8))
    pipeline.add_component("documents", MinibertDocumentEmbedder(folder, meta_fields_to_embed=["title"], prefix="> "))
    given = [haystack.Document(content="x", meta={"title": "Food", "year": 3}), haystack.Document(content="y")]
    data = {"text": {"text": "x"}, "documents": {"documents": given}}
    found = pipeline.run(data)
    assert found == haystack.Pipeline.loads(pipeline.dumps(), allowed_modules=["minibert.adapters.haystack"]).run(data)
    close(found["text"]["embedding"], same.encode_query("x", truncate_dim=8))
    close([one.embedding for one in found["documents"]["documents"]], same.encode_document(["> Food\nx", "> y"]))
    assert given[0].embedding is None
    with pytest.raises(ValueError, match="no name brings this encoder"):
        MinibertTextEmbedder(changed).to_dict()
    with pytest.raises(TypeError, match="must be a list of names, not 'title'"):
        MinibertDocumentEmbedder(changed, meta_fields_to_embed="title")
    for odd in (3, [3], {"title": 1}):
        with pytest.raises(TypeError, match="meta_fields_to_embed must be a list of names"):
            MinibertDocumentEmbedder(changed, meta_fields_to_embed=odd)
    for kind in (MinibertTextEmbedder, MinibertDocumentEmbedder):
        for name, odd in (("prefix", None), ("suffix", None), ("prefix", 3)):
            with pytest.raises(TypeError, match=f"{name} must be a string, not {odd}"):
                kind(changed, **{name: odd})
        for name in ("model_kwargs", "encode_kwargs"):
            with pytest.raises(TypeError, match=f"{name} must be a dict of keywords, not 3"):
                kind(changed, **{name: 3})
        with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1, not '3'"):
            kind(changed, batch_size="3")
        with pytest.raises(TypeError, match=f"{kind.__name__} got an unexpected keyword: normalise"):
            kind(changed, normalise=True)
    with pytest.raises(TypeError, match="embedding_separator must be a string, not None"):
        MinibertDocumentEmbedder(changed, embedding_separator=None)
    embedder = MinibertDocumentEmbedder(changed, meta_fields_to_embed=["title"])
    assert embedder.run([]) == {"documents": []}
    with pytest.raises(ValueError, match="has no text to embed"):
        embedder.run([haystack.Document(meta={"year": 3})])
    for odd in (None, "x", [None], ["x"]):
        with pytest.raises(TypeError, match="list of Documents"):
            embedder.run(odd)
    for odd in (None, 3, ["x"]):
        with pytest.raises(TypeError, match="expected one text"):
            MinibertTextEmbedder(changed).run(odd)


def test_chroma_opens_a_collection_by_name(prompted, changed, tmp_path):
    chromadb = pytest.importorskip("chromadb")
    from minibert.adapters.chroma import MinibertEmbeddingFunction

    folder, same = prompted
    client = chromadb.PersistentClient(str(tmp_path))
    function = MinibertEmbeddingFunction(folder, normalize_embeddings=True)
    client.create_collection("texts", embedding_function=function).add(ids=["0", "1", "2"], documents=TEXTS)
    code = f"""
import chromadb, minibert.adapters.chroma
collection = chromadb.PersistentClient({str(tmp_path)!r}).get_collection("texts")
print(collection.query(query_texts=["who eats"], n_results=1)["ids"], collection.configuration["hnsw"]["space"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[['0']] cosine"
    close(function.embed_query(["x"])[0], same.encode_query("x", normalize_embeddings=True))
    close(function(["x"])[0], same.encode_document("x", normalize_embeddings=True))
    with pytest.raises(ValueError, match="no name brings this encoder"):
        MinibertEmbeddingFunction(changed)
    for odd in ([None], [3], "x", None):
        with pytest.raises(TypeError, match=r"text 0 is|a list of texts"):
            function(odd)
    with pytest.raises(TypeError, match="a name, a folder or a SentenceEncoder, not int"):
        MinibertEmbeddingFunction(3)
    for name in ("model_kwargs", "encode_kwargs"):
        with pytest.raises(TypeError, match=f"{name} must be a dict of keywords, not 3"):
            MinibertEmbeddingFunction(**{name: 3})


def test_sklearn(prompted):
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline

    from minibert.adapters.sklearn import MinibertTransformer

    folder, same = prompted
    ours = MinibertTransformer(folder, truncate_dim=8)
    close(clone(ours).fit_transform(TEXTS), same.encode_document(TEXTS, truncate_dim=8))
    assert list(ours.get_feature_names_out())[::7] == ["minibert0", "minibert7"]
    assert len(pickle.dumps(ours)) < 1000
    pipeline = Pipeline([("embed", ours), ("classify", LogisticRegression())])
    grid = {"embed__truncate_dim": [4, None], "embed__normalize_embeddings": [True, False]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(TEXTS * 4, [0, 1, 1] * 4)
    assert search.best_score_ == 1
    for odd in ([None], [3], [["x"]]):
        with pytest.raises(TypeError, match="text 0 is"):
            ours.transform(odd)
    with pytest.raises(TypeError, match="a list of texts"):
        ours.transform("x")
    assert ours.transform([]).shape == (0, 8)


def test_a_grid_search_pickles_an_encoder_once(changed, monkeypatch):
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline

    from minibert.adapters.sklearn import MinibertTransformer

    times, state = [], SentenceEncoder.__getstate__
    monkeypatch.setattr(SentenceEncoder, "__getstate__", lambda self: [times.append(1), state(self)][1])
    ours = MinibertTransformer(changed)
    pipeline = make_pipeline(ours, LogisticRegression(C=100))
    assert cross_val_score(pipeline, TEXTS * 4, [0, 1, 1] * 4, cv=4, n_jobs=2).tolist() == [1, 1, 1, 1]
    assert len(times) == 1
    close(pickle.loads(pickle.dumps(ours)).transform(TEXTS), changed.encode_document(TEXTS))
    assert len(times) == 1
    assert ours.model is changed
    with torch.no_grad():
        changed.model.layers[0].feed_forward.up.weight -= 0.1
    close(pickle.loads(pickle.dumps(ours)).transform(TEXTS), changed.encode_document(TEXTS))
    assert len(times) == 2
    changed.truncate_dim = 4
    assert pickle.loads(pickle.dumps(ours)).transform(TEXTS).shape == (3, 4)


@pytest.mark.parametrize("library", ["keybert", "bertopic"])
def test_a_backend_is_used(library, prompted):
    pytest.importorskip(library)
    from importlib import import_module

    folder, same = prompted
    backend = import_module(f"minibert.adapters.{library}").MinibertBackend(folder, normalize_embeddings=True)
    assert import_module(f"{library}.backend._utils").select_backend(backend) is backend
    close(backend.embed(np.array(TEXTS)), same.encode_document(TEXTS, normalize_embeddings=True))
    with pytest.raises(TypeError, match="text 0 is"):
        backend.embed([None])


def test_keybert(encoder):
    keybert = pytest.importorskip("keybert")
    from minibert.adapters.keybert import MinibertBackend

    found = keybert.KeyBERT(MinibertBackend(encoder)).extract_keywords("a man is eating food in the town", top_n=2)
    expected = encoder.similarity(encoder.encode([found[0][0]]), encoder.encode(["a man is eating food in the town"]))
    assert found[0][1] == pytest.approx(expected.item(), abs=1e-3)


def test_bertopic(encoder):
    bertopic = pytest.importorskip("bertopic")
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    from minibert.adapters.bertopic import MinibertBackend

    options = {"umap_model": PCA(2), "hdbscan_model": KMeans(2, random_state=0)}
    model = bertopic.BERTopic(embedding_model=MinibertBackend(encoder), **options)
    texts = [
        f"{who} {what}" for what in ("is eating some food", "drives a fast car") for who in ("he", "she", "a man") * 4
    ]
    topics, _ = model.fit_transform(texts)
    assert len(set(topics[:12])) == len(set(topics[12:])) == 1
    assert topics[0] != topics[-1]


def test_mtebs_wrapper_gives_the_score_of_the_evaluator(encoder):
    mteb = pytest.importorskip("mteb")
    datasets = pytest.importorskip("datasets")
    from mteb.abstasks.sts import AbsTaskSTS

    from minibert.training.evaluate import STSEvaluator
    from minibert.training.examples import Examples

    first, second = TEXTS * 2, [*TEXTS[1:], TEXTS[0], "somebody eats", "a cat is asleep", "rain is falling"][:6]
    scores = [0.1, 0.4, 0.2, 4.5, 4.0, 5.0]
    benchmark = mteb.get_task("STSBenchmark")

    class Local(AbsTaskSTS):
        metadata = benchmark.metadata
        min_score, max_score = 0, 5

        def load_data(self, **_):
            rows = {"sentence1": first, "sentence2": second, "score": scores}
            self.dataset, self.data_loaded = {"test": datasets.Dataset.from_dict(rows)}, True

    wrapper = mteb.models.SentenceTransformerEncoderWrapper(encoder)
    assert isinstance(wrapper, mteb.models.EncoderProtocol)
    assert wrapper.mteb_model_meta.revision == encoder.model_card_data.base_model_revision  # its cache goes by it
    result = mteb.evaluate(wrapper, Local(), cache=None, co2_tracker=False)
    found = result.task_results[0].scores["test"][0]
    expected = STSEvaluator(Examples([first, second], torch.tensor(scores)))(encoder)
    assert found["cosine_spearman"] == pytest.approx(expected["spearman"], abs=1e-6)
    assert found["cosine_pearson"] == pytest.approx(expected["pearson"], abs=1e-5)


def test_hard_negatives_are_mined(encoder):
    datasets = pytest.importorskip("datasets")
    util = pytest.importorskip("sentence_transformers.util")
    pairs = {"anchor": TEXTS, "positive": ["someone has food", "a cat is asleep", "rain is falling"]}
    for more in ({}, {"use_multi_process": ["cpu", "cpu"]}, {"query_prompt": "query: ", "corpus_prompt": "passage: "}):
        options = {"num_negatives": 1, "verbose": False, **more}
        found = util.mine_hard_negatives(datasets.Dataset.from_dict(pairs), encoder, **options)
        assert all(row["negative"] in set(pairs["positive"]) - {row["positive"]} for row in found)
        assert len(found) == 3


@pytest.mark.parametrize("code", [code for code, _ in blocks((DOCS / "adapters.md").read_text(encoding="utf-8"))])
def test_the_pages_blocks_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in code.splitlines():
        if line.startswith(("import ", "from ")) and not line.startswith("from minibert"):
            pytest.importorskip(line.split()[1].split(".")[0])
    run(code, {}, DOCS / "adapters.md")
