"""Is the way from one code to another smooth: perceptual path length, and steps that are longer than the rest.

Perceptual path length (Karras et al. 2019, arXiv:1812.04948, section 4.1): with two codes of one class and t uniform,

    l = E[ d(G(slerp(z, z'; t)), G(slerp(z, z'; t + ε))) / ε² ],

d the squared distance between features. The paper's d is of VGG16 features weighted by people's judgement, its ε is
10⁻⁴ and it leaves out the farthest percent at either end. Here d is of the encoder that is named beside the number, ε
is 10⁻², which single precision can carry, and nothing is left out: compare only with numbers of the same encoder.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from imgsynth.evaluate.metric import require
from imgsynth.explain import pictures
from imgsynth.explain.maker import Maker, standardised
from imgsynth.explain.part import Part

EPSILON = 1e-2
WAYS, STOPS, FRAMES = 8, 17, 9  # paths, images on each of them, and those that are shown


def interpolation(maker: Maker, like_ND: np.ndarray) -> Part:
    """``like_ND``: features of samples, by whose spread those that have units are measured.

    Raises NotDone where the model has no latent codes.
    """
    random = maker.random()
    length_N = path_lengths(maker, like_ND, random)
    ways = _ways(maker, random)
    features = standardised(maker.encoder.encode(ways.reshape(-1, *ways.shape[2:])[:, :1]), maker.encoder, like_ND)
    steps_Ws = np.linalg.norm(np.diff(features.reshape(WAYS, STOPS, -1), axis=1), axis=2)
    require(bool((steps_Ws.sum(1) > 0).all()), "nothing changes along a path")
    uneven_W = steps_Ws.max(1) / steps_Ws.mean(1)
    order = np.argsort(uneven_W, kind="stable")
    chosen = {"median": int(order[len(order) // 2]), "most uneven": int(order[-1])}
    mean, error = float(length_N.mean()), float(length_N.std(ddof=1) / np.sqrt(len(length_N)))
    numbers = {
        "perceptual_path_length": {"value": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error},
        "median": float(np.median(length_N)),
        "pairs": len(length_N),
        "epsilon": EPSILON,
        "encoder": maker.encoder.name,
        "largest_step_over_mean": [float(value) for value in uneven_W],
    }
    cells, titles = [], []
    for name, way in chosen.items():
        cells += pictures.images(ways[way][:: (STOPS - 1) // (FRAMES - 1)], maker.grid)
        titles += [f"{name}: {100 * i / (FRAMES - 1):.0f} %" for i in range(FRAMES)]
    rows = [
        ("perceptual path length", f"{mean:.3g} [{mean - 1.96 * error:.3g}, {mean + 1.96 * error:.3g}]"),
        ("its median over pairs", f"{numbers['median']:.3g}"),
        (f"largest step over the mean step, median of {WAYS} paths", f"{np.median(uneven_W):.2f}"),
        ("the same, of the most uneven path", f"{uneven_W.max():.2f}"),
    ]
    return Part(
        "paths",
        "Ways through the latent space",
        pictures.page(cells, titles, maker.grid, FRAMES),
        f"From one code to another of the same class: of {WAYS} paths that of median evenness, and the most uneven. A "
        f"step that is much longer than the mean one ({STOPS - 1} steps, distances between features) is a jump.",
        numbers,
        [f"Perceptual path length over {len(length_N)} pairs of codes, by {maker.encoder.name}, ε = {EPSILON:g}; the "
         "interval (95 %) is over pairs. It has no scale of its own: compare generators of one grid by one encoder."],
        ("measure", "value"),
        rows,
    )  # fmt: skip


def path_lengths(maker: Maker, like_ND: np.ndarray, random: torch.Generator) -> np.ndarray:
    """[N] d / ε² of ``settings.samples`` pairs of codes of one class each."""
    z_NL, y_N = maker.codes(maker.settings.samples, random)
    other_NL = maker.latent.codes(y_N, random)
    t_N = torch.rand(len(y_N), generator=random) * (1 - EPSILON)
    ends = [
        standardised(
            maker.encoder.encode(maker.images(slerp(z_NL, other_NL, place_N), y_N)[:, :1]), maker.encoder, like_ND
        ).astype(np.float64)
        for place_N in (t_N, t_N + EPSILON)
    ]
    return np.square(ends[1] - ends[0]).sum(1) / EPSILON**2


def _ways(maker: Maker, random: torch.Generator) -> np.ndarray:
    """[WAYS, STOPS, C, *S]."""
    z_WL, y_W = maker.codes(WAYS, random)
    other_WL = maker.latent.codes(y_W, random)
    t_s = torch.linspace(0, 1, STOPS)
    ways = [maker.images(slerp(a.expand(STOPS, -1), b.expand(STOPS, -1), t_s), y.expand(STOPS))
            for a, b, y in zip(z_WL, other_WL, y_W, strict=True)]  # fmt: skip
    return np.stack(ways)


def slerp(a_NL: Tensor, b_NL: Tensor, t_N: Tensor) -> Tensor:
    """From a (t = 0) to b (t = 1) along the arc between them (Shoemake 1985); straight where they are parallel."""
    a, b, t = a_NL.double(), b_NL.double(), t_N.double()[:, None]
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1)[:, None].clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    flat = sine < 1e-6
    safe = torch.where(flat, torch.ones_like(sine), sine)
    arc = ((1 - t) * angle).sin() / safe * a + (t * angle).sin() / safe * b
    return torch.where(flat, (1 - t) * a + t * b, arc).to(a_NL.dtype)
