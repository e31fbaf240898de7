"""Classification in the plane: expectation and maximisation, cycle by cycle, to sorted classes.

Sigworth, J. Struct. Biol. 122, 328 (1998), Scheres et al., J. Mol. Biol. 348, 139 (2005) and, for the
schedules, Grant et al., eLife 7, e35383 (2018). Each class is averaged in two halves of its particles, whose
agreement gives the signal's power per shell, hence the Wiener filter, and the class's resolution.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from parhelion.algorithms.class2d import checkpoint
from parhelion.algorithms.class2d.expectation import Expectation, expect
from parhelion.algorithms.class2d.maximisation import Maximised, centres_of, maximise, moved, refilled
from parhelion.algorithms.class2d.problem import Averaging, Class2dProblem, ClassState, make_problem
from parhelion.algorithms.class2d.settings import Class2dSettings, Plan, chosen_rows, plan
from parhelion.algorithms.class2d.start import given_averages, posed_state, random_averages, table_averages
from parhelion.algorithms.class2d.weights import new_scale, new_sigma
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.checkpoint import fingerprint
from parhelion.engine.noise import background_noise
from parhelion.model.particles import ParticleSet

NOISE_SAMPLE = 1000
REFILL_SHARE, CENTRE_SHARE = 0.7, 0.9
"""Share of the cycles in which empty classes are refilled, and averages centred."""
LARGEST_MOVE = 0.1
"""Of the diameter, by which an average is centred in one cycle."""
LEAST_SIGMA_ANGSTROM, LEAST_SIGMA_SHARE = 3.0, 0.25
"""Of the shifts' spread, in Å and of the range: shifts found on a coarse grid look smaller than they are."""
LARGEST_NOISE_STEP = 2.0


@dataclass(frozen=True, kw_only=True)
class Class2dResult:
    """Classes sorted by size, and what became of each particle that took part.

    ``averages`` ``(c, box, box)``, ``start`` those that they grew from, ``frc`` ``(c, s)`` between half
    averages, ``share`` ``(c,)`` of the particles. ``rows`` are the particles that took part; per row
    ``category`` (from 0), ``psi_deg``, ``shift_angstrom`` ``(m, 2)``, ``probability``, ``evidence``,
    ``sigma`` and ``scale`` (``weights``). ``percent_used`` is the share of particles in the last cycle.
    """

    averages: np.ndarray
    start: np.ndarray
    frc: np.ndarray
    share: np.ndarray
    rows: np.ndarray
    category: np.ndarray
    psi_deg: np.ndarray
    shift_angstrom: np.ndarray
    probability: np.ndarray
    evidence: np.ndarray
    sigma: np.ndarray
    scale: np.ndarray
    pixel_size_angstrom: float
    extent_angstrom: float
    percent_used: float


def classify(
    particles: ParticleSet,
    source: ParticleSource,
    settings: Class2dSettings,
    *,
    references: np.ndarray | None = None,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    device: str = "cpu",
    checkpoints: Path | None = None,
    resume: bool = False,
    cache_bytes: int = 2**31,
    cycle_done: Callable[[int, np.ndarray], None] | None = None,
    partial_sums: Path | None = None,
) -> Class2dResult:
    """Classes of ``particles``; see the module.

    ``references`` ``(c, box, box)``, protein white, replace the random start. ``cycle_done`` is given the
    number of each cycle and its averages. ``partial_sums`` is where the sums of the last cycle go
    (``partial``). Raises ParameterError and InputError for what cannot be classified.
    """
    problem = make_problem(
        particles,
        source,
        settings,
        None if references is None else len(references),
        executor=executor,
        observer=observer,
        cancel=cancel,
        device=device,
        cache_bytes=cache_bytes,
    )
    mark = _mark(particles, settings, references, problem.rows)
    state = checkpoint.load_last(checkpoints, mark, observer) if checkpoints and resume else None
    first = first_state(problem, references)
    state = state or first
    while state.cycle < settings.cycles:
        cancel.check()
        found, now = looked_at(problem, state)
        if partial_sums is not None and state.cycle == settings.cycles - 1:
            from parhelion.algorithms.class2d import partial

            parts_mark = _mark(particles, replace(settings, first=1, last=None), references, problem.usable)
            partial.save(partial_sums, problem, first, found, now, parts_mark)
        state = run_cycle(problem, state, found, now)
        if cycle_done is not None:  # before the checkpoint: a run that goes on does not come back here
            cycle_done(state.cycle, state.averages)
        if checkpoints is not None:
            checkpoint.save(checkpoints, state, mark)
    return _finished(problem, state, first.averages)


def first_state(problem: Class2dProblem, references: np.ndarray | None) -> ClassState:
    """The state before the first cycle: averages of the start, and noise from the background."""
    settings, n = problem.settings, len(problem.half)
    noise = background_noise(problem.loader, NOISE_SAMPLE, np.random.default_rng((settings.seed, 1))).numpy()
    state = ClassState(
        averages=np.zeros((problem.classes, problem.box, problem.box), np.float32),
        share=np.full(problem.classes, 1 / problem.classes),
        frc=np.zeros((problem.classes, problem.points.max_shell + 1)),
        noise=noise,
        shift_sigma_angstrom=max(settings.shift_range / 2, LEAST_SIGMA_ANGSTROM),
        category=np.full(n, -1),
        psi_deg=np.zeros(n),
        shift_angstrom=np.zeros((n, 2)),
        probability=np.zeros(n),
        evidence=np.zeros(n),
        sigma=np.ones(n),
        scale=np.ones(n),
    )
    if settings.local:
        state = posed_state(problem, state)
    if references is not None:
        averages = given_averages(problem, noise, references)
    elif settings.local:
        averages = table_averages(problem, state)
    else:
        averages = random_averages(problem, noise, np.random.default_rng((settings.seed, 2)))
    return replace(state, averages=averages)


def looked_at(problem: Class2dProblem, state: ClassState) -> tuple[Expectation, Plan]:
    """The next cycle's expectation. Depends on the state, the seed and the data only."""
    settings = problem.settings
    now = plan(settings, state.cycle, len(problem.rows), problem.classes)
    rng = np.random.default_rng((settings.seed, 3, state.cycle))
    turn = float(rng.random())
    rows = chosen_rows(problem.rows, now.share, rng)
    return expect(problem, state, now.limit_angstrom, rows, turn), now


def run_cycle(problem: Class2dProblem, state: ClassState, found: Expectation, now: Plan) -> ClassState:
    """The state after one more cycle with this expectation."""
    made = maximise(problem, found.sums, found.size, now.limit_angstrom)
    new = _with_particles(problem, state, found)
    new, noise_ratio = _with_noise(problem, new, found, now)
    new, pairs = _with_averages(problem, new, made, found.size)
    _record(problem, state, new, found, now, noise_ratio, len(pairs))
    return replace(new, cycle=state.cycle + 1)


def _with_particles(problem: Class2dProblem, state: ClassState, found: Expectation) -> ClassState:
    changed = {}
    for name in ("category", "psi_deg", "shift_angstrom", "probability", "evidence"):
        values = getattr(state, name).copy()
        values[found.rows] = getattr(found, name)
        changed[name] = values
    changed |= _weights(problem, state, found)
    seen = changed["category"] >= 0
    spread = np.sqrt((changed["shift_angstrom"][seen] ** 2).sum(axis=1).mean() / 2)
    least = max(LEAST_SIGMA_ANGSTROM, problem.settings.shift_range * LEAST_SIGMA_SHARE)
    return replace(state, shift_sigma_angstrom=max(float(spread), least), **changed)


def _weights(problem: Class2dProblem, state: ClassState, found: Expectation) -> dict[str, np.ndarray]:
    """Each particle's own noise amplitude and scale, where they are wanted."""
    sigma, scale, settings = state.sigma.copy(), state.scale.copy(), problem.settings
    rows = found.rows
    if settings.own_sigma:
        sigma[rows] = new_sigma(
            sigma[rows], found.energy, found.fit, found.points, problem.loader.mask_energy
        )
    if settings.own_scale:
        scale[rows] = new_scale(scale[rows], found.fit, found.norm)
    return {"sigma": sigma, "scale": scale}


def _with_noise(
    problem: Class2dProblem, state: ClassState, found: Expectation, now: Plan
) -> tuple[ClassState, float]:
    """The noise power from this cycle's residuals up to its limit, and the mean ratio of new to old.

    Residuals are those of masked images: their power is smaller by the mask's energy (``engine.noise``).
    """
    points = problem.points
    ratio = points.shell_mean(found.residual).numpy() / problem.loader.mask_energy
    low = problem.extent / problem.settings.low_resolution_angstrom
    shells = np.arange(points.max_shell + 1)
    measured = (shells >= max(low + 0.5, 1)) & (shells <= problem.extent / now.limit_angstrom - 0.5)
    ratio = np.where(measured, np.clip(ratio, 1 / LARGEST_NOISE_STEP, LARGEST_NOISE_STEP), 1.0)
    mean = float(ratio[measured].mean()) if measured.any() else 1.0
    return replace(state, noise=state.noise * ratio), mean


def _with_averages(
    problem: Class2dProblem, state: ClassState, made: Maximised, size: np.ndarray
) -> tuple[ClassState, list[tuple[int, int]]]:
    """New averages, centred, and empty classes refilled; particles' shifts follow their averages."""
    settings = problem.settings
    averages, pairs = made.averages, list[tuple[int, int]]()
    progress = (state.cycle + 1) / settings.cycles
    if progress <= REFILL_SHARE:
        averages, size, pairs = refilled(averages, made.halves, size)
    shift = state.shift_angstrom
    if settings.centre and progress <= CENTRE_SHARE:
        pixel = problem.pixel_size_angstrom
        by = centres_of(averages)
        most = LARGEST_MOVE * settings.diameter_angstrom / pixel
        by *= np.minimum(1, most / np.maximum(np.hypot(*by.T), 1e-9))[:, None]
        averages = moved(averages, by) * problem.mask
        shift = shift - np.where((state.category >= 0)[:, None], _turned(by * pixel, state), 0)
    share = np.maximum(size, 0) / size.sum()
    state = replace(
        state, averages=averages.numpy().astype(np.float32), frc=made.frc, share=share, shift_angstrom=shift
    )
    return state, pairs


def _turned(by_angstrom: np.ndarray, state: ClassState) -> np.ndarray:
    """What moving each average by ``(c, 2)`` is in its particles' images: ``A by``, ``(n, 2)``."""
    x, y = by_angstrom[state.category].T
    psi = np.radians(state.psi_deg)
    return np.stack((np.cos(psi) * x + np.sin(psi) * y, -np.sin(psi) * x + np.cos(psi) * y), axis=1)


def _record(
    problem: Class2dProblem,
    before: ClassState,
    after: ClassState,
    found: Expectation,
    now: Plan,
    noise_ratio: float,
    refills: int,
) -> None:
    old = before.category[found.rows]
    seen = old >= 0
    changed = 100 * float((old[seen] != found.category[seen]).mean()) if seen.any() else 100.0
    problem.observer.record(
        "cycles",
        cycle=before.cycle + 1,
        limit_angstrom=now.limit_angstrom,
        particles=len(found.rows),
        log_likelihood=float(found.evidence.mean()),
        sigma=float(np.sqrt(noise_ratio)),
        moved_percent=changed,
        top_probability=float(found.probability.mean()),
        occupied_classes=len(np.unique(found.category)),
        refilled_classes=refills,
        shift_sigma_angstrom=after.shift_sigma_angstrom,
    )


def _mark(
    particles: ParticleSet,
    settings: Class2dSettings,
    references: np.ndarray | None,
    rows: np.ndarray,
) -> str:
    """The fingerprint of everything that decides the result; ``rows`` take part."""
    views = particles.views
    known = ("rotation", "shift_xyz_angstrom", "class_number") if settings.local else ()
    return fingerprint(
        {
            **asdict(settings),
            **{name: getattr(particles, name) for name in known},
            "rows": rows,
            "paths": [str(path) for path in views.image_path],
            "path_id": views.path_id,
            "index": views.image_index,
            "defocus": np.stack([views.defocus_u_angstrom, views.defocus_v_angstrom]),
            "references": np.zeros(0) if references is None else references,
        }
    )


def _finished(problem: Class2dProblem, state: ClassState, start: np.ndarray) -> Class2dResult:
    settings = problem.settings
    rows = problem.rows[state.category[problem.rows] >= 0]
    per_particle = ("category", "psi_deg", "shift_angstrom", "probability", "evidence", "sigma", "scale")
    return sorted_classes(
        problem,
        averages=state.averages,
        start=start,
        frc=state.frc,
        share=state.share,
        percent=100 * plan(settings, settings.cycles - 1, len(problem.rows), problem.classes).share,
        rows=rows,
        **{name: getattr(state, name)[rows] for name in per_particle},
    )


def sorted_classes(
    frame: Averaging,
    *,
    averages: np.ndarray,
    start: np.ndarray,
    frc: np.ndarray,
    share: np.ndarray,
    percent: float,
    rows: np.ndarray,
    category: np.ndarray,
    **per_particle: np.ndarray,
) -> Class2dResult:
    """Classes by falling number of members, particles with them."""
    members = np.bincount(category, minlength=frame.classes)
    order = np.lexsort((-share, -members))
    return Class2dResult(
        averages=averages[order],
        start=start[order],
        frc=frc[order],
        share=share[order],
        rows=rows,
        category=np.argsort(order)[category],
        pixel_size_angstrom=frame.pixel_size_angstrom,
        extent_angstrom=frame.extent,
        percent_used=percent,
        **per_particle,
    )
