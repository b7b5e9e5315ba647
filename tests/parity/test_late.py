"""MultiVectorEncoder against sentence-transformers' own, on its folders; PyLate's and Stanford's, by hand."""

import json
import string

import numpy as np
import pytest
import torch
import transformers
from helpers import MINILM, TINY, widen
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder as Theirs
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.multi_vector_encoder import losses
from sentence_transformers.multi_vector_encoder import modules as theirs
from sentence_transformers.multi_vector_encoder.scoring import mean_colbert_scores
from sentence_transformers.util.similarity import maxsim as their_maxsim
from tiny_folder import TEXTS, VOCABULARY, write_json, write_vocabulary
from tiny_training import make_texts
from torch import nn
from transformers import BertConfig, BertModel, get_linear_schedule_with_warmup

from minibert import HierarchicalTokenPooling, MultiVectorEncoder, TokenVectors
from minibert.retrieval.late import maxsim
from minibert.training import (
    Examples,
    LateDistillation,
    LateInBatchNegatives,
    LateMarginMSE,
    LateTask,
    Settings,
    train,
)
from minibert.training.examples import epoch

LONG = [*TEXTS, "the cat " * 30]
PUNCTUATION = list(string.punctuation)
TOKENS = {"module_input_name": "token_embeddings"}


def expansion(**options):
    return {"query_expansion": {"strategy": "fixed", "attend": False, "length": 12, **options}}


CASES = {
    "plain": {},
    "bias": {"bias": True},
    "tanh": {"activation": nn.Tanh()},
    "no normalisation": {"normalize": False},
    "no projection": {"widths": ()},
    "two projections": {"widths": (16, 8)},
    "prompts": {"prompts": {"query": "who is ", "document": "passage "}},
    "lengths": {"query_length": 7, "document_length": 9},
    "expansion": expansion(),
    "attended": expansion(attend=True),
    "at least": expansion(strategy="min", length=6),
    "at least, attended": {**expansion(strategy="min", length=6, attend=True), "query_length": 8},
    "another token": expansion(token="[PAD]"),
    "skip list": {"skip": PUNCTUATION},
    "skip list of both": {"skip": [".", ","], "mask": {"skiplist_tasks": ["query", "document"]}},
    "only some ids": {"mask": {"keep_only_token_ids": [2, 3, 70, 71, 80]}},
    "pooling": {"pooling": theirs.HierarchicalTokenPooling(2)},
    "pooling of both": {
        "pooling": theirs.HierarchicalTokenPooling(
            1.5, num_protected_tokens=0, normalize_embeddings=False, tasks=["query", "document"]
        )
    },
    "mean": {"measure": "meanmaxsim", **expansion()},
    "together": {
        **expansion(),
        "prompts": {"query": "query ", "document": "passage "},
        "skip": PUNCTUATION,
        "document_length": 20,
        "bias": True,
    },
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT with wide random weights, as transformers saves it."""
    folder = tmp_path_factory.mktemp("bert")
    config = {**TINY.to_dict(), "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    widen(BertModel(BertConfig(**config))).save_pretrained(folder)
    write_vocabulary(folder, config={"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    return folder


def save(bert, folder, *, widths=(8,), bias=False, activation=None, normalize=True, skip=(), mask=None, **rest):
    """A folder of sentence-transformers 6."""
    pooling, prompts, measure = (rest.pop(name, None) for name in ("pooling", "prompts", "measure"))
    parts, before = [Transformer(str(bert), **rest)], 32
    before = parts[0].get_embedding_dimension()
    for width in widths:
        dense = Dense(before, width, bias=bias, activation_function=activation or nn.Identity(), **TOKENS)
        parts.append(widen(dense))
        before = width
    parts.append(theirs.MultiVectorMask(skiplist_words=list(skip), **(mask or {})))
    parts += [Normalize(**TOKENS)] if normalize else []
    parts += [pooling] if pooling else []
    model = Theirs(modules=parts, prompts=prompts, device="cpu", similarity_fn_name=measure)
    model.save(str(folder), create_model_card=False)
    return folder


def assert_same(mine, reference, below=1e-10):
    assert len(mine) == len(reference) > 0
    for x, y in zip(mine, reference, strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        assert (x - y).abs().max() < below


METHODS = ("encode", "encode_query", "encode_document")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fast", [None, False])
def test_every_option(bert, tmp_path, name, fast):
    folder = save(bert, tmp_path / "theirs", **CASES[name])
    reference = Theirs(str(folder), device="cpu").double()
    ours = MultiVectorEncoder.from_pretrained(folder, device="cpu", dtype="float64", truncation="silent", fast=fast)
    for method in METHODS:
        for options in ({}, {"normalize_embeddings": True}):
            assert_same(getattr(ours, method)(LONG, **options), getattr(reference, method)(LONG, **options))
    assert_same([ours.encode_query(text) for text in LONG], reference.encode_query(LONG))
    both = HierarchicalTokenPooling(2), theirs.HierarchicalTokenPooling(2)
    mine, their = (x.encode_document(LONG, token_pooling=y) for x, y in zip((ours, reference), both, strict=True))
    assert_same(mine, their)
    queries, documents = reference.encode_query(LONG), reference.encode_document(LONG)
    scores = reference.similarity(queries, documents).double()  # each of the highest was rounded to float32
    assert torch.allclose(ours.similarity(queries, documents), scores, rtol=1e-5)
    pairs = reference.similarity_pairwise(queries, documents).double()
    assert torch.allclose(ours.similarity_pairwise(queries, documents), pairs, rtol=1e-5)
    ours.save_pretrained(tmp_path / "ours")
    again = Theirs(str(tmp_path / "ours"), device="cpu").double()
    for method in METHODS:
        assert_same(getattr(again, method)(LONG), getattr(reference, method)(LONG))
    assert again.similarity_fn_name == reference.similarity_fn_name


@pytest.mark.parametrize("normalize", [True, False])  # unnormalised, many distances are equal
@pytest.mark.parametrize("factor", [1, 1.5, 2, 3, 200])
def test_token_pooling_of_random_vectors(normalize, factor):
    for seed in range(40):
        random = torch.Generator().manual_seed(seed)
        x = torch.randn(int(torch.randint(0, 60, (1,), generator=random)), 2 + 6 * (seed % 2), generator=random)
        x = nn.functional.normalize(x, dim=-1) if normalize else x
        for options in ({}, {"num_protected_tokens": 3, "normalize_embeddings": False}):
            mine = HierarchicalTokenPooling(factor, **options).pool_one(x)
            reference = theirs.HierarchicalTokenPooling(factor, **options).pool_one(x)
            assert mine.shape == reference.shape
            assert torch.allclose(mine, reference, atol=1e-6)


def test_scores_of_every_form():
    random = torch.Generator().manual_seed(0)
    queries, documents = ([torch.randn(n, 5, generator=random) for n in sizes] for sizes in ([3, 1, 9], [4, 0, 11, 2]))
    scores = their_maxsim(queries, documents)
    padded = nn.utils.rnn.pad_sequence(documents, batch_first=True)
    for form in (documents, TokenVectors.of(documents), padded, padded.numpy(), [x.numpy() for x in documents]):
        assert torch.allclose(maxsim(queries, form), scores, rtol=1e-5)
    assert torch.allclose(maxsim(queries[0], documents[0]), scores[:1, :1], rtol=1e-5)


def write_colbert(folder, words=("[unused0]", "[unused1]"), prefix="", **tensors):
    """The BERT of PyLate's and of Stanford's folders: its vocabulary ends with the markers."""
    config = BertConfig(**{**TINY.to_dict(), "vocab_size": len(VOCABULARY) + len(words)})
    model = widen(BertModel(config, add_pooling_layer=False))
    weights = {prefix + name: value for name, value in model.state_dict().items()} | tensors
    kind = "HF_ColBERT" if prefix else "BertModel"
    write_json(folder, "config.json", {**config.to_dict(), "architectures": [kind], "model_type": "bert"})
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_vocabulary(folder, [*VOCABULARY, *words], {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    return model.double().eval()


def direct(model, projection, text, marker, *, length, query, attend=False, skip=PUNCTUATION):
    """ColBERT as its paper has it: [CLS], the marker, the text, [SEP]; queries filled up with [MASK]."""
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(VOCABULARY)}, do_lower_case=True)
    ids = tokenizer(text, truncation=True, max_length=length - 1)["input_ids"]
    ids = [ids[0], len(VOCABULARY) + marker, *ids[1:]]
    mask = [1] * len(ids)
    if query:
        mask += [int(attend)] * (length - len(ids))
        ids += [tokenizer.mask_token_id] * (length - len(ids))
    with torch.no_grad():
        x = model(torch.tensor([ids]), torch.tensor([mask])).last_hidden_state[0] @ projection.double().T
    x = nn.functional.normalize(x, dim=-1)
    skipped = [VOCABULARY.index(word) for word in skip if word in VOCABULARY]
    return x if query else x[[i not in skipped for i in ids]]


@pytest.mark.parametrize("attend", [False, True])
def test_stanfords_form(tmp_path, attend):
    projection = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    model = write_colbert(tmp_path, prefix="bert.", **{"linear.weight": projection})
    names = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 12, "doc_maxlen": 20}
    values = {**names, "dim": 8, "similarity": "cosine", "mask_punctuation": True, "attend_to_mask_tokens": attend}
    (tmp_path / "artifact.metadata").write_text(json.dumps(values))
    ours = MultiVectorEncoder.from_pretrained(tmp_path, device="cpu", dtype="float64", truncation="silent")
    rows = [direct(model, projection, text, 0, length=12, query=True, attend=attend) for text in LONG]
    assert_same(ours.encode_query(LONG), rows)
    documents = [direct(model, projection, text, 1, length=20, query=False) for text in LONG]
    assert_same(ours.encode_document(LONG), documents)
    reference = Theirs(str(tmp_path), device="cpu").double()
    assert_same(ours.encode_query(LONG), reference.encode_query(LONG))
    assert_same(ours.encode_document(LONG), reference.encode_document(LONG))
    assert "linear.weight" in ours.report.known_harmless
    ours.save_pretrained(tmp_path / "ours")
    again = Theirs(str(tmp_path / "ours"), device="cpu").double()
    assert_same(again.encode_query(LONG), rows)
    assert_same(again.encode_document(LONG), documents)


PYLATE = {
    "plain": {},
    "attended": {"attend_to_expansion_tokens": True},
    "no expansion": {"do_query_expansion": False},
    "another skip list": {"skiplist_words": ["cat"]},
    "no skip list": {"skiplist_words": []},
}


@pytest.mark.parametrize("name", PYLATE)
@pytest.mark.parametrize("model_type", ["ColBERT", None])
def test_pylates_form(tmp_path, name, model_type):
    model = write_colbert(tmp_path, ("[Q] ", "[D] "))
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY))
    added = {"special": False, "lstrip": False, "rstrip": False, "single_word": False, "normalized": True}
    markers = {str(len(VOCABULARY) + i): {"content": word, **added} for i, word in enumerate(("[Q] ", "[D] "))}
    write_json(
        tmp_path,
        "tokenizer_config.json",
        {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "added_tokens_decoder": markers},
    )
    projection = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    (tmp_path / "1_Dense").mkdir()
    identity = "torch.nn.modules.linear.Identity"
    values = {"in_features": 32, "out_features": 8, "bias": False, "activation_function": identity}
    write_json(tmp_path, "1_Dense/config.json", values)
    save_file({"linear.weight": projection}, tmp_path / "1_Dense/model.safetensors")
    rows = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    write_json(tmp_path, "modules.json", rows)
    write_json(tmp_path, "sentence_bert_config.json", {"max_seq_length": 19, "do_lower_case": False})
    said = {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 12, "document_length": 20}
    said |= {"attend_to_expansion_tokens": False, "skiplist_words": PUNCTUATION, "do_query_expansion": True}
    said |= {"similarity_fn_name": "MaxSim", "prompts": {}, **PYLATE[name]}
    write_json(tmp_path, "config_sentence_transformers.json", said | ({"model_type": model_type} if model_type else {}))
    ours = MultiVectorEncoder.from_pretrained(tmp_path, device="cpu", dtype="float64", truncation="silent")
    if said["do_query_expansion"]:
        options = {"length": 12, "query": True, "attend": said["attend_to_expansion_tokens"]}
    else:
        options = {"length": 12, "query": False, "skip": []}
    assert_same(ours.encode_query(LONG), [direct(model, projection, text, 0, **options) for text in LONG])
    options = {"length": 20, "query": False, "skip": said["skiplist_words"]}
    assert_same(ours.encode_document(LONG), [direct(model, projection, text, 1, **options) for text in LONG])


def test_real_weights(tmp_path):
    options = {"widths": (128,), "skip": PUNCTUATION, **expansion(length=32)}
    prompts = {"query": "[unused0] ", "document": "[unused1] "}
    folder = save(MINILM, tmp_path, prompts=prompts, document_length=180, **options)
    lines = [line for line in (MINILM / "README.md").read_text(encoding="utf-8").splitlines() if line][:64]
    reference = Theirs(str(folder), device="cpu")
    ours = MultiVectorEncoder.from_pretrained(folder, device="cpu", truncation="silent")
    queries, documents = ours.encode_query(lines), ours.encode_document(lines)
    assert_same(queries, reference.encode_query(lines), 1e-5)
    assert_same(documents, reference.encode_document(lines), 1e-5)
    scores = reference.similarity(queries, documents)
    assert torch.allclose(ours.similarity(queries, documents), scores, rtol=1e-5)


ROWS = 48
SETTINGS = Settings(epochs=5, batch_size=8, learning_rate=1e-3, weight_decay=0.1, seed=3)  # 30 steps
DIFFERENT = list(dict.fromkeys(make_texts(6 * ROWS)))
COLUMNS = [DIFFERENT[i * ROWS : (i + 1) * ROWS] for i in range(3)]
SCORES = torch.randn(ROWS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OBJECTIVES = {
    "contrastive": (LateInBatchNegatives, losses.MultiVectorMultipleNegativesRankingLoss, None),
    "contrastive mean": (
        lambda: LateInBatchNegatives(8.0, mean=True),
        lambda model: losses.MultiVectorMultipleNegativesRankingLoss(
            model, scale=8.0, similarity_fct=mean_colbert_scores
        ),
        None,
    ),
    "distillation": (LateDistillation, losses.MultiVectorDistillKLDivLoss, SCORES),
    "distillation at temperatures": (
        lambda: LateDistillation(2.0, teacher_temperature=0.5),
        lambda model: losses.MultiVectorDistillKLDivLoss(model, temperature=2.0, teacher_temperature=0.5),
        SCORES,
    ),
    "margins of scores": (LateMarginMSE, losses.MultiVectorMarginMSELoss, SCORES),
    "margins": (LateMarginMSE, losses.MultiVectorMarginMSELoss, SCORES[:, 0]),
}


def their_curve(folder, make_loss, labels, settings=SETTINGS):
    """A plain loop: AdamW with transformers' schedule, and the features that `encode_query` and its twin make."""
    model = Theirs(str(folder), device="cpu").double()
    loss = make_loss(model)
    tasks = ["query", "document", "document"]
    sides = [
        [model.preprocess([text], prompt=model.prompts[task], task=task)["input_ids"].shape[1] for text in column]
        for column, task in zip(COLUMNS, tasks, strict=True)
    ]
    named = dict(loss.named_parameters()).items()
    plain = [value for name, value in named if "bias" in name or "LayerNorm" in name]
    decayed = [value for name, value in named if "bias" not in name and "LayerNorm" not in name]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    batches = [
        rows
        for number in range(int(settings.epochs))
        for rows in epoch(np.sum(sides, axis=0), settings.batch_size, seed=settings.seed, number=number, by_length=True)
    ]
    schedule = get_linear_schedule_with_warmup(optimizer, int(np.ceil(0.1 * len(batches))), len(batches))
    curve = []
    for rows in batches:
        features = [
            model.preprocess([column[row] for row in rows], prompt=model.prompts[task], task=task) | {"task": task}
            for column, task in zip(COLUMNS, tasks, strict=True)
        ]
        value = loss(features, None if labels is None else labels[torch.from_numpy(rows)])
        value.backward()
        torch.nn.utils.clip_grad_norm_(loss.parameters(), settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        curve.append(value.item())
    return curve


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_the_loss_curve_is_theirs(bert, tmp_path, name, chunk_size):
    objective, make_loss, labels = OBJECTIVES[name]
    folder = save(bert, tmp_path, **CASES["together"])
    encoder = MultiVectorEncoder.from_pretrained(folder, device="cpu", dtype="float64", truncation="silent")
    task = LateTask(encoder, objective(), Examples(COLUMNS, labels), chunk_size=chunk_size)
    ours = [record["loss"] for record in train(task, SETTINGS)]
    reference = their_curve(folder, make_loss, labels)
    assert len(ours) == len(reference) >= 30
    assert np.abs(np.subtract(ours, reference)).max() < 1e-5 * max(1, np.abs(reference).max())
