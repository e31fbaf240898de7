"""What `ctf` finds, against published fits and against known truth.

    python benchmarks/quality/ctf.py [--data FOLDER] [--count 12]

1. Twelve real power spectra (`bgal_spectra`) against CTFFIND4's published values: the differences of mean
   defocus and astigmatism must stay within 100 Å. They are fitted with four settings.
2. A real micrograph, whole and in parts of 1024 x 1024 pixels.
3. Simulated micrographs of 1024 x 1024 pixels with random defocus (0.5 to 5 µm), astigmatism, angle and, in
   one row, phase shift, at falling signal: errors of the fits that `ctf` calls confident, and how many are.
4. Tilted simulated micrographs: error of the tilt.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import hardware, parser, show_table
from parhelion.algorithms.ctf_fit.fit import fit_ctf
from parhelion.algorithms.ctf_fit.local import defocus_plane
from parhelion.algorithms.ctf_fit.phases import sine_and_cosine
from parhelion.algorithms.ctf_fit.settings import CtfFit, FitSettings, Optics
from parhelion.algorithms.ctf_fit.spectrum import given_spectrum, spectrum_of_image
from parhelion.io.mrc import open_stack

KRIOS = Optics(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.07)
TALOS = Optics(voltage_kv=200.0, spherical_aberration_mm=1.4, amplitude_contrast=0.1)
EDGE, PIXEL = 1024, 1.2
WANTED_ANGSTROM = 100.0


def published(folder: Path) -> None:
    """Fits of the twelve spectra beside CTFFIND4's."""
    with (folder / "reference.csv").open() as stream:
        references = list(csv.DictReader(stream))
    settings = {
        "defaults": FitSettings(),
        "exhaustive": FitSettings(exhaustive=True),
        "to 3.5 Å": FitSettings(max_resolution_angstrom=3.5),
        "0 to 8 µm": FitSettings(defocus_range_angstrom=(100.0, 80000.0)),
    }
    worst = {name: [0.0, 0.0] for name in settings}
    rows = []
    for row in references:
        stack = open_stack(folder / row["power_spectrum"])
        spectrum = given_spectrum(stack.read(np.array([0]))[0], stack.pixel_size_angstrom or 1.39955)
        u, v, angle = (float(row[f"defocus_{k}"]) for k in ("u_angstrom", "v_angstrom", "angle_degrees"))
        for name, setting in settings.items():
            fit = fit_ctf(spectrum, TALOS, setting)
            away = fit.defocus_angstrom - (u + v) / 2, fit.astigmatism_angstrom - (u - v)
            worst[name] = [max(a, abs(b)) for a, b in zip(worst[name], away)]
            if name == "defaults":
                rows.append(
                    (
                        row["power_spectrum"].removesuffix("_frameImage_PS.mrc"),
                        f"{(u + v) / 2:.0f} / {u - v:.0f} / {angle:.0f}",
                        f"{fit.defocus_angstrom:.0f} / {fit.astigmatism_angstrom:.0f} / "
                        f"{fit.defocus_angle_deg:.0f}",
                        f"{away[0]:+.0f}",
                        f"{away[1]:+.0f}",
                        f"{fit.fit_resolution_angstrom:.2f}",
                        f"{fit.significance:.0f}",
                    )
                )
    print("\nReal spectra: mean defocus / astigmatism (Å) / angle (°)\n")
    head = ("spectrum", "CTFFIND4", "parhelion", "defocus", "astigmatism", "rings to (Å)", "σ")
    show_table(head, rows)
    for name, (defocus, astigmatism) in worst.items():
        verdict = "within" if max(defocus, astigmatism) <= WANTED_ANGSTROM else "BEYOND"
        print(
            f"{name}: at most {defocus:.0f} Å in defocus and {astigmatism:.0f} Å in astigmatism, "
            f"{verdict} {WANTED_ANGSTROM:.0f} Å"
        )


def describe(name: str, fit: CtfFit) -> tuple[str, ...]:
    """One row on a fit."""
    return (
        name,
        f"{fit.defocus_angstrom:.0f}",
        f"{fit.astigmatism_angstrom:.0f}",
        f"{fit.fit_resolution_angstrom:.2f}",
        f"{fit.significance:.1f}",
        "yes" if fit.confident else "no",
    )


def recorded_micrograph(path: Path) -> None:
    """The real micrograph and its quarters."""
    image = open_stack(path).read(np.array([0]))[0]
    rows = [describe("whole", fit_ctf(spectrum_of_image(image, 0.85378), KRIOS, FitSettings()))]
    for number, (y, x) in enumerate(((0, 0), (0, 2600), (2600, 0), (2600, 2600)), 1):
        part = image[y : y + 1024, x : x + 1024]
        rows.append(
            describe(f"part {number}", fit_ctf(spectrum_of_image(part, 0.85378), KRIOS, FitSettings()))
        )
    print("\nReal micrograph (0.85378 Å, 300 kV; a published one-dimensional fit says about 10,600 Å)\n")
    show_table(("", "defocus (Å)", "astigmatism (Å)", "rings to (Å)", "σ", "confident"), rows)


def simulated(
    defocus: float, half: float, angle: float, phase: float, signal: float, seed: int
) -> np.ndarray:
    """Filtered noise with Thon rings, ``(EDGE, EDGE)`` float32."""
    noise = np.fft.rfft2(np.random.default_rng(seed).standard_normal((EDGE, EDGE)))
    ky, kx = (
        k.ravel()
        for k in np.meshgrid(np.fft.fftfreq(EDGE, PIXEL), np.fft.rfftfreq(EDGE, PIXEL), indexing="ij")
    )
    vector = half * np.array([[np.cos(2 * angle), np.sin(2 * angle)]])
    sine, _ = sine_and_cosine(kx, ky, np.array([defocus]), vector, np.array([phase]), KRIOS, cosine=False)
    s2 = kx**2 + ky**2
    power = (1 + 2 * np.exp(-s2 / 0.0018)) * (1 + signal * np.exp(-40 * s2) * sine[0] ** 2)
    return np.fft.irfft2(noise * np.sqrt(power).reshape(noise.shape), (EDGE, EDGE)).astype(np.float32)


def known_truth(count: int) -> None:
    """Errors at falling signal."""
    rows = []
    for signal, with_phase in (
        (1.0, False),
        (0.5, False),
        (0.3, False),
        (0.15, False),
        (0.0, False),
        (0.5, True),
    ):
        rng = np.random.default_rng(7)
        settings = FitSettings(phase_shift_range_deg=(0.0, 180.0) if with_phase else None)
        errors, phases, reach = [], [], []
        for seed in range(count):
            defocus, astigmatism = rng.uniform(5500, 49000), rng.uniform(0, 800)
            angle, phase = rng.uniform(0, np.pi), rng.uniform(20, 160) if with_phase else 0.0
            image = simulated(defocus, astigmatism / 2, angle, phase, signal, seed)
            fit = fit_ctf(spectrum_of_image(image, PIXEL), KRIOS, settings)
            if fit.confident:
                errors.append((fit.defocus_angstrom - defocus, fit.astigmatism_angstrom - astigmatism))
                phases.append(fit.phase_shift_deg - phase)
                reach.append(fit.fit_resolution_angstrom)
        found = np.abs(errors) if errors else np.full((1, 2), np.nan)
        rows.append(
            (
                f"{signal:g}" + (", phase shift" if with_phase else ""),
                f"{len(errors)}/{count}",
                f"{np.median(found[:, 0]):.0f}",
                f"{found[:, 0].max():.0f}",
                f"{np.median(found[:, 1]):.0f}",
                f"{np.median(np.abs(phases)):.1f}" if with_phase else "",
                f"{np.median(reach):.1f}" if reach else "",
            )
        )
    print(f"\nSimulated, {EDGE} x {EDGE} pixels of {PIXEL} Å; errors of confident fits\n")
    show_table(
        (
            "rings per background",
            "confident",
            "defocus, median (Å)",
            "worst (Å)",
            "astigmatism (Å)",
            "phase (°)",
            "rings to (Å)",
        ),
        rows,
    )


def tilts() -> None:
    """Error of the tilt of simulated micrographs."""
    rows = []
    y, x = (np.indices((EDGE, EDGE)) - EDGE // 2) * PIXEL
    for tilt in (0, 15, 30, 45):
        for seed in range(3):
            axis = np.random.default_rng(seed).uniform(0, np.pi)
            height = np.tan(np.radians(tilt)) * (np.cos(axis) * x + np.sin(axis) * y)
            levels = np.linspace(height.min(), height.max(), 32) if tilt else np.zeros(1)
            width = levels[1] - levels[0] if tilt else 1.0
            image = np.zeros((EDGE, EDGE), np.float32)
            for level in levels:
                part = simulated(16000.0 + level, 150.0, 0.5, 0.0, 0.5, seed)
                image += part * np.clip(1 - np.abs(height - level) / width, 0, None).astype(np.float32)
            fit = fit_ctf(spectrum_of_image(image, PIXEL), KRIOS, FitSettings())
            plane = defocus_plane(image, PIXEL, fit, KRIOS, FitSettings())
            turned = (plane.axis_deg - np.degrees(axis) - 90 + 90) % 180 - 90
            rows.append(
                (
                    f"{tilt}°",
                    f"{plane.tilt_deg:.1f}°",
                    f"{turned:+.1f}°" if plane.believed and tilt else "",
                    f"{plane.defocus_angstrom - 16000:+.0f}",
                )
            )
    print("\nTilted, rings 0.5 of the background\n")
    show_table(("tilt", "found", "axis off by", "defocus off by (Å)"), rows)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--count", type=int, default=12, help="simulated micrographs per row")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    print(hardware())
    published(given.data / "bgal_spectra")
    recorded_micrograph(given.data / "micrographs" / "k2_300kv_0.854A.mrc")
    known_truth(given.count)
    tilts()


if __name__ == "__main__":
    main()
