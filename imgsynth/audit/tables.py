"""Distances between sets of images in every space, each computed once, however many attacks and controls ask for them.

A leaking synthesizer of the controls differs from its innocent one in a few images, so only these are compared anew.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from imgsynth.audit.spaces import Space, fit_space
from imgsynth.audit.synthesizers import Patched
from imgsynth.measure.encoders import Encoder
from imgsynth.measure.images import Images

KEPT = 1 << 26  # distances of one table at most (256 MiB); a bigger one is computed whenever it is asked for
FITTED = ("pca",)


class Tables:
    """Keyed by the very objects (never by content), and forgotten together with them."""

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._spaces: dict[str, Space] = {}
        self._fitted: WeakKeyDictionary[Images, dict[str, Space]] = WeakKeyDictionary()
        self._vectors: WeakKeyDictionary[Images, WeakKeyDictionary[Space, np.ndarray]] = WeakKeyDictionary()
        self._tables: WeakKeyDictionary[Images, WeakKeyDictionary[Images, WeakKeyDictionary[Space, np.ndarray]]]
        self._tables = WeakKeyDictionary()

    def space(self, name: str, samples: Images) -> Space:
        """The space ``name``, fitted to ``samples`` where it is fitted at all."""
        known = self._fitted.setdefault(samples, {}) if name in FITTED else self._spaces
        if name not in known:
            known[name] = fit_space(name, samples, self._encoder)
        return known[name]

    def vectors(self, space: Space, images: Images) -> np.ndarray:
        """[N, …] the images as ``space`` sees them. Read-only: it is shared."""
        known = self._vectors.setdefault(images, WeakKeyDictionary())
        if space not in known:
            if isinstance(images, Patched):
                vectors = self.vectors(space, images.base).copy()
                vectors[images.spots_K] = space.embed(images.patches_KC)
            else:
                vectors = space.embed(images.x_NC)
            known[space] = vectors
        return known[space]

    def distances(self, space: Space, patients: Images, others: Images) -> np.ndarray:
        """[N, M] float32 distances of the images of ``patients`` to those of ``others``. Read-only: it is shared."""
        known = self._tables.setdefault(others, WeakKeyDictionary()).setdefault(patients, WeakKeyDictionary())
        if space in known:
            return known[space]
        if isinstance(others, Patched):
            table_NM = self.distances(space, patients, others.base).copy()
            patches = space.embed(others.patches_KC)
            table_NM[:, others.spots_K] = space.distances(self.vectors(space, patients), patches)
        else:
            table_NM = space.distances(self.vectors(space, patients), self.vectors(space, others))
        if table_NM.size <= KEPT:
            known[space] = table_NM
        return table_NM
