"""Why are these two sentences similar? Shares of the cosine, or of any number made of a vector, token by token.

Each method compares a text with a baseline: the same text without its words. [CLS] and [SEP] are in both, and so are
the places and token types; what these do by themselves is shared out to no token, and the scores of [CLS] and [SEP] are
0.

  * integrated_gradients: the word vectors (rows of `embeddings.token`) go in a straight line from the baseline's to
    the text's, and the gradient is integrated on the way (arXiv 1703.01365). The scores add up to the whole difference,
    but for the error of the integral.
  * gradient_x_input: the gradient at the text itself, times how far the word vectors are from the baseline's; from
    "zero" that is the classic formula (arXiv 1605.01713). A straight line drawn on from the text: where the model
    bends, the scores do not add up to the difference.
  * leave_one_out: what is lost without the token, as if it were padding: no position looks at it, the pooling leaves
    it out, and the others stay in their places. The baseline is the text with all its words left out. What tokens do
    only together is counted several times or not at all, so that these scores need not add up either.

By how much the scores miss the difference is the completeness error, which every result has and shows. All is computed
with gradients on, so by the page's own formulas in the dtype of its weights, prepared or not. Word vectors are put in
by `patch`, which acts on every forward of the model: don't encode in another thread meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..display import table
from ..encoder import SentenceEncoder
from ..encoding import evaluating
from ..model import ScaledDotProductAttention
from ..prompts import choose
from .catalogue import bert_in
from .hooks import capture, patch

METHODS = ("integrated_gradients", "gradient_x_input", "leave_one_out")
BASELINES = ("pad", "mask", "zero")
TOKENS_AT_ONCE = 2048  # in one forward: a long text at many steps would take gigabytes

Function: TypeAlias = "Callable[[Tensor], Any]"  # vector (D,) -> one number


@dataclass(frozen=True, eq=False)
class Attribution:
    """Each token's share of one number. `print` shows it as a table."""

    method: str
    tokens: list[str]  # S
    scores: Tensor  # (S,)
    value: float  # the number for the text
    baseline: float  # for the text without its words

    @property
    def error(self) -> float:
        """The completeness error: by how much the scores miss what they should add up to, value - baseline."""
        return abs(float(self.scores.double().sum()) - (self.value - self.baseline))

    def __str__(self) -> str:
        rows = zip(self.tokens, (f"{score:.4f}" for score in self.scores.tolist()), strict=True)
        return f"{table([('token', 'score'), *rows])}\n{_sums(self, self.scores, self.baseline)}"


@dataclass(frozen=True, eq=False)
class PairAttribution:
    """The cosine of two texts, shared out to the tokens of each, and to each token of one with each of the other.

    With a, b for the texts' vectors, of length 1, and a', b' for those without words: `first` shares out a·b - a'·b,
    `second` a·b - a·b', and `matrix` (a - a')·(b - b'). That is the cosine less `rest`, which no pair of words has a
    part in: a'·b + a·b' - a'·b'. It may be far below 0, because texts without words are much alike. `print` shows the
    matrix with what each word has to do with the other text without words.
    """

    first: Attribution
    second: Attribution
    matrix: Tensor  # (tokens of the first, tokens of the second)
    rest: float

    @property
    def method(self) -> str:
        """One of ``METHODS``."""
        return self.first.method

    @property
    def value(self) -> float:
        """The cosine."""
        return self.first.value

    @property
    def error(self) -> float:
        """The completeness error: by how much the matrix misses what it should add up to, value - rest."""
        return abs(float(self.matrix.double().sum()) - (self.value - self.rest))

    def __str__(self) -> str:
        right, below = self.first.scores - self.matrix.sum(1), self.second.scores - self.matrix.sum(0)
        corner = self.first.baseline + self.second.baseline - self.rest  # a'·b'
        wide = [*torch.cat([self.matrix, right[:, None]], dim=1).tolist(), [*below.tolist(), corner]]
        names = [*self.first.tokens, "(no words)"]
        rows = [(name, *(f"{score:.3f}" for score in row)) for name, row in zip(names, wide, strict=True)]
        return f"{table([('', *self.second.tokens, '(no words)'), *rows])}\n{_sums(self, self.matrix, self.rest)}"


@dataclass(frozen=True, eq=False)
class Rollout:
    """How much of each token attention has carried into each position of the last layer."""

    tokens: list[str]  # S
    matrix: Tensor  # (S, S), row: position of the last layer, column: token; rows add to 1
    scores: Tensor  # (S,): the rows as the encoder pools them; they add to 1

    def __str__(self) -> str:
        rows = zip(self.tokens, (f"{score:.4f}" for score in self.scores.tolist()), strict=True)
        return table([("token", "rollout"), *rows])


def attribute(
    encoder: SentenceEncoder,
    text: str,
    of: str | Function,
    method: str = "integrated_gradients",
    *,
    steps: int = 64,
    baseline: str = "pad",
    prompt: str | None = None,
) -> Attribution:
    """Each token's share of a number that is made of the text's vector.

    Args:
        encoder: With any pooling and head.
        text: As `encode` takes it; what is too long is cut.
        of: A text, for the cosine with it; or a function, vector (D,) -> one number, by torch's operations (with
            "leave_one_out", by any).
        method: One of ``METHODS``; see the top of this file.
        steps: Points of the integral, Gauss and Legendre's. 64 leave an error of 5e-6 at most on real pairs with
            all-MiniLM-L6-v2, where even steps leave 2e-4. "max" pooling needs more, 512 for 1e-3: its gradient jumps
            wherever another token takes the lead.
        baseline: The word vector of a text without words, for the methods by gradients: "pad", that of [PAD]; "mask",
            that of [MASK]; "zero". The scores depend on it.
        prompt: Words in front of the text, and of the other one. None: the checkpoint's default prompt, as in `encode`.

    Raises:
        ValueError: a text has no tokens of its own, an argument is unknown, the function gives no single number, or
            one that does not depend on the vector; or `embeddings` has been replaced and has no `token`.
        TypeError: a text is no string.
    """
    _check(method, steps, baseline)
    with _page_only(encoder):
        mine = _Text(encoder, text, prompt, baseline)
        function = of if callable(of) else _cosine_with(_Text(encoder, of, prompt, baseline))
        value, without = (_numbers(function, vectors.detach()).item() for vectors in mine.ends(method))
        if method == "leave_one_out":
            scores = _by_leaving_out(mine, function, value)
        else:
            scores = _by_gradient(mine, function, method, steps)
    return Attribution(method, mine.tokens, scores.cpu(), value, without)


def attribute_pair(
    encoder: SentenceEncoder,
    first: str,
    second: str,
    method: str = "integrated_gradients",
    *,
    steps: int = 64,
    baseline: str = "pad",
    prompt: str | None = None,
) -> PairAttribution:
    """Shares of the cosine of two texts, for each token and for each pair of tokens. Arguments as in ``attribute``.

    Each method gives every token a share of its text's vector (scaled to length 1), and the matrix holds the dot
    products of these shares. With integrated gradients that is the attribution of arXiv 2310.05703, with references as
    in 2402.02883; but no whole Jacobian is formed: the derivative along each token's own way is enough. It takes a
    backward for each token and step, and so grows with the square of the length.

    Raises:
        ValueError, TypeError: as ``attribute``. RuntimeError: of torch, if a part that you put in can't be derived
            twice.
    """
    _check(method, steps, baseline)
    with _page_only(encoder):
        texts = [_Text(encoder, text, prompt, baseline) for text in (first, second)]
        (a, a0), (b, b0) = ([_unit(vectors)[0].detach() for vectors in text.ends(method)] for text in texts)
        mine, its = (_shares(text, method, steps) for text in texts)  # (S, D) each
    value, a0_b, a_b0 = ((x @ y).item() for x, y in ((a, b), (a0, b), (a, b0)))
    return PairAttribution(
        Attribution(method, texts[0].tokens, (mine @ b).cpu(), value, a0_b),
        Attribution(method, texts[1].tokens, (its @ a).cpu(), value, a_b0),
        (mine @ its.T).cpu(),
        rest=a0_b + a_b0 - (a0 @ b0).item(),
    )


def rollout(encoder: SentenceEncoder, text: str, *, prompt: str | None = None) -> Rollout:
    """Attention followed down through all layers (arXiv 2005.00928, section 3, "attention rollout").

    Of each position, half is taken to come from the residual and half through attention, by the average of the heads;
    what feed-forwards, norms and values do is left out, so it says where information may come from, not what it does.

    Raises:
        ValueError: a layer forms no `probs`, because a part was replaced. TypeError: the text is no string.
    """
    mine, bert = _Text(encoder, text, prompt, "zero"), bert_in(encoder)
    names = [f"layers.{layer}.attention.core.probs" for layer in range(len(bert.layers))]
    with torch.no_grad(), evaluating(encoder), ExitStack() as captures:
        layers = [captures.enter_context(capture(bert, name)) for name in names]  # each must be found
        bert(mine.ids, mine.real, mine.types)
    matrix = attention_rollout([values[name][0] for values, name in zip(layers, names, strict=True)])
    pooled = encoder.pooling(matrix[None], mine.real, mine.prompt_length).reshape(-1, len(matrix)).mean(0)
    return Rollout(mine.tokens, matrix.cpu(), (pooled / pooled.sum()).cpu())


def attention_rollout(probs: Sequence[Tensor]) -> Tensor:
    """The formula of ``rollout`` alone: `probs` of each layer, the first one first, (..., H, S, S) -> (..., S, S)"""
    carried = torch.eye(probs[0].shape[-1], dtype=probs[0].dtype, device=probs[0].device)
    for layer in probs:
        carried = (layer.mean(-3) @ carried + carried) / 2
    return carried


class _Text:
    """One text, to be computed with other word vectors or without some of its tokens."""

    def __init__(self, encoder: SentenceEncoder, text: str, prompt: str | None, baseline: str) -> None:
        words = choose(encoder.prompts, prompt, None, encoder.default_prompt_name)
        batch = encoder.tokenize([words + text if isinstance(text, str) else text])
        self.encoder, self.bert, self.baseline = encoder, bert_in(encoder), baseline
        self.prompt_length = encoder._prompt_tokens(words)
        self.ids, self.types = batch["input_ids"], batch["token_type_ids"]
        self.real = batch["attention_mask"].bool()
        self.tokens = encoder.tokenizer.convert_ids_to_tokens(self.ids[0])  # S
        frame = torch.from_numpy(encoder.tokenizer.encode([""]).ids).to(self.ids)  # what every text has: [CLS], [SEP]
        self.own = (~torch.isin(self.ids[0], frame)).nonzero()[:, 0]  # the places of all others
        if not len(self.own):
            raise ValueError(f"nothing to attribute to: {text!r:.80} has no tokens besides {' '.join(self.tokens)}")

    def words(self) -> tuple[Tensor, Tensor]:
        """The word vectors of the baseline, and the way from there to the text's: 0 for [CLS], [SEP]. (1, S, D) both"""
        numbers = {"pad": self.encoder.tokenizer.pad_id, "mask": self.encoder.tokenizer.mask_id, "zero": self.ids[0, 0]}
        if (number := numbers[self.baseline]) is None:
            raise ValueError(f"the vocabulary has no token for the baseline {self.baseline!r}: take another")
        with capture(self.bert, "embeddings.token") as values:
            self.bert(torch.cat([self.ids, torch.full_like(self.ids, int(number))]), None, self.types.repeat(2, 1))
        text, start = values["embeddings.token"].detach().unsqueeze(1)  # (1, S, D) both
        chosen = torch.zeros_like(self.real).index_fill(1, self.own, True).unsqueeze(-1)  # (1, S, 1)
        start = torch.where(chosen, torch.zeros_like(start) if self.baseline == "zero" else start, text)
        return start, text - start

    def vectors(self, words: Tensor | None = None, real: Tensor | None = None) -> Tensor:
        """Its vector, with other word vectors (n, S, D) or with only the tokens that are True in (n, S). -> (n, D)"""
        rows = max(len(given) for given in (self.ids, words, real) if given is not None)
        batch = [given.expand(rows, -1) for given in (self.ids, self.real if real is None else real, self.types)]
        with nullcontext() if words is None else patch(self.bert, "embeddings.token", words):
            vectors: Tensor = self.encoder(*batch, prompt_length=self.prompt_length)
        return vectors[:, : self.encoder.truncate_dim]

    def ends(self, method: str) -> tuple[Tensor, Tensor]:
        """Its vector, and that of the baseline. (1, D) both"""
        if method == "leave_one_out":
            return self.vectors(), self.vectors(real=self.real.index_fill(1, self.own, False))
        return self.vectors(), self.vectors(self.words()[0])

    def each_left_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Places (n,) and, for each, the vector without the token there (n, D), until all own tokens have been."""
        for places in self.own.split(self.rows_at_once()):
            real = self.real.repeat(len(places), 1)
            real[torch.arange(len(places), device=places.device), places] = False
            yield places, self.vectors(real=real).detach()

    def rows_at_once(self) -> int:
        """How often the text fits into one forward."""
        return max(1, TOKENS_AT_ONCE // len(self.tokens))


@contextmanager
def _page_only(encoder: SentenceEncoder) -> Iterator[None]:
    """Gradients on, dropout off, and attention as on the page: torch's kernel can't be derived twice."""
    with ExitStack() as stack:
        stack.enter_context(evaluating(encoder))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for part in encoder.modules():
            if isinstance(part, ScaledDotProductAttention):  # which computes what somebody watches
                stack.callback(part.scores.register_forward_hook(lambda *_: None).remove)
        yield


def _check(method: str, steps: int, baseline: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if baseline not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, not {baseline!r}")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number, at least 1, not {steps!r}")


def _points(method: str, steps: int) -> tuple[Tensor, Tensor]:
    """Where on the way, from 0 to 1, the gradient is taken, and with what weights. (n,) both"""
    if method == "gradient_x_input":
        return torch.ones(1), torch.ones(1)
    places, weights = np.polynomial.legendre.leggauss(steps)  # on -1 to 1, a way of 2
    return torch.from_numpy(places + 1) / 2, torch.from_numpy(weights) / 2


def _by_gradient(text: _Text, function: Function, method: str, steps: int) -> Tensor:
    """Scores by one gradient of the number for each point. -> (S,)"""
    start, way = text.words()
    total = torch.zeros_like(way)
    points, weights = (numbers.to(way) for numbers in _points(method, steps))
    size = text.rows_at_once()
    for at, weight in zip(points.split(size), weights.split(size), strict=True):
        words = (start + at[:, None, None] * way).requires_grad_()
        values = _numbers(function, text.vectors(words))
        gradient = torch.autograd.grad(values.sum(), words, allow_unused=True)[0] if values.requires_grad else None
        if gradient is None:
            raise ValueError(
                "the function's number does not depend on the vector by torch's operations, so it has no gradient"
            )
        total += (weight[:, None, None] * gradient).sum(0)
    return (total * way).sum(-1)[0]


def _by_leaving_out(text: _Text, function: Function, value: float) -> Tensor:
    """Scores by one number for each token. -> (S,)"""
    found = [(places, value - _numbers(function, vectors)) for places, vectors in text.each_left_out()]
    places, lost = (torch.cat(parts) for parts in zip(*found, strict=True))
    return lost.new_zeros(len(text.tokens)).index_copy(0, places, lost)


def _shares(text: _Text, method: str, steps: int) -> Tensor:
    """Each token's share of the text's vector of length 1. -> (S, D)"""
    whole = _unit(text.vectors()).detach()
    shares = whole.new_zeros(len(text.tokens), whole.shape[1])
    if method == "leave_one_out":
        for places, vectors in text.each_left_out():
            shares[places] = whole - _unit(vectors)
        return shares
    start, way = text.words()
    points, weights = (numbers.to(way) for numbers in _points(method, steps))
    size = text.rows_at_once()
    for at, weight in zip(points.split(size), weights.split(size), strict=True):
        words = (start + at[:, None, None] * way).requires_grad_()
        vectors = _unit(text.vectors(words))
        # Backward gives gradient = Jᵀ probe, linear in the probe. Backward once more, from one token's part of it, is J
        # along that token's way: as many numbers as the vector has, where the whole J has S * D times as many.
        probe = torch.zeros_like(vectors, requires_grad=True)
        [gradient] = torch.autograd.grad(vectors, words, probe, create_graph=True)
        for place in text.own.tolist():
            along = (gradient[:, place] * way[:, place]).sum()
            [change] = torch.autograd.grad(along, probe, retain_graph=True)  # (n, D)
            shares[place] += (weight.to(shares)[:, None] * change).sum(0)
    return shares


def _cosine_with(other: _Text) -> Function:
    [target] = _unit(other.vectors()).detach()
    return lambda vector: _unit(vector) @ target


def _unit(vectors: Tensor) -> Tensor:
    return normalize(vectors, dim=-1)


def _numbers(function: Function, vectors: Tensor) -> Tensor:
    """The function's number for each vector. (n, D) -> (n,)"""
    numbers = [torch.as_tensor(function(vector)) for vector in vectors]
    if wrong := [number for number in numbers if number.numel() != 1]:
        raise ValueError(f"the function must give one number for a vector, not a tensor {tuple(wrong[0].shape)}")
    return torch.stack([number.reshape(()).to(vectors) for number in numbers])


def _sums(result: Attribution | PairAttribution, scores: Tensor, without: float) -> str:
    return (
        f"{result.method}: {scores.sum():.4f} of {result.value:.4f} - {without:.4f} without words, "
        f"completeness error {result.error:.1e}"
    )
