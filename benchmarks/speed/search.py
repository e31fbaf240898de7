"""Exhaustive search: RELION's expectation step against parhelion's, same sampling, same particles, one core.

    python benchmarks/speed/search.py [--data FOLDER] [--particles 60]

Both compare every particle of blob_particles with the same reference (the true map, on the images' grey
scale) at 36,864 orientations (7.5°) and 29 shifts (3 Å) up to 10 Å. RELION runs one iteration without
oversampling or local steps and without reconstructing; what a run with 72 orientations takes (starting,
reading, noise) is subtracted. Ours counts everything: reading, transforms, CTF, slices (shared by all 600
particles) and search. Pose errors are of the best grid point, up to half a step from the truth.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.noise import background_noise, on_points
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import fourier_volume
from parhelion.engine.score import ScoreSettings, searched
from parhelion.engine.search import search_precision, shift_grid, slice_bank
from parhelion.geometry.so3 import so3_grid
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.source import StackSource
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

LIMIT_ANGSTROM = 10.0
GRID_ORDER, SHIFT_STEPS, SHIFT_STEP_PIXELS = 3, 3, 1
DIAMETER_ANGSTROM = 150.0
# Projections of truth.mrc times this are the particles: least squares against relion_project's.
GREY_SCALE = 0.0424
SHIFT_SPREAD_ANGSTROM = 4.0
RELION = (
    "relion_refine --i particles.star --ref reference.mrc --o ./run --iter 1 --sym C1 --pad 2 --ctf "
    "--ctf_corrected_ref --norm --scale --particle_diameter {diameter:g} --zero_mask --j 1 --random_seed 1 "
    "--skip_maximize --perturb 0 --ini_high {limit:g} --strict_highres_exp {limit:g} --oversampling 0 "
    "--healpix_order {order} --offset_range {steps} --offset_step {step}"
)


def relion(folder: Path, order: int) -> tuple[float, str]:
    """CPU seconds of one expectation step, and the command line."""
    words = RELION.format(
        diameter=DIAMETER_ANGSTROM,
        limit=LIMIT_ANGSTROM,
        order=order,
        steps=SHIFT_STEPS * SHIFT_STEP_PIXELS,
        step=SHIFT_STEP_PIXELS,
    )
    return common.timed_program(words.split(), folder), words


def ours(
    particles: ParticleSet, source: StackSource, reference: Volume, show_parts: bool
) -> tuple[float, float, ParticleSet]:
    """CPU seconds of everything, operations per second of the search, and the particles at their best."""
    start = time.process_time()
    pixel = particles.optics[0].pixel_size_angstrom
    extent = source.box * pixel
    shell = extent / LIMIT_ANGSTROM
    points = FourierPoints(source.box, int(np.ceil(shell)))
    count = points.count(shell)
    loader = ParticleLoader(
        particles=particles, source=source, points=points, diameter_angstrom=DIAMETER_ANGSTROM
    )
    noise = on_points(background_noise(loader, 200, np.random.default_rng(0)), points)
    batch = loader.batch(np.arange(len(particles)), count).whitened(noise)
    read = time.process_time()
    rotations = torch.from_numpy(so3_grid(GRID_ORDER))
    volume = fourier_volume(torch.from_numpy(reference.data), points.max_shell)
    precision = search_precision(torch.device("cpu"))
    bank = slice_bank(volume, rotations, batch.tilts, points, count, precision)
    sliced = time.process_time()
    step = SHIFT_STEP_PIXELS * pixel / extent
    shifts = shift_grid(SHIFT_STEPS * step, step)
    settings = ScoreSettings(
        top=1,
        stages=(),
        shift_precision=0.5 * (extent / SHIFT_SPREAD_ANGSTROM) ** 2,
        same_angle_rad=0.0,
        same_shift=0.0,
    )
    centres = torch.zeros((len(particles), 3), dtype=torch.float64)
    hits = searched(batch, bank, shifts, centres, settings, points)
    end = time.process_time()
    if show_parts:
        n = len(particles)
        print(
            f"ours: {n} particles, {len(rotations)} orientations x {len(shifts)} shifts, {count} Fourier "
            f"points, {str(precision).split('.')[-1]}; CPU ms per particle: read and transform "
            f"{(read - start) / n * 1e3:.2f}, slices {(sliced - read) / n * 1e3:.2f}, search "
            f"{(end - sliced) / n * 1e3:.2f}"
        )
    # half turns share their products, so that half of the plain products' operations are left
    share = 1.0 if bank.pairs is None else 0.5
    operations = share * 2.0 * len(particles) * len(shifts) * len(rotations) * 2 * count
    return (
        end - start,
        operations / (end - sliced),
        particles.with_poses(hits.rotation.numpy(), hits.shift.numpy() * extent),
    )


def peak(precision: torch.dtype, size: int = 2048, tries: int = 5) -> float:
    """Operations per CPU second of a large square product on one core, the best of a few."""
    a = torch.randn(size, size).to(precision)
    b = torch.randn(size, size).to(precision)
    best = np.inf
    for _ in range(tries):
        start = time.process_time()
        a @ b.T
        best = min(best, time.process_time() - start)
    return 2.0 * size**3 / best


def main() -> None:
    """Run both and print one table."""
    parser = common.parser(__doc__)
    parser.add_argument("--particles", type=int, default=60, help="how many particles RELION searches")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = given.data / "blob_particles"
    truth, source = common.particles_with_images(data / "truth.star")
    map_ = read_volume(data / "truth.mrc")
    reference = Volume(
        data=np.asarray(map_.data, np.float32) * np.float32(GREY_SCALE), pixel_size_angstrom=3.0
    )
    print(f"{common.hardware()}; torch {torch.__version__}; one core each, CPU time (user + system)")
    known = common.poses_of(truth)
    rows = np.sort(np.random.default_rng(0).permutation(len(truth))[: given.particles])
    ours(truth.take(rows[:4]), source_of(truth, rows[:4]), reference, show_parts=False)  # compiles kernels
    spent, rate, found = ours(truth, source, reference, show_parts=True)
    slice_errors = common.pose_errors(common.poses_of(found.take(rows)), known)
    every = common.pose_errors(common.poses_of(found), known)
    per_particle = spent / len(truth) * 1e3
    table = [
        [
            f"parhelion, {len(truth)} particles",
            f"{per_particle:.1f}",
            f"{slice_errors.median_deg:.1f}",
            f"{100 * slice_errors.within_10deg:.0f} %",
            f"{slice_errors.median_shift_angstrom:.1f}",
        ]
    ]
    version = common.relion_version()
    if version:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            common.write_for_relion(folder, truth, source, rows)
            write_volume(folder / "reference.mrc", reference)
            idle, _ = relion(folder, 0)
            busy, words = relion(folder, GRID_ORDER)
            theirs = common.read_poses(folder / "run_it001_data.star")
        errors = common.pose_errors(theirs, common.poses_of(truth.take(rows), np.arange(len(rows))))
        relion_ms = (busy - idle) / len(rows) * 1e3
        table.append(
            [
                f"RELION {version}, {len(rows)} particles",
                f"{relion_ms:.0f}",
                f"{errors.median_deg:.1f}",
                f"{100 * errors.within_10deg:.0f} %",
                f"{errors.median_shift_angstrom:.1f}",
            ]
        )
        print(f"RELION: {words}\n({idle:.1f} s of CPU time at 72 orientations subtracted from {busy:.1f} s)")
    print()
    common.show_table(
        ["", "CPU ms per particle", "median error °", "within 10°", "median shift error Å"], table
    )
    print(f"\n(errors of the same {len(rows)} particles; ours on all {len(truth)}: {every.median_deg:.1f}°)")
    if version:
        print(f"ratio of CPU times: {relion_ms / per_particle:.0f} (goal: 150)")
    used = search_precision(torch.device("cpu"))
    print(
        f"products: search {rate / 1e9:.0f} GFLOP/s of a measured peak of {peak(used) / 1e9:.0f} "
        f"({str(used).split('.')[-1]}; float32 {peak(torch.float32) / 1e9:.0f}): "
        f"{100 * rate / peak(used):.0f} % (goal: 60 %)"
    )


def source_of(particles: ParticleSet, rows: np.ndarray) -> StackSource:
    """Images of a selection of particles."""
    return StackSource(particles.take(rows))


if __name__ == "__main__":
    main()
