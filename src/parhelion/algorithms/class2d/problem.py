"""What all cycles share, and the state that goes from one cycle to the next."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.class2d.settings import Class2dSettings, check_classes, classes_for
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader, soft_circle
from parhelion.engine.planar import exact_padding
from parhelion.engine.points import FourierPoints
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.model.particles import ParticleSet

MARGIN_SHELLS = 2
CHUNK = 256
EDGE_WIDTH = 2
"""Pixels along the border that a blank edge covers."""


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """What making averages from sums takes, without any image: ``mask`` ``(box, box)``, lengths in Å."""

    settings: Class2dSettings
    points: FourierPoints
    pixel_size_angstrom: float
    classes: int
    mask: Tensor

    @property
    def box(self) -> int:
        """Of images and averages, in pixels."""
        return self.points.box

    @property
    def extent(self) -> float:
        """Edge of the box in Å."""
        return self.box * self.pixel_size_angstrom

    @property
    def padding(self) -> float:
        """Of averages' transforms."""
        return exact_padding(self.box, self.settings.padding)


@dataclass(frozen=True, kw_only=True)
class Class2dProblem(Averaging):
    """``rows`` are the particles that take part, ``half`` ``(n,)`` is 0 or 1.

    ``usable`` are all that could take part: half sets, noise and scales are theirs, so that results of parts
    of the particles fit together.
    """

    loader: ParticleLoader
    rows: np.ndarray
    usable: np.ndarray
    half: np.ndarray
    executor: Executor
    observer: Observer
    cancel: Cancel


@dataclass(frozen=True, kw_only=True)
class ClassState:
    """After ``cycle`` cycles. Per class: ``averages`` ``(c, box, box)``, ``share`` of the particles ``(c,)``,
    correlation of half averages per shell ``frc`` ``(c, s)``. Per particle ``(n,)``: ``category`` (-1 before
    it was first seen), ``psi_deg``, ``shift`` ``(n, 2)`` in Å, ``probability``, ``evidence``, and ``sigma``
    and ``scale`` (``weights``).
    """

    averages: np.ndarray
    share: np.ndarray
    frc: np.ndarray
    noise: np.ndarray
    shift_sigma_angstrom: float
    category: np.ndarray
    psi_deg: np.ndarray
    shift_angstrom: np.ndarray
    probability: np.ndarray
    evidence: np.ndarray
    sigma: np.ndarray
    scale: np.ndarray
    cycle: int = 0


def make_problem(
    particles: ParticleSet,
    source: ParticleSource,
    settings: Class2dSettings,
    references: int | None,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    device: str,
    cache_bytes: int,
) -> Class2dProblem:
    """Everything that does not change. Raises ParameterError and InputError where it makes no sense."""
    pixel = particles.optics[0].pixel_size_angstrom
    if len(particles.views) != len(particles):
        raise MetadataError(
            f"{len(particles)} particles with {len(particles.views)} images: particles of tilt series are "
            "not classified in the plane"
        )
    prepare.check_diameter(settings.diameter_angstrom, source.box, pixel)
    prepare.check_shift_range(settings.shift_range, source.box, pixel)
    extent = source.box * pixel
    last = highest_shell(settings, source.box, pixel)
    points = FourierPoints(source.box, min(last + MARGIN_SHELLS, source.box // 2 - 1))
    radius = min(settings.mask_radius, (source.box / 2 - EDGE_PIXELS) * pixel)
    check_mask(radius, settings, source.box, pixel)
    loader = ParticleLoader(
        particles=prepare.with_noise_groups(particles),
        source=source,
        points=points,
        diameter_angstrom=2 * radius,
        scale_images=settings.normalise,
        cache_bytes=cache_bytes,
        device=torch.device(device),
    )
    usable = usable_rows(particles, source, settings.exclude_edges, executor, observer)
    rows = rows_in_range(usable, settings, len(particles))
    classes = references or settings.classes
    if classes is None:
        classes = classes_of_table(particles) if settings.local else classes_for(len(rows))
    check_classes(len(rows) if references is None else len(usable), classes)
    observer.notice(
        f"{len(rows)} particles into {classes} classes, {settings.initial_resolution_angstrom:g} to "
        f"{extent / last:.1f} Å"
    )
    half = np.zeros(len(particles), np.int64)
    half[np.random.default_rng((settings.seed, 0)).permutation(usable)[::2]] = 1
    return Class2dProblem(
        settings=settings,
        points=points,
        pixel_size_angstrom=pixel,
        classes=classes,
        mask=soft_circle(source.box, radius / pixel),
        loader=loader,
        rows=rows,
        usable=usable,
        half=half,
        executor=executor,
        observer=observer,
        cancel=cancel,
    )


def classes_of_table(particles: ParticleSet) -> int:
    """How many classes the particles' table knows. Raises MetadataError where it knows none."""
    numbers = particles.class_number
    if numbers is None or numbers.max() < 1:
        raise MetadataError(
            "the table of particles has no classes (rlnClassNumber) to start from; give --references, or the "
            "particles.star of an earlier class2d"
        )
    return int(numbers.max())


def rows_in_range(usable: np.ndarray, settings: Class2dSettings, count: int) -> np.ndarray:
    """Those of ``usable`` from the first to the last wanted particle, both counted from 1.

    Raises ParameterError where none is among them.
    """
    first, last = settings.first, settings.last or count
    rows = usable[(usable >= first - 1) & (usable < last)]
    if not len(rows):
        raise ParameterError(
            f"none of the particles {first} to {last} can be used; the table holds {count}, of which "
            f"{len(usable)} can (--first, --last)"
        )
    return rows


def highest_shell(settings: Class2dSettings, box: int, pixel_size_angstrom: float) -> int:
    """Of the last cycles: the final resolution, at most one shell below Nyquist."""
    extent = box * pixel_size_angstrom
    shell = prepare.highest_shell(box, pixel_size_angstrom, settings.final_resolution_angstrom)
    first = extent / settings.initial_resolution_angstrom
    if first < 3:
        raise ParameterError(
            f"an initial resolution of {settings.initial_resolution_angstrom:g} Å leaves "
            f"{first:.1f} shells of the box's {extent:.0f} Å; at least 3 are needed"
        )
    return shell


def check_mask(
    radius_angstrom: float, settings: Class2dSettings, box: int, pixel_size_angstrom: float
) -> None:
    """ParameterError where the mask is smaller than what can be told apart, or larger than the images."""
    reach = box * pixel_size_angstrom / 2
    if (settings.mask_radius_angstrom or 0) > reach:
        raise ParameterError(
            f"a mask radius of {settings.mask_radius:g} Å does not fit into the box of {box} pixels, whose "
            f"edge is {reach:.0f} Å from the centre"
        )
    if radius_angstrom < 4 * pixel_size_angstrom:
        raise ParameterError(
            f"a mask radius of {settings.mask_radius:g} Å is less than 4 pixels of "
            f"{pixel_size_angstrom:.4g} Å; check it and the pixel size"
        )


def usable_rows(
    particles: ParticleSet,
    source: ParticleSource,
    exclude_edges: bool,
    executor: Executor,
    observer: Observer,
) -> np.ndarray:
    """Rows of particles whose images can be used; what is left out is told.

    Left out are images that are not finite or constant, and with ``exclude_edges`` those with a blank edge.
    Raises InputError where none is left.
    """
    pieces = np.array_split(np.arange(len(particles)), max(1, -(-len(particles) // CHUNK)))

    def look(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = source.images(rows)
        finite = np.isfinite(images).all(axis=(1, 2))
        images = np.where(finite[:, None, None], images, 0)
        good = finite & (np.ptp(images.reshape(len(images), -1), axis=1) > 0)
        return good, has_blank_edge(images)

    looked = list(executor.map(look, pieces))
    good = np.concatenate([g for g, _ in looked])
    blank = np.concatenate([b for _, b in looked]) & good
    if not good.all():
        observer.notice(
            f"{int((~good).sum())} images are not finite or constant and are left out: "
            f"{prepare.name_images(particles, np.flatnonzero(~good))}"
        )
    if exclude_edges:
        if blank.any():
            observer.notice(
                f"{int(blank.sum())} images with a blank edge are left out: "
                f"{prepare.name_images(particles, np.flatnonzero(blank))}"
            )
        good &= ~blank
    rows = np.flatnonzero(good)
    if not len(rows):
        raise InputError(f"none of the {len(particles)} images can be used (not finite, constant or blank)")
    return rows


def has_blank_edge(images: np.ndarray) -> np.ndarray:
    """Which images ``(n, y, x)`` have an edge of constant value, as where a box reached over a micrograph.

    An edge is blank where its outermost two rows (or columns) hold one value but the image does not.
    """
    w = EDGE_WIDTH
    edges = (images[:, :w], images[:, -w:], images[:, :, :w], images[:, :, -w:])
    flat = [np.ptp(edge.reshape(len(images), -1), axis=1) == 0 for edge in edges]
    varied = np.ptp(images.reshape(len(images), -1), axis=1) > 0
    return np.any(flat, axis=0) & varied
