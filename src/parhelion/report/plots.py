"""Line plots as inline SVG. Figures are made without pyplot: no window, no global state."""

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from parhelion.report.rows import Row, naming_columns
from parhelion.report.units import split_unit

COLOURS = ("#1f5fa8", "#c8553d", "#2c8c5a", "#8a5fb5", "#b98a1d", "#4a5563")
INK, SOFT = "#1d2733", "#5d6b7a"
FSC_LINES = (0.143, 0.5)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` × ``height`` inches and its axes ``(rows, columns)`` in the report's style."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        clean(axis)
    return figure, axes


def clean(axis: Axes) -> None:
    """Quiet axes: no box, a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(SOFT)
    axis.tick_params(colors=SOFT, labelsize=9)
    axis.grid(color="#e8ecf1", linewidth=0.8)
    axis.set_axisbelow(True)


def to_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element whose text stays text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    # The XML prologue and metadata name outside addresses; inline SVG needs neither.
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return text.replace("'DejaVu Sans', 'Bitstream Vera Sans'", "system-ui")


def curves(lines: Mapping[str, tuple[np.ndarray, np.ndarray]], x_label: str, y_label: str) -> str:
    """Lines by name, each ``(x, y)``."""
    figure, axes = new_figure(7.6, 3.6)
    axis = axes[0, 0]
    for colour, (name, (x, y)) in zip(_cycle(len(lines)), lines.items(), strict=True):
        axis.plot(x, y, color=colour, label=name, linewidth=1.8)
    axis.set_xlabel(x_label, color=INK)
    axis.set_ylabel(y_label, color=INK)
    if len(lines) > 1:
        axis.legend(frameon=False, fontsize=9)
    return to_svg(figure)


def fsc(lines: Mapping[str, np.ndarray], box: int, pixel_size_angstrom: float) -> str:
    """Shell correlations against spatial frequency, labelled with the resolution in Å."""
    figure, axes = new_figure(7.6, 4.0)
    axis = axes[0, 0]
    for colour, (name, values) in zip(_cycle(len(lines)), lines.items(), strict=True):
        values = np.asarray(values, dtype=float)[: box // 2 + 1]
        axis.plot(
            np.arange(len(values)) / (box * pixel_size_angstrom),
            values,
            color=colour,
            label=name,
            linewidth=1.8,
        )
    for threshold in FSC_LINES:
        axis.axhline(threshold, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
        axis.annotate(
            f"{threshold:g}",
            (1, threshold),
            xycoords=("axes fraction", "data"),
            fontsize=9,
            color=SOFT,
            va="center",
        )
    nyquist = 1 / (2 * pixel_size_angstrom)
    ticks = np.linspace(0, nyquist, 9)[1:]
    axis.set_xticks(ticks, [f"{1 / tick:.3g}" for tick in ticks])
    axis.set_xlim(0, nyquist)
    lowest = min((float(np.nanmin(v)) for v in lines.values() if len(v)), default=0.0)
    axis.set_ylim(min(-0.05, max(lowest, -1) - 0.05), 1.03)
    axis.set_xlabel("resolution (Å)", color=INK)
    axis.set_ylabel("FSC", color=INK)
    axis.legend(frameon=False, fontsize=9, loc="upper right")
    return to_svg(figure)


def history(rows: Sequence[Row]) -> str:
    """One small plot per quantity against the last column that names a row (the round).

    Rows of different starts or classes (further naming columns) are lines of their own.
    """
    leading = naming_columns(rows)
    x_name = leading[-1] if leading else ""
    names = [
        k for k in dict.fromkeys(k for row in rows for k in row) if k not in leading and _is_number(rows, k)
    ]
    columns = min(3, max(1, len(names)))
    depth = max(1, -(-len(names) // columns))
    figure, axes = new_figure(3.4 * columns, 2.2 * depth, depth, columns)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        for line, colour in zip(groups := _groups(rows, leading[:-1]), _cycle(len(groups)), strict=True):
            shown = [row for row in line if isinstance(row.get(name), int | float)]
            x = [float(row[x_name]) if x_name else i for i, row in enumerate(shown)]
            axis.plot(
                x,
                [float(row[name]) for row in shown],
                color=colour,
                marker="o",
                markersize=2.5,
                linewidth=1.4,
            )
        label, unit = split_unit(name)
        axis.set_title(f"{label} ({unit})" if unit else label, fontsize=9.5, color=INK, loc="left")
        axis.set_xlabel(x_name, fontsize=8.5, color=SOFT)
        # there is no round 1.5
        axis.xaxis.get_major_locator().set_params(integer=True)
    return to_svg(figure)


def _groups(rows: Sequence[Row], keys: list[str]) -> list[list[Row]]:
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(found.values())


def _is_number(rows: Sequence[Row], name: str) -> bool:
    return any(isinstance(row.get(name), int | float) for row in rows)


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
