"""CPU time of `ctf` per micrograph, after start-up, by step; on one thread.

    python benchmarks/speed/ctf.py [--edges 1024 2048 4096]

The micrographs are filtered noise of the given edges at 1 Å per pixel; the spectrum has 512 pixels and the
search is that of the defaults (5000 to 50,000 Å by 100 Å). On such a core CTFFIND 5 took 0.7 s for
1024 x 1024 pixels, diagnostic image included.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import hardware, parser, show_table
from parhelion.algorithms.ctf_fit.fit import fit_ctf
from parhelion.algorithms.ctf_fit.local import defocus_plane
from parhelion.algorithms.ctf_fit.phases import sine_and_cosine
from parhelion.algorithms.ctf_fit.picture import diagnostic_picture
from parhelion.algorithms.ctf_fit.settings import FitSettings, Optics
from parhelion.algorithms.ctf_fit.spectrum import spectrum_of_image
from parhelion.jobs._ctf_files import Heading, write_curves, write_picture, write_png, write_values

OPTICS = Optics(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.07)
REPEATS = 5


def micrograph(edge: int) -> np.ndarray:
    """Noise with Thon rings of 15,000 Å, 400 Å of astigmatism at 30°."""
    noise = np.fft.rfft2(np.random.default_rng(0).standard_normal((edge, edge)))
    ky, kx = (k.ravel() for k in np.meshgrid(np.fft.fftfreq(edge), np.fft.rfftfreq(edge), indexing="ij"))
    sine, _ = sine_and_cosine(
        kx, ky, np.array([15000.0]), np.array([[100.0, 173.2]]), np.zeros(1), OPTICS, cosine=False
    )
    power = 1 + 0.5 * np.exp(-40 * (kx**2 + ky**2)) * sine[0] ** 2
    return np.fft.irfft2(noise * np.sqrt(power).reshape(noise.shape), (edge, edge)).astype(np.float32)


def cpu_s(work: Callable[[], object]) -> float:
    """Median CPU seconds of REPEATS calls after one that is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return float(np.median(times))


def steps(edge: int, settings: FitSettings, folder: Path) -> dict[str, float]:
    """CPU seconds of every step for one micrograph."""
    image = micrograph(edge)
    spectrum = spectrum_of_image(image, 1.0)
    fit = fit_ctf(spectrum, OPTICS, settings)
    picture = diagnostic_picture(spectrum, fit, OPTICS)
    heading = Heading(name="m.mrc", pixel_size_angstrom=1.0, size=512, optics=OPTICS, settings=settings)
    row = {
        "defocus_u_angstrom": fit.defocus_u_angstrom,
        "defocus_v_angstrom": fit.defocus_v_angstrom,
        "defocus_angle_deg": fit.defocus_angle_deg,
        "phase_shift_deg": fit.phase_shift_deg,
        "correlation": fit.correlation,
        "fit_resolution_angstrom": fit.fit_resolution_angstrom,
    }

    def files() -> None:
        write_picture(folder / "m_ctf.mrc", picture, 1.4)
        write_curves(folder / "m_avrot.txt", heading, fit.curves)
        write_values(folder / "m_ctf.txt", heading, row)

    return {
        "spectrum": cpu_s(lambda: spectrum_of_image(image, 1.0)),
        "fit": cpu_s(lambda: fit_ctf(spectrum, OPTICS, settings)),
        "picture": cpu_s(lambda: diagnostic_picture(spectrum, fit, OPTICS)),
        "MRC and text files": cpu_s(files),
        "PNG": cpu_s(lambda: write_png(folder / "m_ctf.png", picture, fit.curves, "m")),
    }


def main() -> None:
    arguments = parser(__doc__ or "", data=False)
    arguments.add_argument("--edges", type=int, nargs="+", default=[1024, 2048, 4096])
    given = arguments.parse_args()
    torch.set_num_threads(1)
    print(hardware())
    searches = {
        "default": FitSettings(),
        "phase shift 0 to 180°": FitSettings(phase_shift_range_deg=(0.0, 180.0)),
        "exhaustive": FitSettings(exhaustive=True),
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for edge in given.edges:
            for name, settings in searches.items():
                found = steps(edge, settings, Path(folder))
                total = sum(found.values())
                rows.append(
                    (
                        f"{edge} x {edge}, {name}",
                        *(f"{v:.3f}" for v in found.values()),
                        f"{total:.3f}",
                        f"{3600 / total:,.0f}",
                    )
                )
    show_table(("CPU seconds", *found, "all", "per core and hour"), rows)
    image = micrograph(given.edges[0])
    fit = fit_ctf(spectrum_of_image(image, 1.0), OPTICS, FitSettings())
    plane = cpu_s(lambda: defocus_plane(image, 1.0, fit, OPTICS, FitSettings()))
    print(f"\ndefocus plane of {given.edges[0]} x {given.edges[0]}: {plane:.3f} s more")


if __name__ == "__main__":
    main()
