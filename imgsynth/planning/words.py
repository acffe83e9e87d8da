"""A plan in words: the table of methods, how far it is from what was measured, the verdict, and what to do then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from imgsynth import console
from imgsynth.training.choosing import ROOM, Ranking, Score

if TYPE_CHECKING:
    from imgsynth.planning.run import Candidate, Plan

COLUMNS = ("method", "score", "AUC", "Fréchet", "coverage", "σ", "σ/B", "min here", "worth its ε")
HOW = (
    "Score: how far from noised class means at the same ε (0) towards real images (100 %), the mean over utility and "
    "fidelity. Worth its ε: above class means in each, by its whole interval. Measured on thorax phantoms: on patients "
    "expect less."
)


def print_plan(plan: Plan) -> None:
    """To standard output."""
    asked = plan.asked
    shape = "×".join(map(str, asked.config.preprocess.shape))
    whence = "counted by its headers" if asked.counted else "declared"
    console.say(f"{asked.n:,} {asked.unit}s to train on ({whence}), {asked.modality}, {shape}, "
                f"ε = {plan.epsilon:g}, δ = {plan.delta:g}")  # fmt: skip
    if plan.ranking is not None:
        place = plan.ranking.place
        title = f"Measured at n = {place.nearest:,}, ε = {place.epsilon:g}, {place.dims}D of {place.grid} voxels"
        columns = COLUMNS if place.further is None else (*COLUMNS, f"score at n = {place.further:,}")
        beside = [one[: len(columns)] for one in rivals(plan)]
        console.table(title, columns, [*(row(one, plan) for one in plan.candidates), *beside])
        console.say(HOW)
    for line in sentences(plan):
        console.say(line)


def row(one: Candidate, plan: Plan) -> tuple[str, ...]:
    """As long as the table's columns."""
    assert plan.ranking is not None
    place, r, s = plan.ranking.place, one.ranked.row, one.ranked.score
    name = one.method + (" (public images)" if r.needs_public else "") + (
        "" if r.n == place.nearest else f" (n = {r.n:,})")  # fmt: skip
    noise = (
        ("–", "–") if one.noise is None or one.batch is None else (f"{one.noise:.3g}", f"{one.noise / one.batch:.2g}")
    )
    minutes = "–" if one.seconds is None else f"{one.seconds / 60:.1f}"
    auc, frechet = _interval(r.auc, r.auc_low, r.auc_high), _interval(r.frechet, r.frechet_low, r.frechet_high)
    worth = "yes" if one.ranked.worth else "no"
    found = (name, band(s), auc, frechet, number(r.coverage), *noise, minutes, worth)
    return found if place.further is None else (*found, "–" if one.ranked.other is None else band(one.ranked.other))


def rivals(plan: Plan) -> list[tuple[str, ...]]:
    """Rows of what the best method is held against: at the nearest n, or where it was measured."""
    if not plan.candidates:
        return []
    r = plan.candidates[0].ranked.row
    dp_sgd = _interval(r.auc_dp_sgd, r.auc_dp_sgd_low, r.auc_dp_sgd_high)
    trivial = _interval(r.auc_trivial, r.auc_trivial_low, r.auc_trivial_high)
    rest = ("",) * 5
    return [("noised class means", "0%", trivial, number(r.frechet_trivial), number(r.coverage_trivial), *rest),
            ("real images", "100%", number(r.auc_real), number(r.frechet_floor), "", *rest),
            ("DP-SGD classifier", "–", dp_sgd, "no images", "", *rest)]  # fmt: skip


def sentences(plan: Plan) -> Iterator[str]:
    """What the table does not say by itself; the last is the command to run, where there is one."""
    if plan.ranking is None:
        dims = len(plan.asked.config.preprocess.shape)
        yield f"Nothing was measured in {dims}D: no ranking. {plan.fallback}"
        return
    yield from distance(plan)
    if plan.ranking.unscored:
        yield f"Measured, but with nothing to compare with: {', '.join(plan.ranking.unscored)}."
    if plan.ranking.missing:
        yield f"Not measured there, and therefore not ranked: {', '.join(plan.ranking.missing)}."
    for one in plan.candidates:
        if one.faults is not None:
            yield f"{one.method} cannot be run so: {one.faults}"
    if plan.best is None:
        yield from instead(plan)
        return
    if (other := plan.best.ranked.other) is not None and not other.worth:
        yield (f"With care: at n = {plan.ranking.place.further:,} {plan.best.method} was not worth its ε "
               f"({band(other)}).")  # fmt: skip
    best = plan.best.ranked.row
    if best.auc_dp_sgd > best.auc:
        yield f"For a classifier alone, train it by DP-SGD on the patients: no images, and more{_dp_sgd(plan.ranking)}."
    yield f"Best: {plan.best.method}"
    yield f"Next: {plan.best.command}"


def distance(plan: Plan) -> Iterator[str]:
    """How far what was measured is from what was asked."""
    assert plan.ranking is not None
    place, asked = plan.ranking.place, plan.asked
    around = [f"{n:,}" for n in dict.fromkeys((place.below, place.above)) if n is not None]
    if asked.n != place.nearest:
        beyond = "" if len(around) == 2 else ": beyond all that was measured, and not extrapolated"
        yield f"n = {asked.n:,} asked, {' and '.join(around)} measured{beyond}."
    if plan.epsilon != place.epsilon:
        less = "; expect less than the table says" if plan.epsilon < place.epsilon else ""
        yield f"ε = {plan.epsilon:g} asked, {place.epsilon:g} measured{less}."
    shape = asked.config.preprocess.shape
    if set(shape) != {place.grid}:
        larger = "; expect less" if math.prod(shape) > place.grid**place.dims else ""
        yield f"{'×'.join(map(str, shape))} voxels asked, {place.grid} along each axis measured{larger}."


def instead(plan: Plan) -> Iterator[str]:
    """Nothing can be recommended: why, and what to do."""
    assert plan.ranking is not None
    worth = [one for one in plan.candidates if one.ranked.worth]
    if worth:
        whys = []
        for one in worth:
            if one.faults is None and one.ranked.row.needs_public and not plan.public:
                whys.append(f"{one.method} begins with public images: name a public run by init.run=RUN")
            elif one.faults is None:
                whys.append(f"{one.method} takes {(one.seconds or 0) / 3600:.1f} hours here, plan.hours is "
                            f"{plan.asked.config.plan.hours:g}")  # fmt: skip
        yield f"What was worth its ε cannot be taken as asked. {'. '.join(whys)}"
        return
    yield (f"NONE IS WORTH ITS ε at n = {plan.ranking.place.nearest:,}, ε = {plan.ranking.place.epsilon:g}: no method "
           "is above noised class means in utility and fidelity both, by its whole interval.")  # fmt: skip
    if any(one.ranked.score.utility is None for one in plan.candidates):
        yield f"(Class means came within {ROOM:g} of the AUC of real images, so that only fidelity could be compared.)"
    yield "Instead:"
    yield "- more patients: pool sites, or wait"
    yield "- a larger ε, if the custodian agrees"
    if elsewhere := _better_elsewhere(plan.ranking):
        yield elsewhere
    if plan.ranking.missing:
        yield "- a method that was not measured there: benchmarks/method_table.py measures it"
    if not plan.public:
        yield "- public images of the same kind: init.run=RUN (docs/generators.md), and rank again"
    yield "- the classifier itself by DP-SGD on the patients, without images" + _dp_sgd(plan.ranking)
    yield "- noised class means, which cost the same and need no training"


def _better_elsewhere(ranking: Ranking) -> str:
    found = [f"{r.method} at n = {r.n:,}, ε = {r.epsilon:g}, {r.dims}D of {r.grid} voxels" for r in ranking.elsewhere]
    return f"- what was worth its ε elsewhere: {'; '.join(found)}" if found else ""


def _dp_sgd(ranking: Ranking) -> str:
    r = next((one.row for one in ranking.methods if not math.isnan(one.row.auc_dp_sgd)), None)
    return "" if r is None else f" (AUC {r.auc_dp_sgd:.2f} [{r.auc_dp_sgd_low:.2f}, {r.auc_dp_sgd_high:.2f}] there)"


def band(s: Score) -> str:
    return f"{s.value:.0%} [{s.low:.0%}, {s.high:.0%}]"


def _interval(value: float, low: float, high: float) -> str:
    return f"{number(value)} [{number(low)}, {number(high)}]"


def number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
