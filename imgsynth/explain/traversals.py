"""Latent traversals: one code, moved along the directions that change images most, and along one at random."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgsynth.explain import pictures
from imgsynth.explain.directions import leading, products
from imgsynth.explain.maker import Maker
from imgsynth.explain.part import Part

STEPS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # standard deviations of codes along a direction
JACOBIANS = 16  # codes at which the derivative is taken
POPULATION = 512  # codes by which the spread along a direction is known


def traversals(maker: Maker) -> Part:
    """The leading directions and a random one, each with the mean change from one end to the other.

    Raises NotDone where the model has no latent codes.
    """
    random = maker.random()
    z_NL, y_N = maker.codes(maker.settings.codes, random)
    found_kL, _ = leading(lambda z, y: flat_images(maker, z, y), z_NL[:JACOBIANS], y_N[:JACOBIANS],
                          min(maker.settings.directions, z_NL.shape[1]), random)  # fmt: skip
    by_chance_1L = torch.nn.functional.normalize(torch.randn(1, z_NL.shape[1], generator=random))
    v_kL = torch.cat([found_kL, by_chance_1L])
    slope_k = slopes(maker, z_NL[:JACOBIANS], y_N[:JACOBIANS], v_kL)
    along_Pk = maker.codes(POPULATION, random)[0] @ v_kL.T
    names = [f"direction {i}" for i in range(1, len(v_kL))] + ["at random"]
    cells, titles = [], []
    numbers: list[dict[str, Any]] = []
    for name, v_L, mean, sd, slope in zip(names, v_kL, along_Pk.mean(0), along_Pk.std(0), slope_k, strict=True):
        row_BL = torch.cat([moved(z_NL[:1], v_L, mean + step * sd) for step in STEPS])
        row_BC = maker.images(row_BL, y_N[:1].expand(len(STEPS)))
        ends = [maker.images(moved(z_NL, v_L, mean + step * sd), y_N)[:, 0] for step in (STEPS[0], STEPS[-1])]
        change_NS = np.abs(ends[1] - ends[0])
        cells.append((row_BC, change_NS.mean(0)))
        titles += [*(f"{name}, {step:+g} SD" if step else f"{name}, 0" for step in STEPS), f"{name}: change"]
        numbers.append({
            "direction": name,
            "sd": float(sd),
            "rms_per_sd": float(slope * sd),
            "rms_end_to_end": float(np.sqrt(np.square(change_NS).mean())),
        })  # fmt: skip
    largest = max(float(change_S.max()) for _, change_S in cells)
    drawn = [c for x, change in cells for c in (*pictures.images(x, maker.grid),
                                                pictures.amount(change, largest, maker.grid))]  # fmt: skip
    sizes = ("rms_per_sd", "rms_end_to_end")
    rows = [(n["direction"], *(pictures.shown(n[size], maker.grid) for size in sizes)) for n in numbers]
    return Part(
        "traversals",
        "Latent traversals",
        pictures.page(drawn, titles, maker.grid, len(STEPS) + 1),
        f"One code of class {maker.classes[int(y_N[0])]}, moved from -2 to +2 standard deviations of codes along each "
        f"direction. Last column: mean absolute change from one end to the other over {len(z_NL)} codes, from none "
        f"(black) to {pictures.shown(largest, maker.grid)} (light).",
        {"directions": numbers, "codes": len(z_NL), "jacobians": JACOBIANS, "latent": z_NL.shape[1]},
        [f"The directions of the {z_NL.shape[1]} latent dimensions that change images most, to first order and on "
         f"average over {JACOBIANS} codes (leading eigenvectors of the mean of JᵀJ), beside one drawn at random. They "
         "are directions of the generator; nothing says that one of them is anatomy or disease."],
        ("direction", "RMS change for 1 SD, first order", "RMS change from -2 to +2 SD"),
        rows,
    )  # fmt: skip


def flat_images(maker: Maker, z_BL: Tensor, y_B: Tensor) -> Tensor:
    """The images' own channel as [B, voxels]."""
    return maker.latent.image(z_BL, y_B)[:, 0].flatten(1)


def slopes(maker: Maker, z_NL: Tensor, y_N: Tensor, v_kL: Tensor) -> Tensor:
    """[k] root mean square over voxels and codes of J v: model values for a step of length one."""
    gram_kk, _ = products(lambda z, y: flat_images(maker, z, y), z_NL, y_N, v_kL.T, back=False)
    return (gram_kk.diagonal() / math.prod(maker.grid.shape)).sqrt()


def moved(z_NL: Tensor, v_L: Tensor, place: Tensor) -> Tensor:
    """Codes whose coordinate along the unit vector ``v_L`` is ``place``, and which are the same across it."""
    return z_NL + (place - z_NL @ v_L)[:, None] * v_L
