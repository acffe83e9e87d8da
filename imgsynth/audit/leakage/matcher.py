"""Many byte strings looked for in one pass: hashed n-grams, checked against a table, confirmed byte by byte.

A rolling polynomial hash of every window of 6 and of 12 bytes is computed with numpy by doubling (h₂ₖ(i) = h(i) Bᵏ +
h(i + k), modulo 2⁶⁴); windows whose hash is that of some pattern's last bytes are compared with it. Some 50 MB/s on one
core for a hundred thousand patterns, without the memory that an automaton takes for each of their bytes, and without a
package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

SHORTEST = 6  # bytes of a pattern, at least
LONG = 12
CHUNK = 1 << 20  # windows hashed at once
_BASE = 0x9E3779B97F4A7C15 | 1
_MIX = np.uint64(0xD6E8FEB86659FD93)


class Matcher:
    """Finds ``patterns`` (distinct, of SHORTEST bytes or more, lower case) whatever the case of ASCII letters."""

    def __init__(self, patterns: Sequence[bytes]):
        short = [p for p in patterns if len(p) < SHORTEST or p != p.lower()]
        if short:
            raise ValueError(f"Expected patterns of {SHORTEST} bytes or more in lower case, got {short[0]!r}.")
        self.patterns = list(patterns)
        self._tails = [
            _Tails(length, [(i, p) for i, p in enumerate(patterns) if (len(p) >= LONG) == (length == LONG)])
            for length in (SHORTEST, LONG)
        ]

    def find(self, data: bytes) -> Iterator[tuple[int, int]]:
        """(offset, index of the pattern) of every occurrence in ``data``."""
        lower = data.lower()
        for tails in self._tails:
            for end, indices in tails.candidates(lower):
                for index in indices:
                    pattern = self.patterns[index]
                    start = end - len(pattern)
                    if start >= 0 and lower.startswith(pattern, start):
                        yield start, index


class _Tails:
    """The last ``length`` bytes of patterns, by hash."""

    def __init__(self, length: int, patterns: Sequence[tuple[int, bytes]]):
        self.length = length
        self.of_hash: dict[int, list[int]] = {}
        if patterns:
            tails = np.frombuffer(b"".join(p[-length:] for _, p in patterns), np.uint8).reshape(-1, length)
            for (index, _), value in zip(patterns, _hashes(tails, length)[:, 0].tolist(), strict=True):
                self.of_hash.setdefault(value, []).append(index)
        self.sorted = np.array(sorted(self.of_hash), np.uint64)
        self.shift = np.uint64(64 - max(16, (16 * len(self.sorted)).bit_length()))
        self.table = np.zeros(1 << (64 - int(self.shift)), bool)
        self.table[self._slot(self.sorted)] = True

    def candidates(self, data: bytes) -> Iterator[tuple[int, list[int]]]:
        """(end of a window, patterns whose last bytes have its hash)."""
        if not self.of_hash:
            return
        values = np.frombuffer(data, np.uint8)
        for begin in range(0, len(values) - self.length + 1, CHUNK):
            window = _hashes(values[None, begin : begin + CHUNK + self.length - 1], self.length)[0]
            maybe = np.flatnonzero(self.table[self._slot(window)])
            known = self.sorted[np.searchsorted(self.sorted, window[maybe]).clip(max=len(self.sorted) - 1)]
            for i in maybe[known == window[maybe]].tolist():
                yield begin + i + self.length, self.of_hash[int(window[i])]

    def _slot(self, hashes: np.ndarray) -> np.ndarray:
        slots: np.ndarray = (hashes * _MIX) >> self.shift
        return slots


def _hashes(rows: np.ndarray, length: int) -> np.ndarray:
    """[R, N - length + 1] hash of every window of ``length`` (6 or 12) bytes of each row [R, N] of bytes."""
    one = rows.astype(np.uint64)
    three = one[:, :-2] * _power(2) + one[:, 1:-1] * _power(1) + one[:, 2:]
    six = three[:, :-3] * _power(3) + three[:, 3:]
    return six if length == SHORTEST else six[:, :-6] * _power(6) + six[:, 6:]


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(_BASE, exponent, 1 << 64))
