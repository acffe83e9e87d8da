"""What suits n patients: the method that measured best (choosing.py), and settings by fixed rules, as the table has one
setting of each method only. Fixed too is the method where nothing was measured: without privacy, or on such a grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imgsynth.privacy.calibrate import gaussian_noise
from imgsynth.schema import PrivacyConfig
from imgsynth.training.choosing import Ranked, Ranking, rank
from imgsynth.training.method_table import Row, read_table
from imgsynth.training.propose import USABLE, noise_for

STEPS = (100, 250, 500, 1000, 2000)  # of DP-SGD, the most of which the noise stays small; more were not measured
K_MOST = 4  # images of a patient in one step: more cost time and say little that four do not
WHOLE = ("merf", "mepf", "evolution", "latent_noise", "pategan")  # ask every patient in every step (configs/needs)


# By dimensions, after docs/results.md#leaderboard: the first on radiographs at ε = 1; on hippocampi at ε = 8 the only
# one above noised means of images and masks.
UNMEASURED = {2: "mepf", 3: "merf"}
IMAGES_ALONE = ("mepf",)  # make no masks; for pairs on images MERF, where nothing was measured
VOLUMES: dict[str, dict[str, Any]] = {"merf": {"model.images": 64}}  # a step of 200, its default, takes long
# Beside few volumes these lose the image unless they are held to moments (docs/results.md#held-to-moments…).
FEW = 1000
MOMENTS: dict[str, Any] = {"model.warm_up": ["moments"], "privacy.query_share": 0.5, "trainer.steps_before": 300}
HELD: dict[str, dict[str, Any]] = {
    "gan": MOMENTS,
    "vaegan": MOMENTS,
    "pategan": MOMENTS | {"trainer.generator_learning_rate": 1e-3},
    "diffusion": MOMENTS | {"trainer.generator_learning_rate": 3e-3},
}


@dataclass(frozen=True)
class Suited:
    """``model`` is a name in configs/model, ``settings`` are further keys with their values, ``why`` a sentence."""

    model: str
    settings: dict[str, Any]
    why: str


def suited(
    n: int, dims: int, grid: float, images_per_patient: int, privacy: PrivacyConfig, unit: str = "patient",
    rows: Sequence[Row] | None = None, pairs: bool = False,
) -> Suited:  # fmt: skip
    """What to begin with for ``n`` training units with ``images_per_patient`` images each (the median), on a grid of
    ``dims`` axes of ``grid`` voxels, at the ε of ``privacy``, without public weights. No image is looked at. ``pairs``:
    images have masks.

    The method is the best of ``rows`` (default: the shipped table) as ``imgsynth plan`` ranks them; where none was
    worth its ε that of a fixed rule, if it was not measured there, else the first; ``why`` says so.
    """
    delta = sensible_delta(n, privacy.delta)
    epsilon = None if privacy.mode == "none" else privacy.epsilon or 8.0
    rows = read_table() if rows is None else rows
    able = [row for row in rows if not (pairs and row.method in IMAGES_ALONE)]
    fixed = UNMEASURED[3] if pairs else UNMEASURED[dims]
    model, why = _method(n, dims, grid, epsilon, unit, able, fixed, pairs)
    settings = settings_for(model, n, epsilon, delta, dims)
    if epsilon is not None and model not in WHOLE and not quiet_steps(
        n, epsilon, delta, settings.get("privacy.query_share")
    ):  # fmt: skip
        why += f" {n:,} {unit}s are few for it: public weights to begin with (init.run) help more than any setting."
    own = {"data.images_per_patient": min(K_MOST, max(1, images_per_patient)), "privacy.delta": delta}
    return Suited(model, own | settings, why)


def _method(
    n: int, dims: int, grid: float, epsilon: float | None, unit: str, rows: Sequence[Row], fixed: str, pairs: bool
) -> tuple[str, str]:  # fmt: skip
    if epsilon is None:
        return "vae", "Without privacy there is nothing to save: a VAE trains fast and does not fail."
    ranking = rank(rows, n, epsilon, dims, grid, [fixed])
    first = None if ranking is None else ranking.best(public=False) or _first(ranking)
    if ranking is None or first is None:
        kind = " that makes masks" if pairs else ""
        return fixed, f"By a fixed rule: no method{kind} was measured in {dims}D beside noised class means."
    row = first.row
    said = (f"Measured on phantoms (n = {row.n:,}, ε = {row.epsilon:g}, {dims}D of {row.grid} voxels), {row.method}: "
            f"{first.score.value:.0%} of the way from noised class means to real images "
            f"[{first.score.low:.0%}, {first.score.high:.0%}]")  # fmt: skip
    if first.worth:
        return first.row.method, f"{said}, the most of those that need no public images."
    none = f"{said}: nothing measured there was worth its ε. imgsynth plan says what to do instead."
    if fixed in ranking.missing:
        return fixed, f"{none} By a fixed rule {fixed}, which was not measured there."
    return first.row.method, none


def _first(ranking: Ranking) -> Ranked | None:
    return next((one for one in ranking.methods if not one.row.needs_public), None)


def settings_for(method: str, n: int, epsilon: float | None, delta: float, dims: int) -> dict[str, Any]:
    """Keys with values for training ``method`` (a name in configs/model) on ``n`` units at (ε, δ); None: no privacy.

    Methods that ask all patients at once are as configs/needs has them, with fewer images a step for volumes. The
    others get a batch that served cohorts of this size, and the most steps of which the noise stays small beside the
    signal, or the fewest where none do. Beside few volumes half of ε goes to moments for those that need them.
    """
    if epsilon is None:
        return {"privacy.batch_patients": min(32, max(1, n // 2)), "trainer.steps": 1000, "trainer.learning_rate": 3e-3}
    held = HELD.get(method, {}) if dims == 3 and n <= FEW else {}
    if method in WHOLE:
        return (dict(VOLUMES.get(method, {})) if dims == 3 else {}) | held
    batch = batch_for(n)
    quiet = quiet_steps(n, epsilon, delta, held.get("privacy.query_share"))
    settings = {"privacy.batch_patients": batch, "privacy.clipping_norm": 0.3,
                "trainer.steps": quiet[-1] if quiet else STEPS[0]}  # fmt: skip
    return settings | ({"trainer.learning_rate": 6e-3} if method == "vae" else {}) | held


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """key=value, as a command line has it."""
    return [f"{key}=[{','.join(value)}]" if isinstance(value, list) else f"{key}={value}"
            for key, value in settings.items()]  # fmt: skip


def quiet_steps(n: int, epsilon: float, delta: float, query_share: float | None = None) -> list[int]:
    """Of STEPS those at which σ/B is small enough for a layout, where a query beside them gets such a share of ε."""
    batch = batch_for(n)
    asked = () if query_share is None else (gaussian_noise(query_share * epsilon, delta),)
    return [s for s in STEPS if noise_for(epsilon, delta, batch / n, s, asked) / batch <= USABLE]


def batch_for(n: int) -> int:
    """Expected units in a batch: about 5 √n, what served cohorts of 126 to 4,099, in whole 16s; at most half of n."""
    return max(1, min(n // 2, 16 * max(1, round(5 * math.sqrt(n) / 16))))


def sensible_delta(n: int, declared: float) -> float:
    """``declared`` if it is at most 1/(n ln n), else the power of ten below that."""
    most = 1 / (n * math.log(n)) if n > 2 else 0.1
    return declared if declared <= most else 10.0 ** math.floor(math.log10(most))
