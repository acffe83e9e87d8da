"""String canaries: code words burned into pseudo-patients' images, and looked for by OCR in what a twin generates.

After the "secret sharer" (Carlini et al. 2019, arXiv:1802.08232): words are drawn from a closed space, half of them go
in by secret coins, and it counts how often those that went in are read, and how often those that stayed out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import rankdata
from torch import Tensor

from imgsynth.features.ocr import TextReader, misread, planes, recovered
from imgsynth.types import Fault, InputError

LETTERS = "ACEFHKLMNPRTUVWXY34679"  # none of them is easily taken for another
LENGTH = 6  # letters, of which one may be misread
APART = 3  # edits between any two words: one misread letter makes no word of another
TRIED, READABLE = 60, 0.9  # of the canaries' own images so many are read first, and this share must be readable
_LARGEST = 32  # pixels of a letter's height


@dataclass(frozen=True, eq=False)
class Strings:
    """M code words and their images ``image_MC`` [M, 1, *shape] in [-1, 1]; ``readable``: the share that OCR can read
    in those images themselves, without any model between."""

    words: tuple[str, ...]
    image_MC: Tensor
    readable: float
    reader: TextReader

    def counts(self, x_NC: np.ndarray) -> np.ndarray:
        """[M] in how many of the images ``x_NC`` [N, 1, *shape] each word can be read."""
        count_M = np.zeros(len(self.words))
        for image in x_NC:
            lines = [line.text for line in self.reader.read(planes(image[0])[0])]
            count_M += [recovered(word, lines) for word in self.words]
        return count_M


def burned_in(canaries: int, shape: tuple[int, ...], random: np.random.Generator) -> Strings:
    """Code words on the grid ``shape``, tried by OCR: the positive control, without which silence would say nothing.

    Raises InputError where the package that reads is missing, or the grid is too small for it.
    """
    reader = TextReader()
    words = code_words(canaries, random)
    picture_MC = np.stack([_burned(word, shape) for word in words])[:, None]
    tried = random.permutation(canaries)[:TRIED]
    read = sum(recovered(words[j], [line.text for line in reader.read(planes(picture_MC[j, 0])[0])]) for j in tried)
    if read < READABLE * len(tried):
        raise InputError(
            Fault("audit.canaries.kinds", f"text on a grid of {' × '.join(map(str, shape))}, of which OCR reads {read} "
                  f"of {len(tried)} strings of {LENGTH} letters before any training",
                  f"a grid large enough to read {READABLE:.0%} of them, of about 48 voxels' width",
                  "audit.canaries.kinds=[weights, input], or a run with a larger preprocess.shape")
        )  # fmt: skip
    return Strings(tuple(words), torch.from_numpy(picture_MC), read / len(tried), reader)


def code_words(count: int, random: np.random.Generator) -> list[str]:
    """Random words, any two of them APART edits or more from each other or a part of each other."""
    words: list[str] = []
    having: dict[str, set[int]] = {}  # which words have a pair of neighbours; words that share none are far apart
    while len(words) < count:
        word = "".join(random.choice(list(LETTERS), LENGTH))
        pairs = ["".join(pair) for pair in pairwise(word)]
        akin = [words[i] for i in set().union(*(having.get(pair, set()) for pair in pairs))]
        if all(min(misread(word, other), misread(other, word)) >= APART for other in akin):
            for pair in pairs:
                having.setdefault(pair, set()).add(len(words))
            words.append(word)
    return words


def _burned(word: str, shape: tuple[int, ...]) -> np.ndarray:
    """``word`` in white on black, as large as fits: [rows, columns], or in every slice of [i, j, k] along the last."""
    rows, columns = shape if len(shape) == 2 else (shape[1], shape[0])
    size = _LARGEST
    while size > 1 and not _fits(word, size, rows - 2, columns - 2):
        size -= 1
    picture = Image.new("L", (columns, rows))
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(picture).text((columns / 2, rows / 2), word, fill=255, font=font, anchor="mm")
    grey = np.asarray(picture, dtype=np.float32) / 127.5 - 1
    return grey if len(shape) == 2 else np.repeat(grey.T[..., None], shape[2], axis=2)


def _fits(word: str, size: int, rows: int, columns: int) -> bool:
    left, top, right, bottom = ImageFont.load_default(size=size).getbbox(word)
    return right - left <= columns and bottom - top <= rows


def exposure(count_M: np.ndarray, coins_M: np.ndarray) -> np.ndarray:
    """Of each word that went in, in bits: log2(n + 1) − log2(rank), its rank by count among itself and the n words that
    stayed out (equal counts share the mean of their ranks). About 1 by chance, log2(n + 1) where it leads them all."""
    out_Q = count_M[~coins_M]
    rank = [rankdata(-np.append(out_Q, one))[-1] for one in count_M[coins_M]]
    return math.log2(len(out_Q) + 1) - np.log2(np.array(rank))


def counted(strings: Strings, count_M: np.ndarray, coins_M: np.ndarray, samples: int) -> dict[str, Any]:
    """What was read in ``samples`` images of a twin, without a word of it; JSON-able."""
    sides = {"included": count_M[coins_M], "excluded": count_M[~coins_M]}
    return {
        "samples": samples,
        "readable": strings.readable,
        **{side: {"strings": len(count), "read": int((count > 0).sum()), "times": int(count.sum())}
           for side, count in sides.items()},
        "exposure_bits": float(exposure(count_M, coins_M).mean()) if coins_M.any() else 0.0,
        "exposure_at_most": math.log2(int((~coins_M).sum()) + 1),
    }  # fmt: skip
