"""Precision and recall of picking on simulated micrographs, RELION's Laplacian of Gaussian beside it.

    python benchmarks/quality/picking.py [--data FOLDER] [--work FOLDER] [--template]

Molecules of three sizes (70S ribosome, β-galactosidase, one subunit of GroEL of 57 kDa) at three defoci and
two strengths of the ice's noise: one field of 2048² pixels of 1.5 Å each, 40 e⁻/Å² counted in one exposure
without motion. The ice stands still meanwhile, which overstates its noise. A particle counts as found where a
pick lies within a quarter of its largest dimension, each pick for one particle. Both programs are told the
size alone: maximum radius = half of the largest dimension (RELION's greatest diameter), characteristic radius
= 0.65 of it (RELION's smallest diameter); all else is default. ``--template`` adds the search by projections
of the molecule. With ``micrographs/k2_300kv_0.854A.mrc`` among the data, both also pick there, and how many
picks they share is printed. Best F1 is the largest harmonic mean of precision and recall over all thresholds
on the figure of merit, one for all fields of a molecule. CPU time per micrograph includes reading it.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gemmi
import torch

import common
from parhelion.algorithms.picking.matched import PickingCtf
from parhelion.algorithms.picking.search import PickSettings, pick_micrograph
from parhelion.algorithms.picking.templates import Templates, templates_from_map
from parhelion.algorithms.simulate.density import density_from_model
from parhelion.algorithms.simulate.movies import MovieSettings, MovieSimulator
from parhelion.algorithms.simulate.particles import Microscope
from parhelion.io.mrc import StackWriter, open_stack
from parhelion.io.star import read_star
from parhelion.jobs._pick_work import MASK_RADII
from parhelion.model.volume import Volume

PIXEL, SHAPE, DOSE = 1.5, (2048, 2048), 40.0
LABELS = ("rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit")
DEFOCI_UM, ICE = (0.8, 1.5, 2.5), (1.0, 3.0)
CHARACTERISTIC = 0.65
METHODS = ("blob", "gaussian", "template")
LOW = 3.0
MODELS = (
    ("ribosome", "ribosome70s_4v5d_C1.cif", None, 240),
    ("β-galactosidase", "beta_galactosidase_5a1a_D2.cif", None, 160),
    ("GroEL subunit", "groel_1mnf_D7.pdb", "A", 96),
)
OPTICS = """# version 30001

data_optics

loop_
_rlnOpticsGroupName
_rlnOpticsGroup
_rlnMicrographPixelSize
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
simulated 1 {pixel} 300 2.7 0.1

# version 30001

data_micrographs

loop_
_rlnMicrographName
_rlnOpticsGroup"""
REAL, REAL_PIXEL, REAL_RADIUS = "k2_300kv_0.854A.mrc", 0.85378, 90.0


@dataclass(frozen=True, kw_only=True)
class Field:
    """One simulated micrograph and what it holds."""

    path: Path
    ctf: PickingCtf
    xy_px: np.ndarray
    diameter_angstrom: float
    defocus_um: float
    ice: float


def molecule(models: Path, file: str, chain: str | None, box: int, folder: Path) -> Volume:
    """The density of a model, or of one of its chains."""
    path = models / file
    if chain is not None:
        whole = gemmi.read_structure(str(path))
        part = gemmi.Structure()
        part.add_model(gemmi.Model(1))
        part[0].add_chain(whole[0][chain])
        path = folder / f"{path.stem}_{chain}.pdb"
        part.write_pdb(str(path))
    return density_from_model(path, box, PIXEL)


def simulate(volume: Volume, name: str, defocus_um: float, ice: float, folder: Path) -> Field:
    """Count the electrons of one field and write it, unless it is there already."""
    settings = MovieSettings(
        shape=SHAPE,
        pixel_size_angstrom=PIXEL,
        frames=1,
        dose_per_frame=DOSE,
        ice_noise=ice,
        drift_angstrom=0.0,
        local_motion_angstrom=0.0,
    )
    microscope = Microscope(defocus_range_um=(defocus_um, defocus_um))
    simulator = MovieSimulator(volume, settings, microscope, seed=round(10 * defocus_um))
    truth = simulator.truth(0)
    path = folder / f"{name.replace(' ', '_')}_{defocus_um:g}_{ice:g}.mrc"
    if not path.is_file():
        expected = next(iter(simulator.expected(truth)))
        counts = np.random.default_rng(1).poisson(np.clip(expected, 0, None)).astype(np.float32)
        with StackWriter(path, 1, SHAPE, PIXEL) as writer:
            writer.write(0, counts[None])
    ctf = PickingCtf(
        defocus_u_angstrom=truth.defocus_u_angstrom,
        defocus_v_angstrom=truth.defocus_v_angstrom,
        defocus_angle_deg=truth.defocus_angle_deg,
        voltage_kv=microscope.voltage_kv,
        spherical_aberration_mm=microscope.spherical_aberration_mm,
        amplitude_contrast=microscope.amplitude_contrast,
    )
    return Field(
        path=path,
        ctf=ctf,
        xy_px=truth.placement.xy_px,
        diameter_angstrom=simulator.diameter_angstrom,
        defocus_um=defocus_um,
        ice=ice,
    )


def matched(found: np.ndarray, true: np.ndarray, within: float) -> np.ndarray:
    """Which of ``found (m, 2 or more)`` have one of ``true (n, 2)`` for themselves within this distance."""
    good = np.zeros(len(found), bool)
    if not len(found):
        return good
    distance = np.hypot(*(found[:, None, :2] - true[None]).transpose(2, 0, 1))
    taken: set[int] = set()
    for flat in np.argsort(distance, axis=None):
        i, j = divmod(int(flat), len(true))
        if distance[i, j] > within:
            break
        if not good[i] and j not in taken:
            good[i] = True
            taken.add(j)
    return good


def best_f1(merit: np.ndarray, good: np.ndarray, true: int) -> float:
    """The largest harmonic mean of precision and recall over all thresholds on ``merit (m,)``."""
    if not len(merit):
        return 0.0
    hits = np.cumsum(good[np.argsort(-merit, kind="stable")])
    return float(np.max(2 * hits / (np.arange(1, len(hits) + 1) + true)))


def ours(field: Field, settings: PickSettings, templates: Templates | None = None) -> np.ndarray:
    """Our picks ``(n, 3)``: x, y and merit."""
    image = open_stack(field.path).read(np.array([0]))[0]
    found = pick_micrograph(image, PIXEL, field.ctf, settings, white=False, templates=templates)
    return np.column_stack([found.xy_px, found.score])


def relion(
    paths: Sequence[Path], pixel: float, radius: float, folder: Path
) -> tuple[list[np.ndarray], float]:
    """RELION's picks ``(n, 3)`` in each micrograph, and its CPU seconds for all."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = [OPTICS.format(pixel=pixel)]
    for path in paths:
        (folder / path.name).symlink_to(path.resolve())
        lines.append(f"{path.name} 1")
    (folder / "micrographs.star").write_text("\n".join(lines) + "\n")
    words = (
        f"relion_autopick --i micrographs.star --odir ./ --pickname autopick --angpix {pixel} --LoG "
        f"--LoG_diam_min {2 * CHARACTERISTIC * radius:.0f} --LoG_diam_max {2 * radius:.0f}"
    )
    cpu = common.timed_program(words.split(), folder)
    found = []
    for path in paths:
        star = folder / f"{path.stem}_autopick.star"
        table = next(iter(read_star(star).values())) if star.is_file() else None
        found.append(
            np.zeros((0, 3))
            if table is None or table.rows == 0
            else np.stack([table[label] for label in LABELS], axis=1).astype(np.float64)
        )
    return found, cpu


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """The result and its CPU seconds."""
    before = time.process_time()
    found = work()
    return found, time.process_time() - before


def rows_of(
    program: str,
    name: str,
    fields: Sequence[Field],
    found: Sequence[np.ndarray],
    cpu_s: float,
    ranked: Sequence[np.ndarray],
) -> list[list[str]]:
    """A line per field and one for all of them; ``ranked`` are picks down to a low threshold."""
    rows, hits, picks, true = [], 0, 0, 0
    merit: list[np.ndarray] = []
    flags: list[np.ndarray] = []
    for field, xy, low in zip(fields, found, ranked, strict=True):
        within = 0.25 * field.diameter_angstrom / PIXEL
        good, count = int(matched(xy, field.xy_px, within).sum()), len(field.xy_px)
        hits, picks, true = hits + good, picks + len(xy), true + count
        merit.append(low[:, 2])
        flags.append(matched(low, field.xy_px, within))
        title = f"{name}, {field.defocus_um:g} µm, ice {field.ice:g}"
        rows.append([title, program, *_shares(good, len(xy), count), "", ""])
    f1 = best_f1(np.concatenate(merit), np.concatenate(flags), true)
    total = [f"{f1:.3f}", f"{cpu_s / len(fields):.2f}"]
    return [*rows, [f"**{name}, all**", program, *_shares(hits, picks, true), *total]]


def _shares(good: int, picks: int, true: int) -> list[str]:
    return [str(picks), f"{good / true:.3f}", f"{good / picks:.3f}" if picks else "–"]


def compare(
    model: tuple[str, str, str | None, int],
    volume: Volume,
    folder: Path,
    with_templates: bool,
    with_relion: bool,
) -> list[list[str]]:
    """All programs on all fields of one molecule."""
    name = model[0]
    fields = [simulate(volume, name, d, ice, folder) for d in DEFOCI_UM for ice in ICE]
    radius = 0.5 * fields[0].diameter_angstrom
    sizes = {
        "maximum_radius_angstrom": radius,
        "characteristic_radius_angstrom": CHARACTERISTIC * radius,
    }
    made, cpu = None, 0.0
    if with_templates:
        before = time.process_time()
        made = templates_from_map(
            volume, radius_angstrom=MASK_RADII * radius, pixel_angstrom=10.0, step_deg=30.0, rotations=36
        )
        cpu = time.process_time() - before
    rows = []
    for method in METHODS[: 3 if with_templates else 2]:
        resolution = 20.0 if method == "template" else 30.0
        settings = PickSettings(method=method, highest_resolution_angstrom=resolution, **sizes)
        templates = made if method == "template" else None
        found = [timed(partial(ours, field, settings, templates)) for field in fields]
        low = [
            ours(field, replace(settings, threshold_sigmas=LOW, avoid_abnormal_means=False), templates)
            for field in fields
        ]
        spent = sum(f[1] for f in found) + (cpu if templates is not None else 0.0)
        rows += rows_of(method, name, fields, [f[0] for f in found], spent, low)
    if with_relion:
        found, cpu = relion([f.path for f in fields], PIXEL, radius, folder / f"relion_{MODELS.index(model)}")
        rows += rows_of("RELION LoG", name, fields, found, cpu, found)
    return rows


def real(path: Path, folder: Path, with_relion: bool) -> None:
    """Both programs on a real micrograph, whose truth is unknown."""
    image = open_stack(path).read(np.array([0]))[0]
    settings = PickSettings(
        maximum_radius_angstrom=REAL_RADIUS, characteristic_radius_angstrom=CHARACTERISTIC * REAL_RADIUS
    )
    found, cpu = timed(lambda: pick_micrograph(image, REAL_PIXEL, None, settings, white=False).xy_px)
    print(f"\n{path.name}: blob {len(found)} picks in {cpu:.2f} s of CPU time (without reading)")
    if with_relion:
        # RELION 3.1 reads no unsigned 16-bit micrographs of this kind reliably: it gets float32
        copy = folder / "real.mrc"
        with StackWriter(copy, 1, image.shape, REAL_PIXEL) as writer:
            writer.write(0, image[None])
        others, cpu = relion([copy], REAL_PIXEL, REAL_RADIUS, folder / "relion_real")
        shared = matched(found, others[0][:, :2], 0.5 * REAL_RADIUS / REAL_PIXEL).sum()
        print(
            f"RELION LoG {len(others[0])} picks in {cpu:.2f} s; {shared} within "
            f"{0.5 * REAL_RADIUS:g} Å of ours"
        )


def main() -> None:
    """Simulate, pick, print."""
    options = common.parser(__doc__ or "")
    options.add_argument(
        "--work", type=Path, default=None, help="keep the micrographs here; those there are used"
    )
    options.add_argument("--template", action="store_true", help="also search with projections")
    given = options.parse_args()
    torch.set_num_threads(1)
    folder = given.work or Path(tempfile.mkdtemp(prefix="picking"))
    folder.mkdir(parents=True, exist_ok=True)
    version = common.relion_version()
    print(f"{common.hardware()}; one thread; RELION {version or 'not installed'}\n")
    rows = []
    for model in MODELS:
        _, file, chain, box = model
        volume = molecule(given.data / "models", file, chain, box, folder)
        rows += compare(model, volume, folder, given.template, version is not None)
    common.show_table(
        ("molecule", "program", "picks", "recall", "precision", "best F1", "CPU s per micrograph"), rows
    )
    micrograph = given.data / "micrographs" / REAL
    if micrograph.is_file():
        real(micrograph, folder, version is not None)
    if given.work is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
