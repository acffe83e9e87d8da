"""Figures as SVG inside the page: nothing is fetched, and nothing but the numbers that are plotted is in them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

BLUE, ORANGE, GREY, RED = "#1f6feb", "#d9730d", "#8b949e", "#c62828"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",  # text stays text, in the reader's font
    "svg.hashsalt": "imgsynth",  # the same numbers give the same bytes
    "font.family": "sans-serif",
}


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def svg_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    FigureCanvasSVG(figure)
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return data_uri(buffer.getvalue(), "image/svg+xml")


def with_pictures(explained: dict[str, Any] | None) -> dict[str, Any] | None:
    """What ``explain.json`` says with the pictures of its ``folder`` in place of their names."""
    if explained is None:
        return None
    folder = Path(explained["folder"])
    parts = [
        part | {"uri": data_uri((folder / part["picture"]).read_bytes(), "image/png")} for part in explained["parts"]
    ]
    return {"parts": parts, "not_done": explained["not_done"]}


def curves(rows: Sequence[dict[str, Any]], leave_out: Sequence[str] = ()) -> str | None:
    """One small plot for each number in ``rows`` (dicts with "step") over the steps; None where there is none."""
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in ("step", *leave_out)]
    series = {
        name: [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))] for name in names
    }
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    columns = min(3, len(series))
    lines = -(-len(series) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.3 * columns, 2.1 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis, (name, points) in zip(axes, series.items(), strict=False):
            dot = "o" if len(points) == 1 else None  # a line of one point is none
            axis.plot(*np.array(points, dtype=float).T, color=BLUE, linewidth=1.1, marker=dot, markersize=4)
            axis.set_title(name.replace("_", " "), fontsize=9)
            axis.set_xlabel("step", fontsize=8)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for axis in axes[len(series) :]:
            axis.set_visible(False)
        return svg_uri(figure)


def histogram(found: dict[str, Any]) -> str:
    """Shares of voxels over intensity, real and synthetic; logarithmic, because air dwarfs everything else."""
    edges = np.array(found["edges"])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.6), layout="constrained")
        axis = figure.subplots()
        for name, colour in (("real", GREY), ("synthetic", BLUE)):
            axis.stairs(found[name], edges, color=colour, label=name, linewidth=1.1)
        axis.set(yscale="log", xlabel=f"intensity ({found['unit']})", ylabel="share of voxels")
        axis.legend(fontsize=8)
        return svg_uri(figure)


def intervals(metrics: Sequence[dict[str, Any]]) -> str | None:
    """Each metric's value and interval beside its real-versus-real floor, in units of the floor's value."""
    shown = [m for m in metrics if m["floor"] is not None and abs(m["floor"]["value"]) > 1e-12]
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 1.1 + 0.4 * len(shown)), layout="constrained")
        axis = figure.subplots()
        for y, metric in enumerate(reversed(shown)):
            unit = abs(metric["floor"]["value"])
            for offset, colour, name, entry in (
                (0.12, BLUE, "synthetic–real", metric),
                (-0.12, GREY, "real–real", metric["floor"]),
            ):
                low, value, high = (entry[key] / unit for key in ("low", "value", "high"))
                axis.plot([low, high], [y + offset] * 2, color=colour, linewidth=2)
                axis.plot(value, y + offset, "o", color=colour, markersize=4, label=name if y == 0 else None)
        axis.set_yticks(range(len(shown)), [m["name"].replace("_", " ") for m in reversed(shown)])
        axis.set_ylim(-0.6, len(shown) - 0.4)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlabel("in units of the real–real floor")
        axis.legend(fontsize=7, loc="best")
        return svg_uri(figure)
