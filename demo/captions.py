"""Captions as token batches: sorted by length, so that a batch pads little, and padded the LPW way."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from transformers import CLIPTokenizer

from demo.models import EOS
from demo.pictures import COLOURS, FILLER, LAYOUTS, RELATION_WORDS, SHAPES, Caption, Scene, caption


def strange_words(tokenizer: CLIPTokenizer) -> list[str]:
    """Whole English-looking words of the vocabulary that say nothing about a picture of ours."""
    telling = {*COLOURS, *SHAPES, "small", "large", "shape", "background", "the", "and", "with", "grey"}
    for phrase in (*LAYOUTS, *FILLER, *(w for ws in RELATION_WORDS.values() for w in ws)):
        telling.update(phrase.split())
    plain = re.compile(r"[a-z]{4,12}</w>")
    return sorted(t[:-4] for t in tokenizer.get_vocab() if plain.fullmatch(t) and t[:-4] not in telling)


class CaptionBatches:
    """Draws captions for scenes and groups them: each item is `(indices, token ids, said, length)`."""

    def __init__(self, tokenizer: CLIPTokenizer, rng: random.Random) -> None:
        self.tokenizer = tokenizer
        self.rng = rng
        self.words = strange_words(tokenizer)

    def pool(
        self, scenes: list[Scene], batch: int, blank: float, widest: int = 10_000
    ) -> Iterator[tuple[list[int], list[list[int]], list[Caption], int]]:
        """One caption a scene, in batches of like length; `blank` of them say nothing at all."""
        captions = []
        for scene in scenes:
            words = caption(scene, self.rng, words=self.words)
            captions.append(Caption("", (None,) * len(words.said)) if self.rng.random() < blank else words)
        ids = self.tokenizer([c.text for c in captions], add_special_tokens=False).input_ids
        order = sorted((i for i in range(len(ids)) if len(ids[i]) <= widest), key=lambda i: len(ids[i]))
        blanks = [i for i in order if not ids[i]]
        spoken = [i for i in order if ids[i]]
        for i in blanks:  # an empty prompt is padded to the length of the other one, whatever that is
            spoken.insert(self.rng.randrange(len(spoken) + 1), i)
        groups = [spoken[i : i + batch] for i in range(0, len(spoken), batch)]
        self.rng.shuffle(groups)
        for group in groups:
            length = max(1, *(len(ids[i]) for i in group)) if len(group) > 1 else max(1, len(ids[group[0]]))
            yield group, [ids[i] + [EOS] * (length - len(ids[i])) for i in group], [captions[i] for i in group], length
