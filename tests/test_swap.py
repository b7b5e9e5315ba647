"""Any part is replaced by assignment: the examples in docs/swaps.md, in a Bert, in an encoder, in training, on disk."""

import ast
import copy
import math

import numpy as np
import pytest
import torch
from documents import DOCS, blocks, run, table
from helpers import TINY, random_batch, widen
from tiny_folder import MEAN, TEXTS, write_encoder
from torch import Tensor, nn

import minibert.model
from minibert import Bert, CheckpointError, SentenceEncoder
from minibert.fused import fuse
from minibert.model import Embeddings, EncoderLayer, LayerNorm
from minibert.research import capture

SWAPS_MD = (DOCS / "swaps.md").read_text(encoding="utf-8")
IMPORTS, *EXAMPLES = [code for code, _ in blocks(SWAPS_MD)]


def class_of(code):
    return next(node.name for node in ast.parse(code).body if isinstance(node, ast.ClassDef))


BY_CLASS = {class_of(code): code for code in EXAMPLES}
WITHOUT_WEIGHTS = ("TopKAttention", "LinearAttention", "DistanceBias")
each_example = pytest.mark.parametrize("example", BY_CLASS)


class Sinusoids(Embeddings):
    """Positions by sines and cosines of "Attention is all you need", section 3.5. (B, S) ids -> (B, S, D)"""

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        x = self.token(input_ids)
        D = x.shape[-1]
        place = torch.arange(x.shape[1]).to(x)[:, None] / 10000 ** (torch.arange(0, D, 2).to(x) / D)
        return self.norm(x + torch.stack([place.sin(), place.cos()], dim=-1).flatten(1))


class Average(nn.Module):
    """Every position gathers the same from all. x (B, S, D), mask or None -> (B, S, D)"""

    def forward(self, x, mask=None):
        weights = x.new_ones(1, 1, x.shape[1]) if mask is None else mask[:, 0].to(x.dtype)  # (B, 1 or S, S)
        return (weights / weights.sum(-1, keepdim=True).clamp(min=1) @ x).expand_as(x)


class PreNorm(EncoderLayer):
    """The norms before the sub-layers, as GPT-2 has them. x (B, S, D), mask -> (B, S, D)"""

    def forward(self, x, mask=None):
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def other_embeddings(model):
    embeddings = Sinusoids(TINY).to(model.embeddings.token.weight)
    embeddings.load_state_dict(model.embeddings.state_dict())
    model.embeddings = embeddings


def other_attention(model):
    for layer in model.layers:
        layer.attention = Average()


def other_layer(model):
    layer = PreNorm(TINY).to(model.embeddings.token.weight)
    layer.load_state_dict(model.layers[1].state_dict())
    model.layers[1] = layer.train(model.training)


WHOLE_PARTS = {"embeddings": other_embeddings, "attention": other_attention, "layer": other_layer}
every_swap = pytest.mark.parametrize("swap", [*BY_CLASS, *WHOLE_PARTS])


def put(swap, model, seed=0):
    """Swap in place; the names that the example leaves behind."""
    names = {}
    torch.manual_seed(seed)
    if swap in WHOLE_PARTS:
        WHOLE_PARTS[swap](model)
    else:
        run(IMPORTS.partition("model = ")[0], names, DOCS / "swaps.md")
        names["model"] = model
        run(BY_CLASS[swap], names, DOCS / "swaps.md")
    return names


def wide(config=TINY):
    return widen(Bert(config)).double().eval()


def swapped(swap):
    """With all weights drawn wide, those of the new parts too."""
    model = wide()
    put(swap, model)
    return widen(model, seed=1)


def apart(one, other):
    assert one.shape == other.shape
    return (one - other).abs().max().item() if one.numel() else 0.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("tiny"), ("Pooling", MEAN))


# The table of contracts, and the examples as they stand.


def test_the_contracts_in_the_docs_are_the_first_lines_on_the_page():
    rows = table(SWAPS_MD)
    for place, name, contract in rows:
        kind = getattr(minibert.model, name)
        assert kind.__doc__.splitlines()[0] == contract
        if place.startswith("`"):
            path = place.strip("`").replace("{}", "1")
            config = (
                TINY
                if "relative" not in path
                else minibert.BertConfig.from_dict(TINY.to_dict() | {"position_embedding_type": "relative_key"})
            )
            assert type(Bert(config).get_submodule(path)) is kind
    parts = {
        name for name, kind in vars(minibert.model).items() if isinstance(kind, type) and issubclass(kind, nn.Module)
    }
    assert {name for _, name, _ in rows} == parts - {"Bert"}


def test_there_are_the_examples_that_are_promised():
    assert list(BY_CLASS) == ["TopKAttention", "LinearAttention", "RMSNorm", "DistanceBias", "Experts", "LoRA"]


@each_example
def test_each_example_runs_as_it_stands_on_published_weights(example):
    names = {}
    run(IMPORTS, names, DOCS / "swaps.md")
    run(BY_CLASS[example], names, DOCS / "swaps.md")
    assert names["model"](torch.tensor([[2, 2023, 3]])).last_hidden_state.isfinite().all()
    per_layer = 2 if example in ("RMSNorm", "LoRA") else 1
    assert sum(type(part).__name__ == example for part in names["model"].modules()) == 3 * per_layer


# Each computes what its words say.

Q, K, V = torch.randn(3, 2, 4, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(9) < torch.tensor([9, 5])[:, None])[:, None, None]  # (2, 1, 1, 9)


def test_top_k_attention():
    names = put("TopKAttention", wide())
    page = minibert.model.ScaledDotProductAttention(0.0)
    bias = torch.randn(2, 4, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert apart(names["TopKAttention"](9)(Q, K, V, MASK, bias), page(Q, K, V, MASK, bias)) < 1e-12
    found = names["TopKAttention"](3)(Q, K, V, MASK, bias)
    scores = (Q @ K.mT / math.sqrt(8) + bias).masked_fill(~MASK, -torch.inf)
    for b, h, i in [(0, 0, 0), (0, 3, 8), (1, 2, 4)]:
        best = scores[b, h, i].argsort(descending=True)[:3]
        expected = scores[b, h, i, best].softmax(0) @ V[b, h, best]
        assert apart(found[b, h, i], expected) < 1e-12


def test_linear_attention():
    core = put("LinearAttention", wide())["LinearAttention"]()
    found = core(Q, K, V, MASK)

    def feature(x):
        return torch.where(x > 0, x + 1, x.exp())

    for b, h, i in [(0, 0, 0), (0, 3, 8), (1, 2, 4)]:
        weights = torch.stack([feature(Q[b, h, i]) @ feature(K[b, h, j]) * MASK[b, 0, 0, j] for j in range(9)])
        assert apart(found[b, h, i], weights / weights.sum() @ V[b, h]) < 1e-12
    for mask, bias in ((MASK.expand(2, 1, 9, 9), None), (None, torch.zeros(1))):
        with pytest.raises(ValueError, match="linear attention forms no scores"):
            core(Q, K, V, mask, bias)


def test_rms_norm():
    norm = widen(LayerNorm(32, 1e-6)).double()
    found = put("RMSNorm", wide())["RMSNorm"](norm)(x := torch.randn(3, 5, 32, dtype=torch.float64))
    theirs = nn.RMSNorm(32, eps=1e-6, dtype=torch.float64)
    theirs.weight = norm.weight
    assert apart(found, theirs(x)) < 1e-12


def test_biases_by_distance():
    model = wide()
    plain = copy.deepcopy(model)
    put("DistanceBias", model)
    batch = random_batch(TINY, (9, 5, 1))
    with capture(model, "**.scores") as values, capture(plain, "**.scores") as before:
        model(**batch)
        plain(**batch)
    change = values["layers.0.attention.core.scores"] - before["layers.0.attention.core.scores"]
    for head, slope in enumerate((1 / 4, 1 / 16, 1 / 64, 1 / 256)):  # the paper's geometric series for 4 heads
        assert change[:, head, 2, 7].sub(-slope * 5).abs().max() < 1e-12
        assert change[:, head, 7, 2].sub(-slope * 5).abs().max() < 1e-12
        assert change[:, head, 4, 4].abs().max() < 1e-12


def test_a_mixture_of_experts():
    model = wide()
    before = copy.deepcopy(model.layers[0].feed_forward)
    put("Experts", model)
    experts = model.layers[0].feed_forward
    x = torch.randn(3, 5, 32, dtype=torch.float64)
    share = experts.router(x).softmax(-1)
    assert apart(experts(x), share.max(-1, keepdim=True).values * before(x)) < 1e-12  # at first all experts are alike
    widen(experts)
    share = experts.router(x).softmax(-1)
    assert share.argmax(-1).unique().numel() > 1
    for b in range(3):
        for s in range(5):
            best = int(share[b, s].argmax())
            assert apart(experts(x)[b, s], share[b, s, best] * experts.experts[best](x[b, s])) < 1e-12


def test_lora():
    model = wide()
    before = copy.deepcopy(model)
    put("LoRA", model)
    batch = random_batch(TINY, (9, 5, 1))
    assert apart(model(**batch).last_hidden_state, before(**batch).last_hidden_state) == 0
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == [
        f"layers.{i}.attention.{p}.{end}.weight" for i in (0, 1) for p in ("query", "value") for end in ("down", "up")
    ]
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(**batch).last_hidden_state.square().sum().backward()
        optimiser.step()
    for name, weight in before.state_dict().items():
        now = model.state_dict()
        assert torch.equal(now[name.replace("query.", "query.linear.").replace("value.", "value.linear.")], weight)
    after = model(**batch).last_hidden_state
    assert apart(after, before(**batch).last_hidden_state) > 1e-3
    for layer in model.layers:
        layer.attention.query, layer.attention.value = layer.attention.query.merged(), layer.attention.value.merged()
    assert apart(model(**batch).last_hidden_state, after) < 1e-10
    assert model.state_dict().keys() == before.state_dict().keys()


# All of them, everywhere.


@every_swap
def test_it_changes_the_result_and_keeps_the_promises_about_padding(swap):
    model, batch = swapped(swap), random_batch(TINY, (9, 5, 0))
    changed = model(**batch).last_hidden_state
    assert apart(changed, widen(wide(), seed=1)(**batch).last_hidden_state) > 1e-3
    assert changed.isfinite().all()
    for row, length in enumerate((9, 5)):
        alone = model(batch["input_ids"][row : row + 1, :length], None, batch["token_type_ids"][row : row + 1, :length])
        assert apart(alone.last_hidden_state[0], changed[row, :length]) < 1e-10


@every_swap
def test_prepared_before_or_after_it_computes_the_same(swap):
    page, batch = swapped(swap), random_batch(TINY, (9, 5, 1))
    expected = page(**batch).last_hidden_state
    after = copy.deepcopy(page)
    fuse(after)
    before = wide()
    fuse(before)
    put(swap, before)
    before.load_state_dict(page.state_dict())
    for fast in (after, before):
        assert apart(fast(**batch).last_hidden_state, expected) < 1e-10


@every_swap
def test_everything_in_it_can_be_captured(swap):
    page, batch = swapped(swap), random_batch(TINY, (9, 5, 1))
    fast = copy.deepcopy(page)
    fuse(fast)
    with capture(page, "**") as values, capture(fast, "**") as same:
        page(**batch)
        fast(**batch)
    assert list(values) == list(same)
    for name, value in values.items():
        assert apart(same[name], value) < 1e-10, name


@every_swap
def test_a_training_step_reaches_every_parameter_that_is_to_be_trained(swap):
    model = swapped(swap).train()
    weights = torch.linspace(-1, 1, 32, dtype=torch.float64)
    with capture(model, "**") as values:
        output = model(**random_batch(TINY, (40, 30, 20)))
    ((output.last_hidden_state @ weights).sum() + (output.pooler_output @ weights).sum()).backward()
    unused = [name for name, value in values.items() if not value.numel()]  # experts that no position was given to
    if swap == "embeddings":
        unused += ["embeddings.position", "embeddings.token_type"]
    if swap not in ("LinearAttention", "attention"):
        unused.append("attention.key.bias")  # adds the same to all scores of a query, which softmax does not see
    reached = [name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not any(part in name for part in unused):
            assert name in reached
            assert parameter.grad.abs().max() > 1e-9, name
    if swap == "Experts":
        assert sum("experts" in name and name.endswith("up.weight") for name in reached) > 4  # of 8


@pytest.mark.parametrize("fast", [False, None])
@every_swap
def test_an_encoder_encodes_with_it(swap, fast, folder):
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu", fast=fast).double()
    before = encoder.encode(TEXTS)
    put(swap, encoder.model)
    widen(encoder.model, seed=1)
    found = encoder.encode(TEXTS, batch_size=2)
    assert np.abs(found - before).max() > 1e-3
    page = wide()
    put(swap, page)
    page.load_state_dict(encoder.model.state_dict())
    for i, text in enumerate(TEXTS):
        batch = encoder.tokenize(text)
        with torch.no_grad():
            expected = page(batch["input_ids"]).last_hidden_state[0].mean(0)
        assert np.abs(found[i] - expected.numpy()).max() < 1e-10


@every_swap
def test_it_is_copied_and_its_weights_are_kept_and_loaded(swap, tmp_path):
    model, batch = swapped(swap), random_batch(TINY, (9, 5, 1))
    expected = model(**batch).last_hidden_state
    assert apart(copy.deepcopy(model)(**batch).last_hidden_state, expected) == 0
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again = wide()
    put(swap, again, seed=2)
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert apart(again(**batch).last_hidden_state, expected) == 0


@every_swap
def test_what_has_a_published_form_is_saved_in_it_and_what_has_not_is_refused(swap, tmp_path):
    model, batch = swapped(swap).float(), random_batch(TINY, (9, 5, 1))
    if swap in ("RMSNorm", "Experts", "LoRA", "attention"):
        with pytest.raises(CheckpointError, match="a part of this model was replaced"):
            model.save_pretrained(tmp_path)
        return
    with pytest.warns(UserWarning, match="does not hold these changes"):
        model.save_pretrained(tmp_path)
    again = Bert.from_pretrained(tmp_path)
    assert apart(again(**batch).last_hidden_state, model(**batch).last_hidden_state) > 1e-3  # the page has come back
    put(swap, again)
    assert apart(again(**batch).last_hidden_state, model(**batch).last_hidden_state) < 1e-6


def test_lora_is_saved_when_it_is_merged(tmp_path):
    model, batch = swapped("LoRA").float(), random_batch(TINY, (9, 5, 1))
    expected = model(**batch).last_hidden_state
    for layer in model.layers:
        layer.attention.query, layer.attention.value = layer.attention.query.merged(), layer.attention.value.merged()
    model.save_pretrained(tmp_path)
    assert apart(Bert.from_pretrained(tmp_path)(**batch).last_hidden_state, expected) < 1e-4


def test_the_test_above_would_notice_a_swap_that_does_nothing():
    model, same = wide(), wide()
    for layer in same.layers:
        layer.attention_norm = copy.deepcopy(layer.attention_norm)
    batch = random_batch(TINY, (9, 5, 0))
    assert apart(model(**batch).last_hidden_state, same(**batch).last_hidden_state) == 0
