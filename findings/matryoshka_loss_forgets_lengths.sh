#!/usr/bin/env bash
# sentence-transformers 6.2.0: MatryoshkaLoss normalises vectors of the full width, too, so losses of dot products can't fit.
#
# Guess:  MatryoshkaLoss(model, loss, [D]) is `loss`: nothing is cut off. For a smaller d, the loss sees the first d
#         numbers of each vector, scaled if the loss or the model scales.
# Seen:   every width is scaled to length 1, the full one as well, whatever the model does. So margins of dot products
#         lie between -2 and 2: MarginMSELoss never reaches the margins of 6 and 4 that it learns by itself, and those
#         of the trained model are arbitrary, as no loss sees the lengths. MSELoss scales the student and not the
#         teacher: a student that equals its teacher has a loss. TripletLoss, whose margin is 5 and whose distances are
#         2 at most, is never below 3. The docstrings of 6.2.0 don't say so.
#
# Output, 2026-11-29:
#     width 8 of 8                  alone  in MatryoshkaLoss
#     MSELoss, of a perfect student  0.00   0.23
#     TripletLoss, 1000 steps        0.00   3.01
#     MarginMSELoss, 1000 steps      0.00  10.00
#     margins then, wanted 6 and 4: alone 6.0 and 4.0, in MatryoshkaLoss 19.7 and 19.8
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 sentence-transformers==6.2.0 transformers==5.23.0 numpy==2.4.6
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error

"$work/venv/bin/python" - <<'PYTHON'
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MarginMSELoss, MatryoshkaLoss, MSELoss, TripletLoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

WIDTH, COLUMNS = 8, (["a b", "c"], ["d e", "f"], ["g", "h a"])
vocabulary = {word: i for i, word in enumerate("[UNK] a b c d e f g h".split())}
tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
tokenizer.pre_tokenizer = Whitespace()


def fresh():
    torch.manual_seed(0)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=WIDTH)], device="cpu")


def wrapped(model, loss, is_wrapped):
    return MatryoshkaLoss(model, loss, [WIDTH]) if is_wrapped else loss


def train(model, loss, labels):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(1000):
        optimizer.zero_grad()
        value = loss([model.preprocess(texts) for texts in COLUMNS], labels)
        value.backward()
        optimizer.step()
    return value.item()


perfect, triplet, margin, margins = [], [], [], []
for is_wrapped in (False, True):
    model = fresh()
    teacher = model.encode(COLUMNS[0], convert_to_tensor=True).clone()
    perfect.append(wrapped(model, MSELoss(model), is_wrapped)([model.preprocess(COLUMNS[0])], teacher).item())
    triplet.append(train(model, wrapped(model, TripletLoss(model), is_wrapped), None))
    model = fresh()
    margin.append(train(model, wrapped(model, MarginMSELoss(model), is_wrapped), torch.tensor([6.0, 4.0])))
    u, v, w = (model.encode(texts, convert_to_tensor=True) for texts in COLUMNS)
    margins.append(((u * v).sum(1) - (u * w).sum(1)).tolist())
print("width 8 of 8                  alone  in MatryoshkaLoss")
for name, (alone, inside) in {
    "MSELoss, of a perfect student": perfect,
    "TripletLoss, 1000 steps": triplet,
    "MarginMSELoss, 1000 steps": margin,
}.items():
    print(f"{name:29} {alone:5.2f}  {inside:5.2f}")
alone, inside = (" and ".join(f"{each:.1f}" for each in pair) for pair in margins)
print(f"margins then, wanted 6 and 4: alone {alone}, in MatryoshkaLoss {inside}")
assert perfect[0] < 1e-6 and perfect[1] > 0.1
assert triplet[0] < 1e-6 and triplet[1] > 3 - 1e-3
assert margin[0] < 1e-3 and abs(margin[1] - 10) < 1e-2  # ((6 - 2)² + (4 - 2)²) / 2
assert max(abs(found - wanted) for found, wanted in zip(margins[0], (6, 4))) < 0.1
assert min(abs(found - wanted) for found, wanted in zip(margins[1], (6, 4))) > 1
PYTHON
