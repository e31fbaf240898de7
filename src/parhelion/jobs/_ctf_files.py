"""The files that the CTF of one micrograph leaves: diagnostic picture, curves and values, as CTFFIND's."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parhelion.io.atomic import atomic_path, write_text

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.ctf_fit.settings import Curves, FitSettings, Optics

PNG_DPI = 90
GREEN, ORANGE, BLUE = "#2c8c5a", "#e08a1e", "#1f5fa8"


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What the comment lines of the text files say of the input."""

    name: str
    pixel_size_angstrom: float
    size: int
    optics: "Optics"
    settings: "FitSettings"

    def lines(self, columns: str) -> str:
        """Five comment lines; the last says what the ``columns`` are."""
        s, o = self.settings, self.optics
        return "".join(
            f"# {line}\n"
            for line in (
                "Output from parhelion ctf",
                f"Input file: {self.name} ; Number of micrographs: 1",
                f"Pixel size: {self.pixel_size_angstrom:.4f} Angstroms ; acceleration voltage: "
                f"{o.voltage_kv:.1f} keV ; spherical aberration: {o.spherical_aberration_mm:.2f} mm ; "
                f"amplitude contrast: {o.amplitude_contrast:.2f}",
                f"Box size: {self.size} pixels ; min. res.: {s.min_resolution_angstrom:.1f} Angstroms ; "
                f"max. res.: {s.max_resolution_angstrom:.1f} Angstroms ; min. def.: "
                f"{s.defocus_range_angstrom[0]:.1f} Angstroms ; max. def.: "
                f"{s.defocus_range_angstrom[1]:.1f} Angstroms",
                columns,
            )
        )


def write_values(path: Path, heading: Heading, row: dict[str, Any]) -> None:
    """CTFFIND4's seven columns: number, defoci, azimuth, phase shift in radians, correlation, spacing."""
    values = (
        row["defocus_u_angstrom"],
        row["defocus_v_angstrom"],
        row["defocus_angle_deg"],
        math.radians(row["phase_shift_deg"]),
        row["correlation"],
        row["fit_resolution_angstrom"],
    )
    columns = (
        "Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; #3 - defocus 2; #4 - azimuth of "
        "astigmatism; #5 - additional phase shift [radians]; #6 - cross correlation; #7 - spacing (in "
        "Angstroms) up to which CTF rings were fit successfully"
    )
    write_text(path, heading.lines(columns) + " ".join(["1.000000", *(f"{v:.6f}" for v in values)]) + "\n")


def write_curves(path: Path, heading: Heading, curves: "Curves") -> None:
    """CTFFIND4's six lines: frequency, two averages, fit, quality, twice the quality's noise."""
    columns = (
        "Line 1: spatial frequency (1/Angstroms); 2: rotational average without astigmatism; 3: average with "
        "astigmatism, background removed; 4: CTF fit; 5: cross-correlation between spectrum and fit; 6: "
        "2 sigma of the expected correlation of noise"
    )
    rows = (
        curves.frequency_per_angstrom,
        curves.average,
        curves.experiment,
        curves.fit,
        curves.quality,
        curves.noise,
    )
    write_text(path, heading.lines(columns) + "".join(" ".join(f"{v:.6g}" for v in r) + "\n" for r in rows))


def read_curves(path: Path) -> "np.ndarray":
    """The six lines ``(6, bins)`` of a file that ``write_curves`` wrote."""
    import numpy as np

    return np.loadtxt(path)


def write_picture(path: Path, picture: "np.ndarray", pixel_size_angstrom: float) -> None:
    """The diagnostic picture as an MRC image."""
    from parhelion.io.mrc import StackWriter

    with StackWriter(path, 1, picture.shape, pixel_size_angstrom) as writer:
        writer.write(0, picture[None])


def write_png(path: Path, picture: "np.ndarray", curves: "Curves", title: str) -> None:
    """The picture beside the one-dimensional curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.4, 5.4))
    left = figure.add_axes((0.0, 0.0, 5.4 / 11.4, 1.0))
    left.imshow(picture, cmap="gray", origin="lower", vmin=-3, vmax=3, interpolation="nearest")
    left.set_axis_off()
    right = figure.add_axes((0.53, 0.11, 0.45, 0.8))
    s = curves.frequency_per_angstrom
    right.plot(s, curves.experiment, color=GREEN, linewidth=1.0, label="spectrum")
    right.plot(s, curves.fit, color=ORANGE, linewidth=1.0, label="fitted CTF")
    right.plot(s, curves.quality, color=BLUE, linewidth=1.4, label="quality of fit")
    right.set_xlim(0, s[-1])
    right.set_ylim(-0.6, 1.6)
    right.set_xlabel("spatial frequency (1/Å)")
    right.set_title(title, fontsize=9)
    right.legend(loc="upper right", frameon=False, ncols=3, fontsize=8)
    with atomic_path(path) as draft:
        figure.savefig(draft, format="png", dpi=PNG_DPI, pil_kwargs={"compress_level": 1})
