"""The stack for GPUs: what is chosen, packing and graphs on the CPU, shapes and devices on fakes; on a GPU all."""

import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from cuda_helpers import FakeCard, gpu, stack_of, varlen
from fast_helpers import fast_layers, padded, random_tokens
from helpers import TINY, widen
from tiny_folder import MEAN, TEXTS, write_cross_encoder, write_encoder
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from minibert import (
    Bert,
    BertConfig,
    BertForMaskedLM,
    CrossEncoder,
    MultiVectorEncoder,
    SentenceEncoder,
    SparseEncoder,
    call,
)
from minibert.batches import GPU_OVERHEAD, GPU_TOKENS, plan
from minibert.checkpoint.colbert import LateModules, QueryExpansion
from minibert.checkpoint.sparse_encoders import SparseModules
from minibert.cuda import stack as cuda_stack
from minibert.cuda.graphs import WARM
from minibert.cuda.stack import CudaLayer, CudaStack, differs, try_out
from minibert.cuda.tokens import CudaTokens, bucket, suits_varlen
from minibert.pooling import POOLINGS, Dense, Normalize, Pooling, SpladePooling
from minibert.tokenizer import Tokens
from minibert.truncation import TruncationReport

LENGTHS = [(7,), (1,), (5, 5, 5), (9, 1, 4, 9), (3, 0, 6), (0, 4), (4, 0), (40, 2, 17)]
BOTH = pytest.mark.parametrize("attend_packed", [True, False], ids=["packed", "padded"])
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder"), ("Pooling", MEAN))


@pytest.fixture
def encoder(folder):
    return SentenceEncoder.from_pretrained(folder, device="cpu")


# --- what is chosen


@pytest.mark.parametrize(
    ("dtype", "head_size", "capability", "suits"),
    [
        (torch.float16, 64, (8, 0), True),
        (torch.bfloat16, 32, (9, 0), True),
        (torch.float16, 256, (12, 0), True),
        (torch.float16, 8, (8, 6), True),
        (torch.float16, 264, (9, 0), False),
        (torch.float16, 20, (9, 0), False),
        (torch.float16, 64, (7, 5), False),
        (torch.float32, 64, (9, 0), False),
        (torch.float64, 64, (9, 0), False),
    ],
)
def test_torchs_operator_is_for_half_precision_on_ampere_and_later(dtype, head_size, capability, suits):
    assert suits_varlen(dtype, head_size, capability) is suits


def test_a_bucket_is_little_larger_than_its_texts():
    sizes = [bucket(count) for count in range(1, 513)]
    assert all(count <= size <= max(16, 1.25 * count) for count, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) <= 24


def test_a_gpu_has_few_large_batches():
    lengths = np.random.default_rng(0).integers(4, 100, 4000)
    options = {"max_texts": None, "workers": 1, "alone": False, "on_gpu": True}
    for padding, most in (("free", GPU_TOKENS), ("costs", GPU_TOKENS + 4000 * 100 / GPU_OVERHEAD)):
        batches = plan(lengths, BertConfig(), padding=padding, **options)
        assert sorted(np.concatenate(batches)) == list(range(4000))
        assert len(batches) <= 12
        assert max(lengths[rows].sum() for rows in batches) <= most
    (one,) = plan(lengths[:300], BertConfig(), padding="free", **options)
    assert len(one) == 300


# --- packing


@BOTH
@pytest.mark.parametrize("first_only", [False, True], ids=["all", "first"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-10), (torch.float32, 2e-5)], ids=str)
def test_states_are_the_pages(lengths, first_only, attend_packed, dtype, most):
    bert = widen(Bert(TINY)).to(dtype).eval()
    tokens, rows = random_tokens(lengths), np.arange(len(lengths))[::-1].copy()
    with gpu(), torch.inference_mode():
        stack = stack_of(bert, attend_packed=attend_packed)
        for _ in range(WARM + 2):
            x, mask = stack.compute(tokens, rows, first_only=first_only)
            expected = bert(**padded(tokens)).last_hidden_state[rows.copy()]
            real = torch.from_numpy(np.arange(max(lengths)) < tokens.lengths[rows, None])
            if first_only:
                expected, real = expected[:, :1], real[:, :1]
            assert x.shape == expected.shape
            assert mask is None or torch.equal(mask, real)
            assert real.all() or mask is not None
            assert (x - expected)[real].abs().max() < most
            assert x.isfinite().all()


@BOTH
def test_tokens_that_are_not_attended_to(attend_packed):
    bert = widen(Bert(TINY)).double().eval()
    tokens = replace(random_tokens((6, 9, 6, 9)), seen=np.array([2, 9, 6, 4]))
    keep = torch.arange(9) < torch.from_numpy(tokens.seen)[:, None]
    with gpu(), torch.inference_mode():
        stack = stack_of(bert, attend_packed=attend_packed)
        expected = bert(**{**padded(tokens), "attention_mask": keep}).last_hidden_state
        for rows in (np.arange(4), *np.arange(4)[:, None]):
            x, _ = stack.compute(tokens, rows, first_only=False)
            for row, states in zip(rows, x, strict=True):
                length = tokens.lengths[row]
                assert (states[:length] - expected[row, :length]).abs().max() < 1e-10


@BOTH
def test_nan_stays_in_its_own_text(attend_packed):
    bert = widen(Bert(TINY)).eval()
    tokens = random_tokens((5, 9, 3))
    with torch.no_grad():
        bert.embeddings.token.weight[tokens.ids[4]] = torch.nan
    has = [bool((ids == tokens.ids[4]).any()) for ids in np.split(tokens.ids, tokens.starts[1:-1])]
    assert has == [True, False, False]
    with gpu(), torch.inference_mode():
        x, mask = stack_of(bert, attend_packed=attend_packed).compute(tokens, np.arange(3), first_only=False)
    assert [bool(states[real].isnan().any()) for states, real in zip(x, mask, strict=True)] == has


# --- encode


@pytest.mark.parametrize("operator", [varlen, None], ids=["packed", "padded"])
@pytest.mark.parametrize("pooling", [*POOLINGS, ["mean", "max"]], ids=str)
def test_every_pooling_equals_the_page(encoder, pooling, operator):
    encoder.pooling = Pooling(pooling).eval()
    expected = encoder.encode(TEXTS, fast=False)
    with gpu(operator=operator), fast_layers(encoder) as calls:
        assert abs(encoder.encode(TEXTS, fast=True) - expected).max() < 1e-5
        assert calls[-1] == (encoder.model.layers[1], pooling == "cls")
        for _ in range(WARM + 2):
            alone = np.stack([encoder.encode(text, fast=True) for text in TEXTS])
            assert abs(alone - expected).max() < 1e-5
        assert "page" not in encoder.explain()


@pytest.mark.parametrize("options", [{"output_value": "token_embeddings"}, {"batch_invariant": True}], ids=str)
def test_options_are_as_on_the_page(encoder, options):
    expected = encoder.encode(TEXTS * 3, fast=False, **options)
    with gpu():
        found = encoder.encode(TEXTS * 3, fast=True, **options)
        again = encoder.encode(TEXTS[2], fast=True, **options)
    assert all(abs(np.asarray(a) - np.asarray(b)).max() < 1e-5 for a, b in zip(found, expected, strict=True))
    if "batch_invariant" in options:
        assert np.array_equal(found[2], again)  # by a graph, or not


def test_other_encoders_equal_the_page(tmp_path, encoder):
    cross = CrossEncoder.from_pretrained(write_cross_encoder(tmp_path), device="cpu")
    bert = widen(BertForMaskedLM(TINY)).eval()
    sparse = SparseEncoder(bert, encoder.tokenizer, SparseModules(pooling=SpladePooling()))
    after = [widen(Dense(TINY.hidden_size, 8, bias=False, activation="Identity")), Normalize()]
    modules = LateModules(after=after, query_expansion=QueryExpansion(12))
    late = MultiVectorEncoder(encoder.model, encoder.tokenizer, modules, truncation="silent")
    pairs = list(zip(TEXTS, TEXTS[::-1], strict=True))
    calls = (
        lambda **options: cross.predict(pairs, **options),
        lambda **options: [cross.predict(pairs[:1], **options) for _ in range(4)],
        lambda **options: sparse.encode(TEXTS, convert_to_sparse_tensor=False, **options),
        lambda **options: torch.cat(late.encode_query(TEXTS, **options)),
        lambda **options: torch.cat(late.encode_document(TEXTS, **options)),
    )
    for call_it in calls:
        expected = np.asarray(call_it(fast=False))
        with gpu():
            assert abs(np.asarray(call_it(fast=True)) - expected).max() < 1e-4


def test_a_hooked_layer_is_the_pages_and_fires_once(encoder):
    seen = []
    encoder.model.layers[0].attention.register_forward_hook(lambda *_: seen.append(1))
    with gpu() as recorded, fast_layers(encoder) as calls:
        for text in TEXTS[:1] * 5:
            assert abs(encoder.encode(text) - encoder.encode(text, fast=False)).max() < 1e-5
        assert "layers.0.attention has a forward hook" in encoder.explain()
    assert len(seen) == 10
    assert [layer for layer, _ in calls] == [encoder.model.layers[1]] * 5
    assert set(recorded) <= {20}  # of the check


def test_a_replaced_part_computes(encoder):
    encoder.model.layers[1].feed_forward.activation = nn.Tanh()
    with gpu():
        assert abs(encoder.encode(TEXTS) - encoder.encode(TEXTS, fast=False)).max() < 1e-5
        assert "layers.1.feed_forward.activation is Tanh" in encoder.explain()


def test_weights_in_other_places_are_the_pages(encoder):
    encoder.model.layers[0].half()
    with gpu():
        assert "layers.0.attention.query.weight is torch.float16 on cpu, not torch.float32 on cpu" in encoder.explain()
        encoder.model.half()
        assert "(products in float16)" in encoder.explain()


def test_autocast_on_a_gpu_is_for_the_page(encoder, monkeypatch):
    monkeypatch.setattr(SentenceEncoder, "device", property(lambda _: torch.device("cuda")))
    assert encoder._why_page(None) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_autocast_enabled("cuda", True)
    try:
        assert encoder._why_page(None) == "autocast is on"
    finally:
        torch.set_autocast_enabled("cuda", False)


# --- graphs


def check(encoder, recorded):
    """Let it be checked now, and forget what was recorded for that."""
    assert "page" not in encoder.explain()
    recorded.clear()


def test_a_graph_is_recorded_once_and_serves_its_bucket(encoder):
    texts = ["the cat", "a dog sat on the mat", "who", "the man eats food"]
    expected = encoder.encode(texts * 3, fast=False)
    with gpu() as recorded:
        check(encoder, recorded)
        found = np.stack([encoder.encode(text) for text in texts * 3])
        assert recorded == [16]
        encoder.encode("hello " * 20)
    assert recorded == [16]
    assert abs(found - expected).max() < 1e-5


def test_the_results_of_a_graph_are_not_overwritten(encoder):
    with gpu() as recorded:
        tensors = [encoder.encode(text, convert_to_tensor=True) for text in TEXTS * 2]
    assert recorded
    for text, tensor in zip(TEXTS * 2, tensors, strict=True):
        assert abs(tensor.numpy() - encoder.encode(text, fast=False)).max() < 1e-5


def swap_norm(encoder):
    norm = encoder.model.layers[1].attention_norm
    norm.weight = nn.Parameter(norm.weight.detach() * 3)


def write_through_data(encoder):
    encoder.model.layers[0].feed_forward_norm.bias.data = encoder.model.layers[0].feed_forward_norm.bias.data + 1


@torch.no_grad()
def write_in_place(encoder):
    for weight in encoder.model.parameters():
        weight.mul_(0.7)


@torch.no_grad()
def write_norms_in_place(encoder):
    encoder.model.layers[0].attention_norm.weight.mul_(3)
    encoder.model.embeddings.position.weight.mul_(3)


def load_weights(encoder):
    encoder.model.load_state_dict(widen(Bert(TINY), seed=5).state_dict())


def move_table_behind_its_back(encoder):
    table = encoder.model.embeddings.token.weight
    torch.Tensor.data.__set__(table, torch.Tensor.data.__get__(table) * 3)


@pytest.mark.parametrize(
    "change",
    [swap_norm, write_through_data, write_in_place, write_norms_in_place, load_weights, move_table_behind_its_back],
)
def test_no_graph_outlives_its_weights(encoder, change):
    with gpu() as recorded:
        check(encoder, recorded)
        for _ in range(4):
            before = encoder.encode(TEXTS[0])
        assert recorded == [16]
        change(encoder)
        for _ in range(4):
            found = encoder.encode(TEXTS[0])
            assert abs(found - encoder.encode(TEXTS[0], fast=False)).max() < 1e-5
    assert abs(found - before).max() > 1e-3


def test_another_setting_of_torch_drops_graphs(encoder):
    with gpu() as recorded:
        check(encoder, recorded)
        for _ in range(3):
            encoder.encode(TEXTS[0])
        torch.use_deterministic_algorithms(True)
        try:
            encoder.encode(TEXTS[0])
        finally:
            torch.use_deterministic_algorithms(False)
    assert recorded == [16, 16]


def test_a_dispatch_mode_sees_every_operator(encoder):
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            seen.append(operator)
            return operator(*args, **(kwargs or {}))

    with gpu() as recorded:
        check(encoder, recorded)
        for _ in range(4):
            seen.clear()
            with Watch():
                encoder.encode(TEXTS[0], fast=True)
            assert sum("linear" in str(operator) for operator in seen) == 8
    assert recorded == []


def test_a_graph_that_cant_be_recorded_is_done_without(encoder, monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")

    expected = encoder.encode(TEXTS[0], fast=False)
    with gpu():
        assert encoder.encode(TEXTS[0]).shape == (32,)  # and is checked
        monkeypatch.setattr(FakeCard, "record", fail)
        with pytest.warns(UserWarning, match="without CUDA graphs: RuntimeError: CUDA error: operation not p") as seen:
            found = [encoder.encode(TEXTS[0], fast=True) for _ in range(5)]
        assert len(seen) == 1
        assert encoder.explain().endswith("without CUDA graphs: RuntimeError: CUDA error: operation not permitted")
    assert max(abs(each - expected).max() for each in found) < 1e-5


def test_a_graph_that_cant_run_is_done_without(encoder, monkeypatch):
    record = FakeCard.record

    def fails_later(self, compute, static):
        replay, result = record(self, compute, static)
        runs = []

        def once():
            runs.append(1)
            if len(runs) > 1:
                raise RuntimeError("CUDA error: launch failure")
            replay()

        return once, result

    expected = encoder.encode(TEXTS[0], fast=False)
    with gpu():
        encoder.encode(TEXTS[0])
        monkeypatch.setattr(FakeCard, "record", fails_later)
        with pytest.warns(UserWarning, match="launch failure"):
            found = [encoder.encode(TEXTS[0], fast=True) for _ in range(6)]
    assert max(abs(each - expected).max() for each in found) < 1e-5


def test_threads_share_graphs(encoder):
    expected = {text: encoder.encode(text, fast=False) for text in TEXTS}
    wrong = []

    def work():
        for text in TEXTS * 4:
            if abs(encoder.encode(text) - expected[text]).max() > 1e-5:
                wrong.append(text)

    with gpu() as recorded:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert recorded


# --- what fails


def broken(*_):
    raise RuntimeError("no kernel image is available\nfor this card")


def test_an_operator_that_fails_from_the_start_is_done_without(encoder):
    """Then padded texts are attended to, by torch's other operator."""
    with gpu(operator=broken), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = encoder.encode(TEXTS, fast=True)
        assert encoder._decision.stack.varlen is False
    assert abs(found - encoder.encode(TEXTS, fast=False)).max() < 1e-5


@pytest.mark.parametrize("error", [broken, lambda *_: {}["x"], None], ids=["error", "bug", "other numbers"])
def test_a_card_on_which_the_check_fails_has_the_page(encoder, monkeypatch, error):
    expected = encoder.encode(TEXTS, fast=False)
    with gpu(operator=None):
        if error:
            monkeypatch.setattr(CudaLayer, "attend", staticmethod(error))
        else:
            monkeypatch.setattr(CudaLayer, "attend", staticmethod(lambda qkv, *_: qkv[:, : qkv.shape[1] // 3]))
        with pytest.warns(UserWarning, match="encode uses the page, which is slower") as seen:
            found = [encoder.encode(TEXTS) for _ in range(3)]
        assert len(seen) == 1
        assert "all  page  on cpu, in float32, the stack " in encoder.explain()
        with pytest.raises(ValueError, match="fast=True, but the page computes: on cpu, in float32, the stack "):
            encoder.encode(TEXTS, fast=True)
    assert all(abs(each - expected).max() < 1e-6 for each in found)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1]], ids=["many", "one"])
def test_an_operator_that_fails_later_leaves_its_layers_to_the_page(folder, texts, pooling):
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu", pooling=pooling)
    works = [True]

    def sometimes(*arguments):
        return varlen(*arguments) if works[0] else broken()

    expected = encoder.encode(texts, fast=False)
    with gpu(operator=sometimes):
        assert abs(encoder.encode(texts, fast=True) - expected).max() < 1e-5
        works[0] = False
        with pytest.warns(UserWarning, match="could not compute the stack: RuntimeError: no kernel image is a"):
            assert abs(encoder.encode(texts) - expected).max() < 1e-5
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert abs(encoder.encode(texts) - expected).max() < 1e-5
        assert encoder._decision.stack is None
        assert "all  page  cpu could not compute the stack: RuntimeError: no kernel image is ava" in encoder.explain()


def test_a_full_memory_is_torchs_own_error(encoder):
    works = [True]

    def full(*arguments):
        if works[0]:
            return varlen(*arguments)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with gpu(operator=full):
        encoder.encode(TEXTS)
        works[0] = False
        with pytest.raises(torch.OutOfMemoryError):
            encoder.encode(TEXTS)
        works[0] = True
        assert abs(encoder.encode(TEXTS, fast=True) - encoder.encode(TEXTS, fast=False)).max() < 1e-5


@pytest.mark.parametrize("head_size", [8, 32, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_check_knows_right_from_wrong_in_each_dtype(dtype, head_size, monkeypatch):
    config = BertConfig(vocab_size=9, hidden_size=head_size, num_hidden_layers=1, num_attention_heads=1)
    layer = CudaLayer(Bert(config).to(dtype).layers[0])
    with gpu():
        assert differs(layer, varlen=True) == ""
        assert differs(layer, varlen=False) == ""

        def shifted(q, k, v, ends_q, ends_k, *most):  # each token also sees its neighbour's first
            return varlen(q, k.roll(1, 0), v.roll(1, 0), ends_q, ends_k, *most)

        monkeypatch.setattr(cuda_stack, "varlen_operator", lambda: shifted)
        monkeypatch.setattr("minibert.cuda.tokens.varlen_operator", lambda: shifted)
        assert differs(layer, varlen=True).startswith("differs from the page by ")
        assert try_out(layer) == (False, "")


# --- a GPU that is none: shapes, dtypes, devices, and nothing that would wait


def by_narrowing(self, index):
    """Index as torch does: without CUDA it refuses to index fakes."""
    if isinstance(index, tuple) and all(isinstance(part, torch.Tensor) for part in index):
        return torch.ops.aten.index.Tensor(self, list(index))
    for dim, part in reversed(list(enumerate(index if isinstance(index, tuple) else (index,)))):
        if isinstance(part, slice):
            begin, end, step = part.indices(self.shape[dim])
            assert step == 1
            self = self.narrow(dim, begin, max(0, end - begin))
        else:
            self = self.select(dim, part)
    return self


@BOTH
@pytest.mark.parametrize("first_only", [False, True], ids=["all", "first"])
@pytest.mark.parametrize("lengths", [(7,), (5, 5, 5), (9, 1, 4, 9), (3, 0, 6)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_nothing_waits_for_the_gpu_or_leaves_it(lengths, dtype, first_only, attend_packed, monkeypatch):
    tokens, rows = random_tokens(lengths), np.arange(len(lengths))
    texts = CudaTokens(tokens, rows, varlen=attend_packed, bucketed=len(rows) == 1)
    S = texts.shape[1]
    bert = Bert(TINY).eval()
    with FakeTensorMode(), torch.no_grad():
        for part in bert.modules():
            fakes = {name: torch.empty(x.shape, dtype=dtype, device="cuda") for name, x in part._parameters.items()}
            part._parameters.update({name: nn.Parameter(x) for name, x in fakes.items()})
        numbers = torch.empty(texts.numbers.shape, dtype=texts.numbers.dtype, device="cuda")
        monkeypatch.setattr(torch.Tensor, "__getitem__", by_narrowing)
        monkeypatch.setattr(torch.Tensor, "__invert__", lambda x: torch.bitwise_not(x))
        with gpu():
            stack = stack_of(bert, attend_packed=attend_packed)
            texts.place(numbers)
            x = stack(texts, first_only=first_only)
            mask = texts.mask
        for pooling in POOLINGS if not first_only else ["cls"]:
            vectors = Pooling(pooling)(x, None if mask is None or first_only else mask)
            assert (vectors.shape, vectors.device.type) == ((len(lengths), TINY.hidden_size), "cuda")
        assert (x.shape, x.dtype, x.device.type) == ((len(lengths), 1 if first_only else S, 32), dtype, "cuda")
        assert mask is None or (mask.shape, mask.dtype, mask.device.type) == ((len(lengths), S), torch.bool, "cuda")


def test_results_stay_on_the_gpu_until_the_call_ends(monkeypatch):
    values, rows = torch.zeros(2, 5, device="meta"), np.arange(2)
    monkeypatch.setattr(call, "upload", lambda x, device: x.to(device))
    assert call.put(None, 3, rows, values, "cpu").is_meta
    monkeypatch.setattr(call, "MOST_ON_GPU", 3 * 5 * 4)
    assert call.put(None, 3, rows, values, "cpu").is_meta
    monkeypatch.setattr(call, "MOST_ON_GPU", 3 * 5 * 4 - 1)
    with pytest.raises(NotImplementedError):  # to copy from meta
        call.put(None, 3, rows, values, "cpu")


# --- on a GPU


def on_gpu(folder, **options):
    return SentenceEncoder.from_pretrained(folder, device="cuda", **options)


@NEEDS_GPU
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("float16", 0.03), ("bfloat16", 0.25)])
def test_on_a_gpu_the_stack_equals_the_page(folder, dtype, most, pooling):
    encoder = on_gpu(folder, dtype=dtype, pooling=pooling)
    expected = encoder.encode(TEXTS * 9, fast=False)
    assert abs(encoder.encode(TEXTS * 9, fast=True) - expected).max() < most
    for text, vector in zip(TEXTS * 4, expected, strict=False):  # with graphs from the third
        assert abs(encoder.encode(text, fast=True) - vector).max() < most
    assert encoder._decision.stack.graphs.recorded
    assert encoder._decision.stack.varlen is (dtype != "float32")
    assert "page" not in encoder.explain()
    assert "without" not in encoder.explain()


@NEEDS_GPU
@pytest.mark.parametrize("change", [swap_norm, write_through_data, write_in_place, load_weights])
def test_on_a_gpu_no_graph_outlives_its_weights(folder, change):
    encoder = on_gpu(folder)
    for _ in range(4):
        encoder.encode(TEXTS[0], fast=True)
    change(encoder)
    for _ in range(4):
        assert abs(encoder.encode(TEXTS[0], fast=True) - encoder.encode(TEXTS[0], fast=False)).max() < 1e-5


@NEEDS_GPU
def test_on_a_gpu_hooks_fire(folder):
    encoder, seen = on_gpu(folder, dtype="float16"), []
    encoder.model.layers[0].attention.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(4):
        encoder.encode(TEXTS[0])
    assert len(seen) == 4


@NEEDS_GPU
def test_on_a_gpu_threads_and_streams_get_their_own_vectors(folder):
    encoder, wrong = on_gpu(folder), []
    expected = {text: encoder.encode(text, fast=False) for text in TEXTS}

    def work():
        with torch.cuda.stream(torch.cuda.Stream()):
            for text in TEXTS * 20:
                if abs(encoder.encode(text, fast=True) - expected[text]).max() > 1e-5:
                    wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@NEEDS_GPU
def test_on_a_gpu_no_batch_waits(folder):
    encoder = on_gpu(folder, dtype="float16")
    encoder.encode(TEXTS * 50, batch_size=50)
    tokens = encoder.tokenizer.encode(TEXTS)
    stack = encoder._decision.stack
    assert isinstance(stack, CudaStack)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            x, mask = stack.compute(tokens, np.arange(len(TEXTS)), first_only=False)
            Pooling("mean")(x, mask)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_texts_of_a_call_know_their_places():
    tokens = Tokens(np.arange(8, dtype=np.int32), np.zeros(8, np.int8), np.array([0, 3, 3, 8]), TruncationReport())
    texts = CudaTokens(tokens, np.array([2, 0, 1]), varlen=True, bucketed=False)
    texts.place(texts.numbers)
    assert texts.input_ids.tolist() == [3, 4, 5, 6, 7, 0, 1, 2]
    assert texts.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert texts.ends.tolist() == [0, 5, 8, 8]
    assert texts.first.tolist() == [0, 5, 7]
    assert texts.attended[:, 0, 0].sum(1).tolist() == [5, 3, 1]  # of nothing some operators make NaN
    alone = CudaTokens(tokens, np.array([0]), varlen=True, bucketed=True)
    alone.place(alone.numbers)
    assert alone.ends.tolist() == [0, 3, 16]
    assert alone.input_ids.tolist() == [0, 1, 2, *[0] * 13]
