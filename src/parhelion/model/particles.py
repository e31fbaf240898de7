"""Particles and their views, as the engine sees them.

A particle has one pose and one or more views (images). Single particles have one view each; a
particle of a tilt series has one per tilt. Half sets, classes and scores belong to particles;
images, CTF and dose belong to views.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from parhelion.errors import MetadataError
from parhelion.model.table import Table


@dataclass(frozen=True, kw_only=True)
class OpticsGroup:
    """What all images of one group share. Names carry the units."""

    name: str
    pixel_size_angstrom: float
    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    box: int | None = None
    ctf_premultiplied: bool = False
    beam_tilt_xy_mrad: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Views:
    """One row per image, ``v`` rows.

    ``image_path[path_id]`` and ``image_index`` (0-based) say where the pixels are; ``particle`` is the
    row of the particle. ``tilt_rotation`` ``(v, 3, 3)`` maps the particle frame to the view's
    (identity for single particles).
    """

    image_path: tuple[Path, ...]
    path_id: np.ndarray
    image_index: np.ndarray
    particle: np.ndarray
    optics_group: np.ndarray
    defocus_u_angstrom: np.ndarray
    defocus_v_angstrom: np.ndarray
    defocus_angle_deg: np.ndarray
    phase_shift_deg: np.ndarray
    ctf_bfactor_angstrom2: np.ndarray
    ctf_scale: np.ndarray
    noise_group: np.ndarray
    tilt_rotation: np.ndarray | None = None
    dose: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_index)


@dataclass(frozen=True, kw_only=True)
class ParticleSet:
    """``n`` particles with their views and optics groups.

    ``rotation`` ``(n, 3, 3)`` maps volume to image coordinates (``x_image = A x_volume``);
    ``shift_xyz_angstrom`` ``(n, 3)`` carries the particle to the centre of its box. Both are None
    where the input has no poses. ``half`` is 1, 2 or 0 (not assigned). ``extra`` holds the input's
    other columns, row by row, so that they come back in the output.
    """

    optics: tuple[OpticsGroup, ...]
    views: Views
    count: int
    rotation: np.ndarray | None = None
    shift_xyz_angstrom: np.ndarray | None = None
    half: np.ndarray | None = None
    class_number: np.ndarray | None = None
    extra: Table = field(default_factory=lambda: Table({}))

    def __len__(self) -> int:
        return self.count

    def with_poses(self, rotation: np.ndarray, shift_xyz_angstrom: np.ndarray) -> "ParticleSet":
        """The same particles with these poses."""
        if rotation.shape != (self.count, 3, 3) or shift_xyz_angstrom.shape != (self.count, 3):
            raise MetadataError(
                f"poses of {self.count} particles needed, found rotations {rotation.shape} "
                f"and shifts {shift_xyz_angstrom.shape}"
            )
        return replace(self, rotation=rotation, shift_xyz_angstrom=shift_xyz_angstrom)

    def take(self, index: np.ndarray) -> "ParticleSet":
        """The particles at ``index`` (integers), with their views, renumbered."""
        index = np.asarray(index)
        rank = np.full(self.count, -1)
        rank[index] = np.arange(len(index))
        order = np.argsort(rank[self.views.particle], kind="stable")
        order = order[rank[self.views.particle[order]] >= 0]

        def rows(values: np.ndarray | None, at: np.ndarray) -> np.ndarray | None:
            return None if values is None else values[at]

        changed: dict[str, Any] = {
            name: rows(getattr(self.views, name), order)
            for name in self.views.__dataclass_fields__
            if name not in ("image_path", "particle")
        }
        views = replace(self.views, particle=rank[self.views.particle[order]], **changed)
        return replace(
            self,
            views=views,
            count=len(index),
            rotation=rows(self.rotation, index),
            shift_xyz_angstrom=rows(self.shift_xyz_angstrom, index),
            half=rows(self.half, index),
            class_number=rows(self.class_number, index),
            extra=self.extra.take(index) if len(self.extra) else self.extra,
        )
