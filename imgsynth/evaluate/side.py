"""Features of one side of a comparison, and whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PAIRS = 1 << 22  # pairs of images that are held at once: what is done with all pairs never holds them all


@dataclass(frozen=True, eq=False)
class Side:
    """``x_ND`` features of images; ``owner_N`` indices of their patients, 0 to ``n_patients`` − 1."""

    x_ND: np.ndarray
    owner_N: np.ndarray
    n_patients: int

    @staticmethod
    def of(x_ND: np.ndarray, patients_N: np.ndarray) -> Side:
        """``patients_N``: names or numbers of the images' patients."""
        names, owner_N = np.unique(patients_N, return_inverse=True)
        return Side(x_ND, owner_N, len(names))

    def __len__(self) -> int:
        return len(self.x_ND)

    def select(self, keep_N: np.ndarray | slice) -> Side:
        return Side.of(self.x_ND[keep_N], self.owner_N[keep_N])

    def seen_by(self, projection_Dd: np.ndarray, columns: slice = slice(None)) -> Side:
        """The features of ``columns``, projected."""
        return Side(self.x_ND[:, columns] @ projection_Dd, self.owner_N, self.n_patients)

    def blocks(self, against: int) -> Iterator[slice]:
        """Rows in blocks that have at most PAIRS pairs with ``against`` others."""
        size = max(1, PAIRS // max(1, against))
        return (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))
