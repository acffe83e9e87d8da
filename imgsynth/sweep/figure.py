"""The picture of a cohort: utility, fidelity, diversity and the audited bound against ε, one line for each model."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from imgsynth.evaluate.utility import SYNTHETIC
from imgsynth.report.figures import GREY, STYLE
from imgsynth.sweep.tables import classifiers_of

# Okabe and Ito (2008), told apart by colour-blind readers too; with a marker of its own for each.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31", "#7F3C8D", "#4D4D4D")
MARKERS = "osD^vP*Xhp"
RIVAL_STYLE = {
    "trivial generator": ("#777777", ":", "x"),
    "noised mean mask": ("#777777", "-.", "1"),
    "DP-SGD network": ("#777777", "--", "+"),
}
APART = 1.04  # factor in ε between models, so that their intervals do not hide each other


@dataclass(frozen=True)
class Panel:
    """``name`` is the number of models, ``plain`` that of rivals and real data."""

    title: str
    name: str
    plain: str
    log: bool = False


Groups = Sequence[Mapping[str, Any]]


def panels(groups: Groups, rivals: Groups, real: Mapping[str, Any]) -> list[Panel]:
    """What there are numbers for: every classifier's AUC, balanced accuracy, Dice, fidelity, diversity, the bound."""
    names = {name for one in groups for name in one["numbers"]}
    wanted = [Panel(f"AUC, {c}", f"auc/{c}/{SYNTHETIC}", f"auc/{c}") for c in classifiers_of(groups, rivals, real)]
    accuracy = "balanced_accuracy/small_cnn"
    wanted += [Panel("balanced accuracy, small_cnn", f"{accuracy}/{SYNTHETIC}", accuracy)]
    wanted += [Panel("Dice, mean of structures", f"dice/mean/{SYNTHETIC}", "dice/mean")]
    wanted += [
        Panel("Fréchet distance", "frechet_distance", "frechet_distance", log=True),
        Panel("kernel distance", "kernel_distance", "kernel_distance"),
        Panel("MS-SSIM between samples", "ms_ssim", "ms_ssim"),
        Panel("recall", "recall", "recall"),
        Panel("coverage", "coverage", "coverage"),
        Panel("ε: proven, and audited ≥", "epsilon_lower_bound", ""),
    ]
    return [panel for panel in wanted if panel.name in names]


def figure_of(cohort: str, curve: Mapping[str, Any]) -> Figure | None:
    """One panel for each number over ε on a logarithmic axis with ∞ at its right end. None where nothing is finished.

    Dots are single repetitions, lines their means, bars intervals over patients and repetitions, dashed and dotted
    lines rivals at the same ε, the grey band real data.
    """
    groups = [g for g in curve["groups"] if g["cohort"] == cohort and g["numbers"]]
    rivals = [r for r in curve["rivals"] if r["cohort"] == cohort]
    real = curve["ceilings"].get(cohort, {})
    shown = panels(groups, rivals, real)
    if not shown:
        return None
    finite = sorted({g["epsilon"] for g in groups if g["epsilon"] is not None})
    end = finite[-1] * 3 if finite else 1.0  # where ∞ is drawn
    ticks = [*finite, *([end] if any(g["epsilon"] is None for g in groups) else [])]
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.3 * columns, 2.6 * lines + 0.5), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis, panel in zip(axes, shown, strict=False):
            _draw(axis, panel, groups, rivals, real, end)
            axis.set_title(panel.title, fontsize=9)
            axis.set_xscale("log")
            axis.set_xticks(ticks, [f"{e:g}" for e in finite] + ["∞"] * (len(ticks) - len(finite)))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xlim(ticks[0] / 1.5, ticks[-1] * 1.5)
            axis.set_xlabel("ε", fontsize=8)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
        handles: dict[str, Any] = {}
        for axis in axes:
            handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        many = min(2 * columns, len(handles))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=many, fontsize=8)
        figure.suptitle(cohort, fontsize=10)
    return figure


def _draw(axis: Axes, panel: Panel, groups: Groups, rivals: Groups, real: Mapping[str, Any], end: float) -> None:
    models = list(dict.fromkeys(g["model"] for g in groups))
    for place, model in enumerate(models):
        shift = APART ** (place - (len(models) - 1) / 2)
        points = [(_x(g, end) * shift, g["numbers"][panel.name]) for g in groups
                  if g["model"] == model and panel.name in g["numbers"]]  # fmt: skip
        _line(axis, points, COLOURS[place % len(COLOURS)], "-", MARKERS[place % len(MARKERS)], model)
    for rival, (colour, style, marker) in RIVAL_STYLE.items():
        points = [(_x(r, end), r["numbers"][panel.plain]) for r in rivals
                  if r["rival"] == rival and panel.plain in r["numbers"]]  # fmt: skip
        _line(axis, points, colour, style, marker, rival)
    if (ceiling := real.get(panel.plain)) is not None:
        axis.axhspan(ceiling["low"], ceiling["high"], color=GREY, alpha=0.18, linewidth=0)
        axis.axhline(ceiling["value"], color=GREY, linewidth=1.2, label="real data")
    if panel.name == "epsilon_lower_bound":
        proven = sorted({(_x(g, end), g["proven"]) for g in groups if g["proven"] is not None})
        if proven:
            axis.plot(*zip(*proven, strict=True), "_-", color="#c62828", linewidth=1.2, label="proven ε")
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_ylim(bottom=0)
    elif panel.log:
        axis.set_yscale("log")


def _line(
    axis: Axes, points: Sequence[tuple[float, Mapping[str, Any]]], colour: str, style: str, marker: str, label: str
) -> None:
    if not points:
        return
    x, entries = zip(*points, strict=True)
    value = [e["value"] for e in entries]
    errors = [[e["value"] - e["low"] for e in entries], [e["high"] - e["value"] for e in entries]]
    axis.errorbar(x, value, yerr=errors, color=colour, linestyle=style, marker=marker, markersize=4, linewidth=1.1,
                  elinewidth=0.8, label=label)  # fmt: skip
    for at, entry in points:
        if len(entry["values"]) > 1:
            axis.plot([at] * len(entry["values"]), entry["values"], ".", color=colour, markersize=3, alpha=0.6)


def _x(one: Mapping[str, Any], end: float) -> float:
    return end if one["epsilon"] is None else one["epsilon"]


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
