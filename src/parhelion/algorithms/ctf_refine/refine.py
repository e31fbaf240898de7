"""Defocus, aberrations and magnification of particles with poses, by Gauss–Newton against a reference."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from parhelion.algorithms.ctf_refine.passes import (
    Agreement,
    SliceCache,
    Work,
    log_likelihood,
    measure,
    normal_equations,
)
from parhelion.algorithms.ctf_refine.picture import PhasePicture, phase_pictures
from parhelion.algorithms.ctf_refine.prepare import check_particles, number_micrographs, undistorted_loader
from parhelion.algorithms.ctf_refine.reference import References, prepare_references
from parhelion.algorithms.ctf_refine.search import search_defocus
from parhelion.algorithms.ctf_refine.settings import (
    LEAST_OF_GROUP,
    LEAST_OF_MICROGRAPH,
    CtfRefineSettings,
    layout_of,
)
from parhelion.algorithms.ctf_refine.significance import (
    BlockResult,
    dropped_columns,
    notices_of,
    put_back,
    refreshed,
    tested_blocks,
)
from parhelion.algorithms.ctf_refine.solve import Solution, solve
from parhelion.algorithms.ctf_refine.state import Changes, Start
from parhelion.algorithms.preparation import name_images, with_noise_groups
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.noise import background_noise, on_points
from parhelion.errors import InputError
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

NOISE_SAMPLE = 1000
STAGES = ((0.5, 2), (0.71, 3), (1.0, 10))
"""Shares of the resolution limit, and the most steps at each: phases of several radians are found in turn."""
LEAST_SHELLS = 8.0
MOST_NOTICES = 10
"""Of one kind: there may be thousands of optics groups."""
CONVERGED = 0.05
"""Standard errors below which a step changes nothing."""
JACOBIAN_BYTES = 48_000_000
LARGEST_CHUNK = 32
AMPLITUDES = (-0.95, 3.0)
LEAST_AGREEMENT = 8.0
"""Standard errors by which images and reference agree at the start; real ones do by hundreds."""
LARGEST_STRETCH = 0.04
"""How far a magnification may be off; ``reference.ROOM_FOR_STRETCH`` leaves room for it."""


@dataclass(frozen=True, kw_only=True)
class CtfRefineResult:
    """What was found.

    ``changes`` and ``errors`` hold every level in physical units, in the order of ``start.layout``;
    ``gain (n,)`` is by how much the log-likelihood of each particle grew; ``used (n,)`` says which particles
    had usable images. ``before`` and ``after`` compare data and reference shell by shell;
    ``pictures`` are those of the largest optics groups, by number.
    """

    particles: ParticleSet
    start: Start
    settings: CtfRefineSettings
    changes: Changes
    errors: Changes
    blocks: tuple[BlockResult, ...]
    references: References
    used: np.ndarray
    gain: np.ndarray
    before: Agreement
    after: Agreement
    resolution_used_angstrom: float
    pictures: dict[int, PhasePicture]

    def level(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Changes and errors ``(n,)`` or ``(micrographs,)`` of the column ``name`` that is no group's."""
        layout = self.start.layout
        for columns, values, errors in (
            (layout.particle, self.changes.particle, self.errors.particle),
            (layout.micrograph, self.changes.micrograph, self.errors.micrograph),
        ):
            for at, column in enumerate(columns):
                if column.name == name:
                    return values[:, at], errors[:, at]
        raise KeyError(name)


def refine_ctf(
    particles: ParticleSet,
    source: ParticleSource,
    maps: tuple[Volume, ...],
    settings: CtfRefineSettings,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    mask: Volume | None = None,
    device: str = "cpu",
    cache_bytes: int = 2**31,
) -> CtfRefineResult:
    """Refine what ``settings`` ask for against one map or two half maps.

    Defocus is searched before every stage of rising resolution; then Gauss–Newton steps move all parameters
    together. Every parameter has a Gaussian prior of the width that its ``Column`` states. Blocks of an
    optics group that the table does not correct yet, and whose change is not significant, are put back and
    told; what is corrected already takes its best value. Raises MetadataError for particles
    without poses, half sets or micrograph names where they are needed.
    """
    check_particles(particles)
    micrograph = number_micrographs(particles, settings)
    particles = with_noise_groups(particles)
    loader = undistorted_loader(particles, source, settings, cache_bytes, torch.device(device))
    references = prepare_references(
        maps, mask, particles, source.box, settings.resolution_limit_angstrom, observer, loader.device
    )
    start = Start(
        particles=particles,
        layout=layout_of(settings),
        micrograph=micrograph,
        frequency=references.highest_shell / loader.extent_angstrom,
    )
    noise = background_noise(loader, NOISE_SAMPLE, np.random.default_rng((settings.seed, 0)))
    whitening = on_points(noise, loader.points).rsqrt()
    whitening[:, torch.from_numpy(loader.points.radius < references.lowest_shell)] = 0.0
    work = Work(
        start=start,
        loader=loader,
        references=references.volumes,
        reference=references.of_particle,
        whitening=whitening.to(loader.device),
        used=np.ones(len(particles), bool),
        chunk=chunk_size(len(start.layout.columns), loader.points.count(references.highest_shell)),
        executor=executor,
        cancel=cancel,
        slice_cache=None
        if settings.magnification
        else SliceCache(left=_room_for_slices(loader.device, cache_bytes)),
    )
    return _Refinement(work=work, settings=settings, references=references, observer=observer).run()


def _room_for_slices(device: torch.device, cache_bytes: int) -> int:
    """Slices stay on the device: on a GPU they may have half of its memory that is free."""
    if device.type != "cuda":
        return cache_bytes
    return min(cache_bytes, int(torch.cuda.mem_get_info(device)[0]) // 2)


def chunk_size(columns: int, points: int) -> int:
    """How many particles are worked on at a time: their Jacobians fit into 48 MB."""
    return int(np.clip(JACOBIAN_BYTES // max(8 * columns * points, 1), 1, LARGEST_CHUNK))


@dataclass(kw_only=True)
class _Refinement:
    work: Work
    settings: CtfRefineSettings
    references: References
    observer: Observer
    steps: int = 0

    def run(self) -> CtfRefineResult:
        start, limit = self.work.start, self.references.highest_shell
        unchanged = start.unchanged()
        before = measure(self.work, unchanged, limit)
        self._leave_out_unusable()
        self._check_agreement(before)
        frozen, reasons = self._frozen()
        (first, most), *later = STAGES
        changes, solution = self._stage(unchanged, self._limit(first), most, frozen)
        for share, most in later:
            changes, solution = self._stage(changes, self._limit(share), most, frozen)
        blocks = tested_blocks(start, changes, solution, frozen, reasons)
        self._tell(notices_of(start, blocks))
        dropped = frozen | dropped_columns(start, blocks)
        if (dropped != frozen).any():
            changes = put_back(changes, dropped)
            changes, solution = self._stage(changes, limit, STAGES[-1][1], dropped)
            blocks = tuple(refreshed(start, block, changes, solution) for block in blocks)
        after = measure(self.work, changes, limit)
        weights = after.weights(limit)
        gain, old = (log_likelihood(self.work, at, limit, weights) for at in (changes, unchanged))
        used_shell = int(np.flatnonzero(weights).max(initial=0))
        return CtfRefineResult(
            particles=start.result(changes),
            start=start,
            settings=self.settings,
            changes=changes,
            errors=solution.errors,
            blocks=blocks,
            references=self.references,
            used=self.work.used,
            gain=gain - old,
            before=before,
            after=after,
            resolution_used_angstrom=self.work.loader.extent_angstrom / max(used_shell, 1),
            pictures=phase_pictures(self.work, changes, weights, limit),
        )

    def _limit(self, share: float) -> float:
        """Shells of a stage: a share of all, but not so few that they show no ring of the CTF."""
        limit = self.references.highest_shell
        return float(min(limit, max(share * limit, LEAST_SHELLS)))

    def _check_agreement(self, before: Agreement) -> None:
        """InputError where images and reference have nothing in common: all that follows would fit noise."""
        found = before.significance()
        if found < LEAST_AGREEMENT:
            opposite = found < -LEAST_AGREEMENT
            raise InputError(
                f"images and reference {'are of opposite contrast' if opposite else 'do not agree'} at the "
                f"particles' poses ({found:.1f} standard errors, at least {LEAST_AGREEMENT:g} are needed): "
                + (
                    "protein must be white in both; see --contrast"
                    if opposite
                    else "the reference must be in the frame and of the hand of the refinement that made the "
                    "poses"
                )
            )

    def _leave_out_unusable(self) -> None:
        bad = self.work.loader.bad_views
        if not bad:
            return
        rows = np.unique(self.work.start.particles.views.particle[sorted(bad)])
        self.work.used[rows] = False
        if not self.work.used.any():
            raise InputError("none of the particles has a usable image (all are constant or not finite)")
        if self.work.slice_cache is not None:
            self.work.slice_cache.clear()
        self.observer.notice(
            f"{len(rows)} particles have images that are not finite or constant; their parameters stay as "
            f"they are: {name_images(self.work.start.particles, rows)}"
        )

    def _tell(self, notices: list[str]) -> None:
        """Notices of one kind: all of a few, the first of many."""
        for notice in notices[:MOST_NOTICES]:
            self.observer.notice(notice)
        if len(notices) > MOST_NOTICES:
            self.observer.notice(f"… and {len(notices) - MOST_NOTICES} more notices of this kind")

    def _frozen(self) -> tuple[np.ndarray, dict[int, str]]:
        """Columns ``(groups, columns)`` that cannot be found, and why a whole group is left alone."""
        start = self.work.start
        groups, columns = start.particles.optics, start.layout.columns
        frozen = np.zeros((len(groups), len(columns)), bool)
        first = len(columns) - len(start.layout.group)
        reasons: dict[int, str] = {}
        few: list[str] = []
        without: list[str] = []
        for number, group in enumerate(groups):
            count = int((self.work.used & (start.group == number)).sum())
            if count < LEAST_OF_GROUP and start.layout.group:
                frozen[number, first:] = True
                reasons[number] = f"{count} particles are too few"
                few.append(
                    f"optics group {group.name} has {count} usable particles, at least {LEAST_OF_GROUP} are "
                    "needed: its aberrations and magnification stay as they are"
                )
            if (start.unit[number] == 0).any() and number not in reasons:
                without.append(
                    f"optics group {group.name} has no spherical aberration: a beam tilt has no effect and "
                    "stays as it is"
                )
        self._tell(few)
        self._tell(without)
        small = int((~start.large_micrographs(np.flatnonzero(self.work.used))).sum())
        if small and start.layout.micrograph:
            self.observer.notice(
                f"{small} of {len(start.group_of_micrograph)} micrographs have fewer than "
                f"{LEAST_OF_MICROGRAPH} usable particles: what is refined per micrograph stays as it is there"
            )
        return frozen | (start.unit == 0), reasons

    def _stage(
        self, changes: Changes, limit: float, most: int, frozen: np.ndarray
    ) -> tuple[Changes, Solution]:
        """Search and Gauss–Newton steps up to ``limit`` shells."""
        work, whole = self.work, int(limit)
        weights = measure(work, changes, limit).weights(whole)
        if self.settings.defocus != "no":
            changes = search_defocus(work, changes, self.settings, limit, weights)
            weights = measure(work, changes, limit).weights(whole)
        for _ in range(most):
            parts, agreement = normal_equations(work, changes, limit, weights)
            weights = agreement.weights(whole)
            solution = solve(work.start, changes, parts, frozen)
            changes = self._within_limits(solution.changes)
            self.steps += 1
            self.observer.record(
                "steps",
                step=self.steps,
                resolution_angstrom=work.loader.extent_angstrom / limit,
                largest_step_in_standard_errors=solution.step,
                median_step_of_particles_in_standard_errors=solution.particle_step,
            )
            # blocks that are put back ask for more steps than the stages have
            self.observer.progress("refine", self.steps, max(self.steps, sum(number for _, number in STAGES)))
            if max(solution.step, solution.particle_step) < CONVERGED:
                break
        return changes, solution

    def _within_limits(self, changes: Changes) -> Changes:
        """Amplitudes stay positive, defoci within the searched range, slices within the reference."""
        particle = changes.particle.copy()
        particle[:, 0] = np.clip(particle[:, 0], *AMPLITUDES)
        reach = self.settings.defocus_range_angstrom
        particle[:, 1:] = np.clip(particle[:, 1:], -reach, reach)
        sloped = [column.kind == "slice" for column in self.work.start.layout.group]
        bound = np.where(sloped, LARGEST_STRETCH, np.inf)
        focus = [column.name == "defocus" for column in self.work.start.layout.micrograph]
        far = np.where(focus, reach, np.inf)
        return replace(
            changes,
            particle=particle,
            micrograph=np.clip(changes.micrograph, -far, far),
            group=np.clip(changes.group, -bound, bound),
        )
