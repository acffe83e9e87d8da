"""The audit's figures: ROC curves with bands, and the ladder of what is proven, found and could have been found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imgsynth.audit.roc import Roc, band
from imgsynth.audit.verdict import attack_name
from imgsynth.release.canary_record import looks
from imgsynth.release.rounding import outward, round_up
from imgsynth.report.figures import BLUE, GREY, ORANGE, RED, STYLE, svg_uri

GREEN, VIOLET = "#2e7d32", "#6a1b9a"
DRAWN = 4  # curves; the table has all attacks
BROKEN = 1.4  # how many times the largest bound the axis goes on for; a proven ε beyond it is an arrow


def roc(attacks: Sequence[dict[str, Any]], epsilon: float | None, delta: float) -> str:
    """The first DRAWN curves in log-log scale, the first of them with its band, and the limit that (ε, δ) sets.

    ``attacks`` in the order in which they matter. An ``epsilon`` of None is ∞ and sets no limit.
    """
    floor = min(0.5 / max(max(a["n_members"], a["n_nonmembers"]) for a in attacks), 1e-2)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.6), layout="constrained")
        axis = figure.subplots()
        grid = np.geomspace(floor, 1, 200)
        axis.plot(grid, grid, color=GREY, linestyle=":", label="guessing")
        if epsilon is not None:
            limit = np.minimum(1, np.exp(np.log(grid) + epsilon) + delta)
            if limit[0] < 1:  # else it lies on the frame and says nothing
                axis.plot(grid, limit, color=RED, linestyle="--", linewidth=1, label="limit by (ε, δ)")
        for i, (attack, colour) in enumerate(zip(attacks[:DRAWN], (BLUE, ORANGE, GREEN, VIOLET), strict=False)):
            curve = Roc(np.array(attack["roc"]["fpr"]), np.array(attack["roc"]["tpr"]))
            text = f"{attack_name(attack)}, AUC {attack['auc']:.2f} {outward(attack['auc_low'], attack['auc_high'])}"
            if i == 0:
                _shade(axis, curve, attack, floor, colour)
            axis.step(*np.clip([curve.fpr, curve.tpr], floor, 1), where="post", color=colour, linewidth=1.3, label=text)
        axis.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1))
        axis.set_xlabel("false alarm rate (non-members called members)")
        axis.set_ylabel("members found")
        figure.legend(fontsize=7, loc="outside lower center", ncols=1)
        return svg_uri(figure)


def _shade(axis: Axes, curve: Roc, attack: Mapping[str, Any], floor: float, colour: str) -> None:
    low, high = band(curve, attack["n_members"], attack["n_nonmembers"])
    grid = np.geomspace(floor, 1, 300)
    edges = [_at(edge, grid, keep) for edge, keep in ((low, np.min), (high, np.max))]
    axis.fill_between(grid, *np.clip(edges, floor, 1), color=colour, alpha=0.15, linewidth=0, label="95 % band")


def _at(edge: Roc, grid: np.ndarray, keep: Any) -> np.ndarray:
    """The edge as a function of the false alarm rate: steps, and 0 or 1 where the edge says nothing."""
    order = np.argsort(edge.fpr, kind="stable")
    fpr, tpr = edge.fpr[order], np.maximum.accumulate(edge.tpr[order])
    place = np.searchsorted(fpr, grid, side="right") - 1
    if keep is np.min:
        return np.where(place >= 0, tpr[np.maximum(place, 0)], 0.0)
    return tpr[np.minimum(np.searchsorted(fpr, grid, side="left"), len(tpr) - 1)]


def ladder(audit: Mapping[str, Any]) -> str:
    """ε on one axis: what each attack and canary proved to leak, what it could have proved at most, what is allowed."""
    rows = [
        (attack_name(a), a["bound"]["epsilon"], a["bound"]["ceiling"], None, a["role"] != "exploratory")
        for a in audit["attacks"]
    ]
    every = looks(audit["canaries"]) if audit["canaries"] else []
    for number, look in enumerate(every, 1):
        which = f", look {number}" if len(every) > 1 else ""
        for twin in look["twins"]:
            guessed = twin.get("epsilon_under_gaussian_hypothesis")
            name = f"canaries ({twin['kind']}){which}"
            rows.append((name, twin["epsilon_lower_bound"], twin["ceiling"], guessed, True))
    proven = audit["proven_epsilon"]
    end = BROKEN * max(1.0, *(max(bound, most, guessed or 0.0) for _, bound, most, guessed, _ in rows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.3 + 0.27 * len(rows)), layout="constrained")
        axis = figure.subplots()
        for y, (_, bound, most, guessed, decides) in enumerate(reversed(rows)):
            axis.plot([0, most], [y, y], color=GREY, linewidth=1, alpha=0.5)
            axis.plot(most, y, "|", color=GREY, markersize=10, label=None if y else "ceiling: the most it could show")
            axis.plot(bound, y, "o", color=BLUE if decides else ORANGE, markersize=5, zorder=3)
            if guessed is not None:
                axis.plot(guessed, y, "o", color=VIOLET, fillstyle="none", markersize=5)
        axis.plot([], [], "o", color=BLUE, markersize=5, label="ε at least (decides)")
        if any(not decides for *_, decides in rows):
            axis.plot([], [], "o", color=ORANGE, markersize=5, label="ε at least (exploratory)")
        if any(guessed is not None for *_, guessed, _ in rows):
            axis.plot([], [], "o", color=VIOLET, fillstyle="none", markersize=5, label="if Gaussian: no bound")
        if proven is not None and proven <= end:
            axis.axvline(
                proven, color=RED, linestyle="--", linewidth=1.2, label=f"proven: ε at most {round_up(proven)}"
            )
        else:
            text = "∞: nothing is proven" if proven is None else f"{round_up(proven)}, beyond the axis"
            axis.plot([], [], ">", color=RED, label=f"proven: ε at most {text}")
            axis.plot(end * 0.985, -0.5, ">", color=RED, clip_on=False)
        axis.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
        axis.set(xlim=(-0.02 * end, end), ylim=(-0.6, len(rows) - 0.4), xlabel="ε")
        axis.grid(axis="y", visible=False)
        figure.legend(fontsize=7, loc="outside lower center", ncols=2)
        return svg_uri(figure)
