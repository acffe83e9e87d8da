"""What n patients can afford: noise multipliers over ε, steps and batch sizes, and an honest word on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from dp_accounting import dp_event as dp

from imgsynth import console
from imgsynth.privacy.accounting import rdp_epsilon
from imgsynth.privacy.calibrate import gaussian_noise
from imgsynth.privacy.events import compose, training_event
from imgsynth.schema import PrivacyConfig, TrainerConfig
from imgsynth.types import Fault, InputError

# Fewer Rényi orders than the accountant's own: a valid bound, as every single order gives one, and ten times faster.
ORDERS = (1.25, 1.5, 1.75, 2.25, 2.5, 2.75, 3.5, 4.5, *range(2, 65), 80, 128, 256, 512)
PRECISION = 1.005  # σ is found to within 0.5%
LARGEST_SIGMA = 1e4

# Where images stop and blurs begin. Judgement from published runs and from our own: with σ/B the noise in each weight's
# gradient beside a signal of at most 1 (all patients agree), small networks learned layouts to about 0.05.
COARSE, USABLE = 0.05, 0.01


def plan_table(
    n: int,
    delta: float,
    epsilons: Sequence[float] = (1.0, 3.0, 8.0),
    steps: Sequence[int] = (300, 1000, 3000),
    batches: Sequence[int] = (64, 256),
    privacy: PrivacyConfig | None = None,
    queries: int = 0,
) -> list[dict[str, Any]]:
    """One row for each ε, number of steps and expected batch size in patients: what noise it takes.

    ``noise_multiplier`` is σ of DP-SGD with Poisson sampling at rate batch/n that reaches (ε, ``delta``), by Rényi
    accounting (the plan of a run also tries the tighter PLD, so that its σ can be a little smaller).
    ``noise_per_signal`` is σ/batch: the noise's standard deviation in each coordinate of the mean gradient, in units of
    the clipping norm, and ``expect`` what that gives. ``epochs`` is how often a patient is seen on average. Batches
    larger than n are left out. So many ``queries`` are asked beside training, with the noise that ``privacy`` says; an
    ε that they exceed by themselves is left out too.
    """
    privacy = privacy or PrivacyConfig()
    rows = []
    for batch in batches:
        for epsilon in epsilons:
            for count in steps:
                if batch > n:
                    continue
                asked = query_noises(privacy, epsilon, delta, queries)
                if asked and quick_epsilon(LARGEST_SIGMA, delta, batch / n, count, asked) > epsilon:
                    continue
                sigma = noise_for(epsilon, delta, batch / n, count, asked)
                rows.append(
                    {
                        "epsilon": epsilon,
                        "delta": delta,
                        "steps": count,
                        "batch_patients": batch,
                        "sampling_rate": batch / n,
                        "epochs": count * batch / n,
                        "noise_multiplier": sigma,
                        "noise_per_signal": sigma / batch,
                        "expect": expected(sigma / batch),
                    }
                )
    return rows


def expected(noise_per_signal: float) -> str:
    """In one word, what training from scratch gives at such noise."""
    return "blurs" if noise_per_signal > COARSE else "outlines" if noise_per_signal > USABLE else "layout"


def query_noises(privacy: PrivacyConfig, epsilon: float, delta: float, queries: int) -> tuple[float, ...]:
    """σ of each of so many queries of the whole cohort beside training, as the plan of a run has them."""
    given = privacy.query_noise_multiplier
    return (gaussian_noise(privacy.query_share * epsilon, delta) if given is None else given,) * queries


@lru_cache(maxsize=1024)
def noise_for(epsilon: float, delta: float, rate: float, steps: int, queries: tuple[float, ...] = ()) -> float:
    """The smallest σ (to 0.5%, rounded up) for which ``steps`` steps at sampling rate ``rate``, and ``queries`` with
    noise multipliers of their own, are together (ε, δ)-DP. InputError where no σ is large enough."""
    low, high = 0.0, 1.0
    while quick_epsilon(high, delta, rate, steps, queries) > epsilon:
        low, high = high, min(2 * high, LARGEST_SIGMA)
        if low == LARGEST_SIGMA:
            raise InputError(
                Fault(
                    where="privacy.epsilon",
                    got=f"{epsilon:g} for {steps} steps at sampling rate {rate:.3g} and {len(queries)} queries",
                    expected=f"an ε that a noise multiplier of at most {LARGEST_SIGMA:g} reaches",
                    remedy="raise privacy.epsilon, or lower privacy.query_share or trainer.steps",
                )
            )
    low = max(low, high / 64)
    while high / low > PRECISION:  # invariant: high is enough
        middle = math.sqrt(low * high)
        if quick_epsilon(middle, delta, rate, steps, queries) <= epsilon:
            high = middle
        else:
            low = middle
    return high


def quick_epsilon(sigma: float, delta: float, rate: float, steps: int, queries: tuple[float, ...] = ()) -> float:
    """An upper bound on ε of ``steps`` steps of DP-SGD and of ``queries``, in milliseconds; the plan's own can be
    smaller."""
    events = [training_event(rate, sigma, steps), *map(dp.GaussianDpEvent, queries)]
    return rdp_epsilon(compose(events), delta, ORDERS)


def honest_word(
    n: int,
    epsilon: float | None,
    noise_multiplier: float,
    batch_patients: int,
    unit: str = "patient",
    summary: bool = False,
) -> str:
    """Two or three sentences: what images training from scratch on ``n`` units can be expected to give.

    ``summary``: nothing is trained on the units, but sums over all of them are noised (``trainer.optimizer=summary``).

    ``epsilon`` None is ∞ (no privacy). The words follow published results: below about 2,000 patients DP-SGD from
    scratch at ε ≤ 3 gives no usable images, and benchmark quality was reached with tens of thousands of units.
    """
    if epsilon is None:
        return (
            f"ε = ∞: no noise, no guarantee. What {n:,} {unit}s can teach this model is the ceiling; the result may "
            "contain copies of patients and is not releasable."
        )
    if summary:
        return (
            f"{n:,} {unit}s at ε = {epsilon:g}: a sum over all of them is noised in every direction by "
            f"{noise_multiplier:.3g} times the most that one {unit} adds. Expect what a class has in common; what "
            f"fewer than about {math.ceil(3 * noise_multiplier):,} {unit}s share is lost."
        )
    ratio = noise_multiplier / batch_patients
    start = (
        f"{n:,} {unit}s at ε = {epsilon:g}: the noise in each weight is {ratio:.2g} of the largest possible signal "
        f"(σ/B = {noise_multiplier:.3g}/{batch_patients})."
    )
    if ratio > COARSE:
        middle = "Expect blurs: average intensity and at best the outline that all patients share; no findings."
    elif ratio > USABLE:
        middle = "Expect coarse structure (body outline, large organs, their contrast); no small findings, no texture."
    else:
        middle = "Expect the layout and the common variation; fine texture and rare findings remain doubtful."
    return " ".join([start, middle, _advice(n, epsilon, ratio)])


def _advice(n: int, epsilon: float, ratio: float) -> str:
    if n < 2000 and epsilon <= 3:
        return (
            "Below about 2,000 patients and at ε ≤ 3, training from scratch rarely pays: prefer pretraining on public "
            "images, one noisy set of moments, or more patients (pool sites)."
        )
    if ratio > USABLE:
        return "More patients, larger batches or fewer steps lower the noise; a larger network raises its effect."
    return "Larger batches still lower the noise at equal ε."


def print_proposal(
    n: int, privacy: PrivacyConfig, trainer: TrainerConfig, unit: str = "patient", queries: int = 0
) -> dict[str, Any]:
    """Print the table for ``n`` units around the configured steps and batch, and the word on it; return both.

    The table's ε are 1, 3, 8 and the configured one; ``queries`` is how many the model asks beside its training.
    """
    delta = privacy.delta
    epsilons = sorted({1.0, 3.0, 8.0, *([privacy.epsilon] if privacy.epsilon else [])})
    more = (1,) if trainer.optimizer == "summary" else (1, 3, 10)  # a summary is asked for as often as its model says
    steps = sorted({factor * trainer.steps for factor in more})
    batches = sorted({min(n, privacy.batch_for(n)), min(n, 4 * privacy.batch_for(n))})
    rows = plan_table(n, delta, epsilons, steps, batches, privacy, queries)
    console.table(
        f"Noise σ that {n:,} training {unit}s need, and σ/B beside the largest signal (δ = {delta:g})",
        ("ε", "steps", f"{unit}s a batch", "rate", "σ", "σ/B", "expect"),
        [
            (f"{row['epsilon']:g}", row["steps"], row["batch_patients"], f"{row['sampling_rate']:.3g}",
             f"{row['noise_multiplier']:.3g}", f"{row['noise_per_signal']:.2g}", row["expect"])
            for row in rows
        ],
    )  # fmt: skip
    word = _configured_word(n, privacy, trainer, unit, queries)
    console.say(word)
    return {"table": rows, "word": word}


def _configured_word(n: int, privacy: PrivacyConfig, trainer: TrainerConfig, unit: str, queries: int) -> str:
    batch = min(n, privacy.batch_for(n))
    if privacy.mode == "none":
        return honest_word(n, None, 0.0, batch, unit)
    sigma, epsilon = privacy.noise_multiplier, privacy.epsilon
    if epsilon is not None:
        asked = query_noises(privacy, epsilon, privacy.delta, queries)
        sigma = noise_for(epsilon, privacy.delta, batch / n, trainer.steps, asked)
    else:
        assert sigma is not None  # the door takes exactly one of the two
        asked = (privacy.query_noise_multiplier,) * queries if privacy.query_noise_multiplier is not None else ()
        epsilon = quick_epsilon(sigma, privacy.delta, batch / n, trainer.steps, asked)
    return honest_word(n, epsilon, sigma, batch, unit, trainer.optimizer == "summary")
