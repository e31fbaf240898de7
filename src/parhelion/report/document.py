"""A report: text, figures, tables, plots and images in one HTML file that needs no network.

Sections nest. What a section holds is HTML made at once, so that a report can be kept as JSON and put
together again when a run is resumed. Plotting libraries load when the first plot is drawn.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parhelion.io.atomic import write_text
from parhelion.report.style import page
from parhelion.report.units import show_number, show_quantity, split_unit

if TYPE_CHECKING:
    import numpy as np

    from parhelion.model.volume import Volume


class Report:
    """Blocks and sections in the order in which they were added."""

    def __init__(self, title: str, subtitle: str = "", *, folded: bool = False) -> None:
        self.title = title
        self.subtitle = subtitle
        self.folded = folded
        self._blocks: list[str | Report] = []

    def section(self, title: str, subtitle: str = "", *, folded: bool = False) -> "Report":
        """A new section at the end; ``folded`` sections open on a click."""
        inner = Report(title, subtitle, folded=folded)
        self._blocks.append(inner)
        return inner

    def include(self, other: "Report") -> None:
        """Add everything that another report holds, without its title."""
        self._blocks += other._blocks

    def text(self, text: str) -> None:
        """A paragraph."""
        self._blocks.append(f"<p>{html.escape(text)}</p>")

    def warning(self, text: str) -> None:
        """A paragraph that must not be overlooked."""
        self._blocks.append(f'<p class="warning">{html.escape(text)}</p>')

    def notices(self, messages: Sequence[str]) -> None:
        """What the run told the user."""
        if messages:
            items = "".join(f"<li>{html.escape(message)}</li>" for message in messages)
            self._blocks.append(f'<ul class="notices">{items}</ul>')

    def figures(self, values: Mapping[str, float | int | str | None]) -> None:
        """Key figures as cards; names end in their unit (``resolution_angstrom``)."""
        cards = "".join(
            f'<div class="card"><b>{html.escape(show_quantity(name, value))}</b>'
            f"<span>{html.escape(split_unit(name)[0])}</span></div>"
            for name, value in values.items()
        )
        if cards:
            self._blocks.append(f'<div class="cards">{cards}</div>')

    def table(self, rows: Sequence[Sequence[object]], heads: Sequence[str]) -> None:
        """A table; numbers are shown with the digits a person needs, and right-aligned."""
        if not rows:
            return
        top = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
        body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
        self._blocks.append(
            f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def curve(
        self,
        curves: Mapping[str, tuple["np.ndarray", "np.ndarray"]],
        *,
        x_label: str,
        y_label: str,
        title: str = "",
    ) -> None:
        """Lines by name, each ``(x, y)`` of equal length."""
        from parhelion.report import plots

        self._figure(plots.curves(curves, x_label, y_label), title)

    def fsc(
        self, curves: Mapping[str, "np.ndarray"], box: int, pixel_size_angstrom: float, title: str = ""
    ) -> None:
        """Fourier shell correlations by name, one value per shell from 0, with the 0.143 and 0.5 lines."""
        from parhelion.report import plots

        self._figure(plots.fsc(curves, box, pixel_size_angstrom), title or "Fourier shell correlation")

    def history(self, rows: Sequence[Mapping[str, float | int | str]], title: str = "") -> None:
        """How named quantities went from row to row: small plots and a folded table of all rows."""
        from parhelion.report import plots

        if not rows:
            return
        if len(rows) > 1:
            self._figure(plots.history(rows), title)
        heads = list(dict.fromkeys(key for row in rows for key in row))
        inner = self.section("All values" if not title else f"{title}: all values", folded=True)
        units = [
            " ".join(part for part in (name, unit and f"({unit})") if part)
            for name, unit in map(split_unit, heads)
        ]
        inner.table([[row.get(key, "") for key in heads] for row in rows], heads=units)

    def angular_distribution(self, rotation: "np.ndarray", title: str = "") -> None:
        """Where particles were seen from; ``rotation`` ``(n, 3, 3)`` maps volume to image coordinates."""
        from parhelion.report import angles

        self._figure(angles.distribution(rotation), title or "Viewing directions")

    def slices(self, volume: "Volume", title: str = "") -> None:
        """The three central slices of a map with one contrast."""
        from parhelion.report import images

        self.gallery(
            images.central_slices(volume),
            ["z (from the top)", "y", "x"],
            title or "Central slices",
            shared=True,
        )

    def projections(self, volume: "Volume", title: str = "") -> None:
        """The map summed along its three axes."""
        from parhelion.report import images

        self.gallery(
            images.axis_projections(volume), ["along z", "along y", "along x"], title or "Projections"
        )

    def surface(self, volume: "Volume", title: str = "", level: float | None = None) -> None:
        """The map's surface at ``level`` (default: chosen from its densities) seen along its three axes."""
        from parhelion.report import surface

        pictures, used = surface.views(volume, level)
        captions = ["along z", "along y", "along x"]
        self._images(pictures, captions, (title or "Surface") + f" at density {show_number(used)}")

    def gallery(
        self,
        pictures: "Sequence[np.ndarray] | np.ndarray",
        captions: Sequence[str],
        title: str = "",
        *,
        shared: bool = False,
    ) -> None:
        """Grey images ``(y, x)``; ``shared`` gives all the same contrast, else each has its own."""
        from parhelion.report import images

        self._images(images.thumbnails(pictures, shared=shared), captions, title)

    def write(self, path: Path) -> None:
        """Write the report as one file, whole or not at all. Raises OutputError."""
        write_text(path, page(self.title, self.subtitle, self._inside(level=2)))

    def to_json(self) -> dict[str, Any]:
        """What ``fill`` takes."""
        blocks = [block if isinstance(block, str) else block.to_json() for block in self._blocks]
        return {"title": self.title, "subtitle": self.subtitle, "folded": self.folded, "blocks": blocks}

    def fill(self, kept: Mapping[str, Any]) -> None:
        """Take over the blocks of a report that was kept with ``to_json``."""
        for block in kept["blocks"]:
            if isinstance(block, str):
                self._blocks.append(block)
            else:
                self.section(block["title"], block["subtitle"], folded=block["folded"]).fill(block)

    def _images(self, encoded: Sequence[str], captions: Sequence[str], title: str) -> None:
        pictures = "".join(
            f'<figure><img src="{data}" alt="{html.escape(caption)}"><figcaption>{html.escape(caption)}'
            "</figcaption></figure>"
            for data, caption in zip(encoded, captions, strict=True)
        )
        head = f"<h4>{html.escape(title)}</h4>" if title else ""
        self._blocks.append(f'{head}<div class="gallery">{pictures}</div>')

    def _figure(self, svg: str, title: str) -> None:
        head = f"<h4>{html.escape(title)}</h4>" if title else ""
        self._blocks.append(f'{head}<figure class="plot">{svg}</figure>')

    def _inside(self, level: int) -> str:
        return "\n".join(block if isinstance(block, str) else block._outside(level) for block in self._blocks)

    def _outside(self, level: int) -> str:
        title = html.escape(self.title)
        inside = self._inside(min(level + 1, 4))
        if not inside:
            return ""
        if self.folded:
            return f"<details><summary>{title}</summary>{inside}</details>"
        subtitle = f'<p class="subtitle">{html.escape(self.subtitle)}</p>' if self.subtitle else ""
        return f"<section><h{level}>{title}</h{level}>{subtitle}{inside}</section>"


def _cell(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = ' class="number"' if number else ""
    return f"<td{kind}>{html.escape(show_number(value))}</td>"
