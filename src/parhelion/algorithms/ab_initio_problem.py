"""What all starts of a search from nothing share: images on their points, noise, masks, who is held out."""

from dataclasses import replace

import numpy as np
import torch

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.ab_initio_plan import cache_bytes, held_out, kept_shell, map_box, shift_range
from parhelion.algorithms.ab_initio_rounds import AbInitioProblem
from parhelion.algorithms.ab_initio_schedule import shell_limits
from parhelion.algorithms.ab_initio_settings import AbInitioSettings
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader
from parhelion.engine.noise import background_noise
from parhelion.engine.points import FourierPoints
from parhelion.engine.solvent import Solvent
from parhelion.errors import ParameterError
from parhelion.images.masks import spherical_mask
from parhelion.model.particles import ParticleSet

NOISE_SAMPLE = 1000
INNER_EDGE_PIXELS = 5
FEWEST_PER_CLASS = 20
"""Particles per class with which a search is begun; real ones need many more."""


def check_classes(count: int, classes: int) -> None:
    """ParameterError where there are too few particles for the classes."""
    if classes > 1 and count < FEWEST_PER_CLASS * classes:
        raise ParameterError(
            f"{count} particles are too few for {classes} classes; each needs {FEWEST_PER_CLASS} at the very "
            f"least, so ask for {max(count // FEWEST_PER_CLASS, 1)} or fewer"
        )


def make_problem(
    particles: ParticleSet,
    source: ParticleSource,
    settings: AbInitioSettings,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    device: str,
    available_bytes: int | None,
) -> AbInitioProblem:
    """Everything that all starts share; maps live on a grid just fine enough for the last round.

    Raises MetadataError and ParameterError for too few particles and settings that do not fit them.
    """
    prepare.check_count(particles)
    check_classes(len(particles), settings.classes)
    pixel, diameter = particles.optics[0].pixel_size_angstrom, settings.diameter_angstrom
    prepare.check_diameter(diameter, source.box, pixel)
    prepare.check_shift_range(shift_range(settings), source.box, pixel)
    extent = source.box * pixel
    first, last = shell_limits(settings, extent, prepare.highest_shell(source.box, pixel, None))
    points = FourierPoints(source.box, kept_shell(source.box, pixel, last))
    particles = prepare.with_noise_groups(particles)
    loader = ParticleLoader(
        particles=particles,
        source=source,
        points=points,
        diameter_angstrom=prepare.mask_diameter(diameter, source.box, pixel, EDGE_PIXELS),
        cache_bytes=cache_bytes(available_bytes, settings),
        device=torch.device(device),
    )
    rng = np.random.default_rng((settings.seed, 1))
    rows, pickers, judges = held_out(len(particles), rng)
    box = map_box(points.max_shell, source.box)
    return AbInitioProblem(
        loader=loader,
        spectrum=background_noise(loader, NOISE_SAMPLE, rng),
        rows=rows,
        pickers=pickers,
        judges=judges,
        box=box,
        extent_angstrom=extent,
        first_shell=first,
        last_shell=last,
        shift_angstrom=shift_range(settings),
        solvent=_solvent(settings, box, extent / box),
        executor=executor,
        observer=observer,
        cancel=cancel,
    )


def _solvent(settings: AbInitioSettings, box: int, pixel_size_angstrom: float) -> Solvent:
    """Sphere, hollow or not, and whether a mask follows the map inside it."""
    diameter = settings.outer_radius_angstrom / 0.55
    solvent = Solvent.within(box, pixel_size_angstrom, diameter, automatic=settings.automatic_mask)
    if not settings.inner_radius_angstrom:
        return solvent
    edge = INNER_EDGE_PIXELS * pixel_size_angstrom
    start = max(settings.inner_radius_angstrom - edge, 0.5 * pixel_size_angstrom)
    hollow = 1 - spherical_mask(box, pixel_size_angstrom, start, settings.inner_radius_angstrom - start)
    return replace(solvent, sphere=solvent.sphere * hollow)
