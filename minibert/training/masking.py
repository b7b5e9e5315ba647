"""Which tokens a masked-LM has to tell: whole words, drawn anew each time (Devlin et al., arXiv 1810.04805).

15 % of the tokens are to be told. Of those 80 % are hidden behind [MASK], 10 % are another token, 10 % stay as they
are: at work there will be no [MASK], so the model must not count on one (section 3.1 and appendix A.1 there). Pieces
of a word are chosen together or not at all, else the rest of the word would give them away; that is how Google's later
checkpoints were made (the note of May 2019 in google-research/bert, whose create_pretraining_data.py is the reference).
"""

from __future__ import annotations

import numpy as np

from ..tokenizer import Tokenizer

IGNORED = -100  # the label of a token that is not to be told; torch's cross-entropy passes it over
HIDDEN, SWAPPED = 0.8, 0.1  # what becomes of a chosen token; the rest stays


class WholeWordMasking:
    """Chooses words and hides them. ids (S,) -> ids (S,), labels (S,)

    The words are the tokenizer's: a piece that begins with ## goes on with the word before it. Special tokens ([CLS],
    [SEP], [PAD], [UNK], [MASK]) are never chosen, and never put in the place of another.

    Args:
        tokenizer: Whose ids they are.
        share: Of the tokens that are not special, so many are chosen; at least one.

    Raises:
        ValueError: the tokenizer has no mask token, or the share is none.
    """

    def __init__(self, tokenizer: Tokenizer, share: float = 0.15) -> None:
        if tokenizer.mask_id is None:
            raise ValueError(f"the vocabulary has no mask token {tokenizer.mask_token!r}, so nothing can be hidden")
        if not 0 < share <= 1:
            raise ValueError(f"the share of tokens to be told must be above 0 and at most 1, not {share}")
        self.share = share
        self.mask_id = tokenizer.mask_id
        self.special = np.zeros(tokenizer.highest_id + 1, dtype=bool)
        self.special[tokenizer.special_ids] = True
        self.goes_on = np.zeros_like(self.special)
        vocabulary = tokenizer.get_vocab()
        self.goes_on[[i for piece, i in vocabulary.items() if piece.startswith("##")]] = True
        self.others = np.array([i for i in sorted(vocabulary.values()) if not self.special[i]])

    def __call__(self, ids: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What the model sees, and what it has to tell: the id where a token was chosen, elsewhere ``IGNORED``."""
        word = self.words(ids)
        chosen = np.isin(word, self.draw(word, random))
        fate = random.random(len(ids))
        seen = np.where(chosen & (fate < HIDDEN), self.mask_id, ids)
        swapped = chosen & (fate >= HIDDEN) & (fate < HIDDEN + SWAPPED)
        seen[swapped] = random.choice(self.others, int(swapped.sum()))
        return seen, np.where(chosen, ids, IGNORED)

    def words(self, ids: np.ndarray) -> np.ndarray:
        """Which word each token belongs to: 0, 1, 2, ... from the left, -1 for special tokens. (S,) -> (S,)

        Pieces at the beginning that go on with a word that was cut off are a word of their own.
        """
        special = self.special[ids]
        after_special = np.concatenate([[True], special[:-1]])
        begins = ~special & (~self.goes_on[ids] | after_special)
        return np.where(special, -1, np.cumsum(begins) - 1)

    def draw(self, word: np.ndarray, random: np.random.Generator) -> list[int]:
        """Words in random order, as long as they fit into the share; the first in any case. word (S,) -> their numbers

        A word that is longer than what is left of the share is passed over, as in the reference.
        """
        sizes = np.bincount(word[word >= 0])
        left = max(1, round(self.share * int(sizes.sum())))
        chosen: list[int] = []
        for number in random.permutation(len(sizes)):
            if left <= 0:
                break
            if sizes[number] <= left or not chosen:
                chosen.append(int(number))
                left -= int(sizes[number])
        return chosen
