"""The distribution of viewing directions over the sphere."""

import numpy as np
from matplotlib.figure import Figure

from parhelion.report.plots import COLOURS, INK, SOFT, clean, to_svg


def view_directions(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitude (-180…180) and latitude (-90…90), degrees, ``(n,)``, of the beam in the map's frame.

    ``rotation`` ``(n, 3, 3)`` maps volume to image coordinates, so that the image's z axis is its third
    row.
    """
    x, y, z = rotation[:, 2, :].T
    return np.degrees(np.arctan2(y, x)), np.degrees(np.arcsin(np.clip(z, -1, 1)))


def distribution(rotation: np.ndarray) -> str:
    """A Hammer map of particles per direction, relative to uniform, and a histogram of their tilts."""
    longitude, latitude = view_directions(np.asarray(rotation, dtype=float))
    rows = int(np.clip(np.sqrt(len(longitude) / 8), 6, 36))
    # Rows of equal height in sin(latitude): every cell covers the same solid angle.
    edges_y = np.degrees(np.arcsin(np.linspace(-1, 1, rows + 1)))
    edges_x = np.linspace(-180, 180, 2 * rows + 1)
    counts, _, _ = np.histogram2d(latitude, longitude, bins=(edges_y, edges_x))
    density = counts / max(len(longitude), 1) * counts.size
    figure = Figure(figsize=(10.2, 3.4), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(2, 1))
    sphere = figure.add_subplot(grid[0, 0], projection="hammer")
    mesh = sphere.pcolormesh(
        np.radians(edges_x), np.radians(edges_y), density, cmap="viridis", vmin=0, rasterized=True
    )
    sphere.grid(color="white", alpha=0.25, linewidth=0.6)
    sphere.set_xticklabels([])
    sphere.set_yticklabels([])
    bar = figure.colorbar(mesh, ax=sphere, shrink=0.7)
    bar.set_label("particles, relative to uniform", color=SOFT, fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=SOFT)
    bar.outline.set_visible(False)
    tilts = figure.add_subplot(grid[0, 1])
    clean(tilts)
    bins = np.linspace(0, 180, 31)
    tilts.hist(90 - latitude, bins=bins.tolist(), color=COLOURS[0])
    uniform = len(latitude) * -np.diff(np.cos(np.radians(bins))) / 2
    tilts.plot((bins[:-1] + bins[1:]) / 2, uniform, color=COLOURS[1], linewidth=1.5, label="uniform")
    tilts.set_xlabel("angle to the map's z axis (°)", color=INK, fontsize=9)
    tilts.set_ylabel("particles", color=INK, fontsize=9)
    tilts.legend(frameon=False, fontsize=9)
    return to_svg(figure)
