#!/usr/bin/env bash
# tokenizers 0.23.3: with limit_alphabet, a trainer learns words without their rare letters: entries that match no text.
#
# Guess:  limit_alphabet keeps the most frequent letters. A word with another one can't be written with those: it is
#         [UNK] in a text, and so it has no part in the training. The vocabulary is made of the other words.
# Seen:   the trainer drops the letter and closes the gap. "exactly" is counted as "eactly", and takes a place in the
#         vocabulary, as do pieces across the gap, while the word itself is [UNK]. WordPiece and BPE do so, without a
#         warning. BertWordPieceTokenizer.train limits to 1,000 letters by default. Hangul alone has 11,172, so a cased
#         vocabulary of Korean loses places to words that nobody writes.
#
# Output, 2026-11-29:
#     WordPiece: "exactly" becomes [UNK], "eactly" is in the vocabulary
#     BPE:       "exactly" becomes e [UNK] a ct ly, "eactly" is in the vocabulary
#     BertWordPieceTokenizer, 1,200 syllables: of 250 frequent words with a rare one, 50 are learned, 200 with a hole
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tokenizers==0.23.3

"$work/venv/bin/python" - <<'PYTHON'
from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer, WordPieceTrainer

text = ["exactly call late yet tea"] * 100  # each letter but x occurs twice or more in a line
letters = len(set("".join(text)) - {" "})
for name, model, trainer in (("WordPiece", WordPiece, WordPieceTrainer), ("BPE", BPE, BpeTrainer)):
    tokenizer = Tokenizer(model(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    options = {"special_tokens": ["[UNK]"], "show_progress": False}
    tokenizer.train_from_iterator(text, trainer(vocab_size=1000, limit_alphabet=letters - 1, **options))
    tokens, vocabulary = tokenizer.encode("exactly").tokens, tokenizer.get_vocab()
    learned = [word for word in vocabulary if word == "eactly"]
    print(f'{name + ":":10} "exactly" becomes {" ".join(tokens)}, "{" ".join(learned)}" is in the vocabulary')
    assert learned and "[UNK]" in tokens
    assert not any("x" in word for word in vocabulary)
    assert all(tokenizer.encode(word).tokens == [word] for word in ("call", "late", "yet", "tea"))

# Three syllables a word; the one in the middle is rarer than the others.
syllables = [chr(0xAC00 + 7 * i) for i in range(1200)]
frequent, rare = syllables[:950], syllables[950:]
words = [frequent[2 * i] + middle + frequent[2 * i + 1] for i, middle in enumerate(rare)]
tokenizer = BertWordPieceTokenizer(lowercase=False)
lines = [" ".join(frequent)] * 50 + [" ".join(words)] * 20
tokenizer.train_from_iterator(lines, vocab_size=30_000, show_progress=False)
vocabulary = tokenizer.get_vocab()
whole = sum(word in vocabulary for word in words)
holes = sum(word[0] + word[2] in vocabulary for word in words)
said = f"of {len(words)} frequent words with a rare one, {whole} are learned, {holes} with a hole"
print(f"BertWordPieceTokenizer, 1,200 syllables: {said}")
assert (whole, holes) == (50, 200)  # 1,000 letters are 950 and 50
PYTHON
