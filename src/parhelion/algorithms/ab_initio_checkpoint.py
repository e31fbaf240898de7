"""The finished starts of an initial map on disk, so that a run that was cut short goes on after them."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.ab_initio_settings import AbInitioSettings
from parhelion.contracts import Observer
from parhelion.engine.archive import write_archive
from parhelion.engine.checkpoint import fingerprint
from parhelion.errors import ParameterError
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume


def mark_of(particles: ParticleSet, settings: AbInitioSettings, references: Sequence[Volume]) -> str:
    """What a start depends on, in short."""
    views = particles.views
    values = {
        **asdict(settings),
        "defocus_u": views.defocus_u_angstrom,
        "defocus_v": views.defocus_v_angstrom,
        "image_index": views.image_index,
        "pixel_size": particles.optics[0].pixel_size_angstrom,
    }
    if settings.images_per_class is not None:
        values |= {
            "classes_2d": particles.class_number,
            "rotation": particles.rotation,
            "shift": particles.shift_xyz_angstrom,
        }
    values |= {f"reference_{k}": one.data for k, one in enumerate(references, 1)}
    return fingerprint(values)


def save(folder: Path, number: int, volumes: Tensor, mark: str) -> None:
    """Write the maps ``(c, box, box, box)`` of start ``number`` whole or not at all. Raises OutputError."""
    path = _path(folder, number)
    write_archive(path, {"fingerprint": mark}, {"volumes": volumes.cpu().numpy()})


def load(folder: Path, number: int, mark: str, observer: Observer) -> Tensor | None:
    """The maps of start ``number``, None where it was not finished or its file is damaged (with a notice).

    Raises ParameterError where it was made from other particles or parameters.
    """
    path = _path(folder, number)
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            header, volumes = json.loads(archive["header"].tobytes()), archive["volumes"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        observer.notice(f"checkpoint {path.name} is damaged ({error}); start {number} is made anew")
        return None
    if header["fingerprint"] != mark:
        raise ParameterError(
            f"{path} was made from other particles, other references or other parameters; "
            "start again with --overwrite"
        )
    return torch.from_numpy(volumes)


def _path(folder: Path, number: int) -> Path:
    return folder / f"start_{number:03d}.npz"
