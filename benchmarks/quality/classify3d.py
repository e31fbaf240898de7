"""Three structures in one stack, two of them differing in one domain: who is told apart, and at what cost.

    python benchmarks/quality/classify3d.py [--data FOLDER] [--count 1200] [--align none|local|global]
                                            [--mixture ribosome|galactosidase] [--seed 1]
                                            [--relion global|fixed] [--folder FOLDER] [--record]

The mixture: half are 70S ribosomes, three in ten the same without the central protuberance (5S rRNA, L5,
L18, L25, L27 and helices 82 to 88 of the 23S rRNA, 146 kDa of 2.3 MDa), two in ten GroEL. Every particle lies
at a random orientation and shift; white noise makes the SNR 0.05 (variance of the CTF-modulated image over
the whole box, averaged, per variance of the noise). The two ribosomes have one brightness. What somebody who
knew all poses and both maps could tell is printed. ``--mixture galactosidase`` has beta-galactosidase, the
same without domain 4 of each chain, and apoferritin. ``--seed`` is that of the simulation: other poses and
other noise.

We refine all particles as one structure from the first one's map filtered to 60 Å (galactosidase 40 Å), then
classify.
``--relion global`` runs RELION from the same map with three classes, searching everywhere, 25 iterations;
``--relion fixed`` at the poses of our refinement, without alignment. ``--folder`` keeps RELION's files: a run
found there, whole or in part, is read instead of started. ``--record`` keeps its classes and CPU time;
without ``--relion`` recorded runs are shown.

Printed are CPU time (ours: refinement + classification), the share of particles in the right class (of the
best permutation) and of ribosomes alone, the probability stated of them, and where the FSC of every class
with its true map falls to 0.5 inside one soft mask of the true molecule, maps aligned first.
"""

import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
from mixtures import BOX, RECIPES, Mixture, mixture
from parhelion.algorithms.classify3d import Classification, ClassifySettings, classify3d
from parhelion.algorithms.map_alignment import align_maps
from parhelion.contracts import SilentObserver
from parhelion.fourier.shells import fsc, resolution_at
from parhelion.images.masks import automatic_mask
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.particles import write_particles
from parhelion.io.source import StackSource
from parhelion.io.star import read_star
from parhelion.io.star_writer import write_star
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table
from parhelion.model.volume import Volume
from parhelion.run.cancel import CancelFlag
from parhelion.run.executor import ThreadExecutor

RECORDED = "mixture_relion_{mode}.star"
RELION = (
    "relion_refine --i particles.star --ref start.mrc --firstiter_cc --ini_high {start:g} --o ./run --K 3 "
    "--iter 25 --tau2_fudge 4 --ctf {sampling} --sym C1 --pad 2 --norm --scale --particle_diameter "
    "{diameter:g} --flatten_solvent --zero_mask --dont_combine_weights_via_disc --pool 10 --j 1 "
    "--random_seed 1"
)
SAMPLING = {
    "global": "--healpix_order 2 --oversampling 1 --offset_range 3 --offset_step 2",
    "fixed": "--skip_align",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a program found: class (from 0) and stated probability of every image, maps of classes, or
    (``limits``) what their comparison with the truth showed."""

    name: str
    cpu_s: float
    number: np.ndarray
    probability: np.ndarray
    maps: tuple[np.ndarray, ...] = ()
    limits: tuple[str, ...] = ()


def right_ones(found: Found, label: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Which images are in the class that stands for their structure, and which class that is; of all ways to
    match classes and structures the one with most matches."""
    kinds = int(label.max()) + 1
    table = np.array([[((found.number == k) & (label == j)).sum() for j in range(kinds)] for k in range(3)])
    best = max(permutations(range(3), kinds), key=lambda p: sum(table[p[j], j] for j in range(kinds)))
    print(f"{found.name}: classes (rows) and structures (columns) {table.tolist()}", flush=True)
    return found.number == np.array(best)[label], best


def row(made: Mixture, found: Found) -> list[str]:
    """One line of the table."""
    right, best = right_ones(found, made.label)
    limits = found.limits or tuple(_limit(found.maps[k], made.maps[j], j == 2) for j, k in enumerate(best))
    return [
        found.name,
        f"{found.cpu_s:.0f}",
        f"{100 * right.mean():.1f} %",
        f"{100 * right[made.label < 2].mean():.1f} %",
        f"{100 * found.probability.mean():.1f} %",
        *limits,
    ]


def _limit(found: np.ndarray, truth: Volume, either_hand: bool) -> str:
    """Å where the FSC with the truth falls to 0.5; the third map came from nothing and has either hand."""
    mask = np.asarray(automatic_mask(truth).mask.data)
    pixel = truth.pixel_size_angstrom
    moving = Volume(data=np.asarray(found, np.float32), pixel_size_angstrom=pixel)
    laid = align_maps(moving, truth, allow_other_hand=either_hand).aligned
    curve = fsc(np.asarray(laid.data) * mask, np.asarray(truth.data) * mask)
    return f"{resolution_at(curve, 0.5, BOX, pixel):.1f}"


def by_us(made: Mixture, align: str) -> tuple[Found, ParticleSet]:
    """Our refinement of everything as one structure, then the classification; and the poses of the first."""
    source = StackSource(made.particles)
    diameter = made.recipe.diameter_angstrom
    together, cpu = common.refine(made.particles, source, made.start, diameter_angstrom=diameter)
    found, more = classified(together.particles, diameter_angstrom=diameter, align=align)
    named = f"parhelion, --align {align} ({cpu:.0f} + {more:.0f} s)"
    return _ours(named, cpu + more, found, len(made.label)), together.particles


def _ours(name: str, cpu: float, found: Classification, count: int) -> Found:
    rows = found.particles.views.image_index
    number, probability = np.full(count, -1), np.zeros(count)
    if found.particles.class_number is None:
        sys.exit("a classification has classes")
    number[rows] = found.particles.class_number - 1
    probability[rows] = found.particles.extra["rlnMaxValueProbDistribution"]
    maps = tuple(np.asarray(one.map.data) for one in found.classes)
    return Found(name=name, cpu_s=cpu, number=number, probability=probability, maps=maps)


def classified(particles: ParticleSet, **settings: object) -> tuple[Classification, float]:
    """Our classification and its CPU seconds."""
    cancel = CancelFlag()
    executor = ThreadExecutor(2, cancel)
    before = time.process_time()
    try:
        wanted = ClassifySettings(**settings)  # type: ignore[arg-type]
        found = classify3d(
            particles,
            StackSource(particles),
            wanted,
            executor=executor,
            observer=SilentObserver(),
            cancel=cancel,
        )
    finally:
        executor.close()
    return found, time.process_time() - before


def by_relion(made: Mixture, mode: str, folder: Path, poses: ParticleSet) -> Found:
    """RELION's classification in ``folder``: run there, or read where it ran or runs."""
    if not list(folder.glob("run_it*_data.star")):
        common.write_for_relion(
            folder, made.particles, StackSource(made.particles), np.arange(len(made.label))
        )
        if mode == "fixed":
            table = replace(poses, half=None, extra=Table({"rlnMicrographName": _one_name(len(poses))}))
            views = replace(table.views, image_path=(folder / "particles.mrcs",))
            write_particles(folder / "particles.star", replace(table, views=views))
        write_volume(folder / "start.mrc", made.start)
        start, diameter = made.recipe.start_angstrom, made.recipe.diameter_angstrom
        words = RELION.format(start=start, diameter=diameter, sampling=SAMPLING[mode])
        (folder / "command.txt").write_text(words + "\n")
        cpu = common.timed_program(words.split(), folder)
        (folder / "cpu.txt").write_text(f"0m0s 0m0s\n{int(cpu // 60)}m{cpu % 60:.2f}s 0m0s\n")
    last = sorted(folder.glob("run_it*_data.star"))[-1]
    iteration = int(last.name[6:9])
    table = read_star(last)["particles"]
    image = np.array([int(str(name).split("@")[0]) - 1 for name in table["rlnImageName"]])
    number, probability = np.full(len(made.label), -1), np.zeros(len(made.label))
    number[image] = np.asarray(table["rlnClassNumber"], np.int64) - 1
    probability[image] = np.asarray(table["rlnMaxValueProbDistribution"], np.float64)
    names = [last.with_name(f"run_it{iteration:03d}_class{k:03d}.mrc") for k in (1, 2, 3)]
    return Found(
        name=f"RELION {common.relion_version()}, {mode}, after iteration {iteration}",
        cpu_s=_cpu_of(folder / "cpu.txt"),
        number=number,
        probability=probability,
        maps=tuple(np.asarray(read_volume(name).data) for name in names),
    )


def _cpu_of(path: Path) -> float:
    """Seconds of user and system time in the second line of what a shell's ``times`` wrote."""
    values = re.findall(r"(\d+)m([\d.]+)s", path.read_text().splitlines()[1])
    return sum(60 * float(minutes) + float(seconds) for minutes, seconds in values)


def _one_name(count: int) -> np.ndarray:
    return np.full(count, "all.mrc", dtype=object)


def record(path: Path, found: Found, line: Sequence[str], command: str) -> None:
    """Keeps classes and probabilities of a run, and what its maps showed."""
    comments = (*common.record_comments(found.name, found.cpu_s, command), "limits: " + ", ".join(line[5:]))
    columns = {
        "rlnImageName": np.array([f"{i + 1}@particles.mrcs" for i in range(len(found.number))], object),
        "rlnClassNumber": found.number + 1,
        "rlnMaxValueProbDistribution": np.round(found.probability, 4),
    }
    write_star(path, {"particles": Table(columns)}, comments=comments)


def read_recorded(path: Path) -> Found:
    """What ``record`` kept."""
    name, cpu = common.recorded(path)
    limits = re.search(r"limits: (.+)", path.read_text())
    table = read_star(path)["particles"]
    return Found(
        name=f"{name}, recorded",
        cpu_s=cpu,
        number=np.asarray(table["rlnClassNumber"], np.int64) - 1,
        probability=np.asarray(table["rlnMaxValueProbDistribution"], np.float64),
        limits=tuple(limits.group(1).split(", ")) if limits else ("-",) * 3,
    )


def main() -> None:
    """Make the mixture, classify, print."""
    parser = common.parser(__doc__)
    parser.add_argument("--count", type=int, default=1200, help="images")
    parser.add_argument("--mixture", choices=sorted(RECIPES), default="ribosome", help="what is mixed")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    parser.add_argument("--align", default="global", help="what we do with poses, with commas for several")
    parser.add_argument("--relion", choices=sorted(SAMPLING), help="run RELION, or read a run of --folder")
    parser.add_argument("--folder", type=Path, help="where RELION's files are kept")
    parser.add_argument("--record", action="store_true", help="keep RELION's result for later")
    given = parser.parse_args()
    print(f"{common.hardware()}; CPU time, user + system", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        recipe = RECIPES[given.mixture]
        made = mixture(recipe, given.data / "models", Path(temporary), given.count, given.seed)
        print(
            f"with poses and maps known {100 * made.possible:.1f} % of the first two could be told",
            flush=True,
        )
        table = []
        poses = made.particles
        for align in given.align.split(","):
            ours, poses = by_us(made, align)
            table.append(row(made, ours))
            print(table[-1], flush=True)
        if given.relion:
            folder = given.folder or Path(temporary) / "relion"
            found = by_relion(made, given.relion, folder, poses)
            table.append(row(made, found))
            if given.record:
                command = (folder / "command.txt").read_text().strip()
                record(common.RECORDED / RECORDED.format(mode=given.relion), found, table[-1], command)
        elif (given.mixture, given.count, given.seed) == ("ribosome", 1200, 1):
            kept = [common.RECORDED / RECORDED.format(mode=mode) for mode in SAMPLING]
            table += [row(made, read_recorded(path)) for path in kept if path.exists()]
    print()
    heads = [
        "",
        "CPU s",
        "right",
        "first two right",
        "stated",
        *(f"FSC 0.5 {name} Å" for name in recipe.names),
    ]
    common.show_table(heads, table)


if __name__ == "__main__":
    main()
