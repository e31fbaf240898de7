"""A small molecule, noisy half maps of it, and a way to run a job on them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parhelion import api
from parhelion.io.mrc import write_volume
from parhelion.model.volume import Volume
from parhelion.registry import Result

BOX, PIXEL = 32, 4.0


def blobs(box: int = BOX) -> np.ndarray:
    """An asymmetric molecule of a few Gaussian blobs, ``(box, box, box)`` float32."""
    rng = np.random.default_rng(5)
    z, y, x = np.indices((box, box, box)) - box // 2
    data = np.zeros((box, box, box))
    for centre in rng.uniform(-0.18 * box, 0.18 * box, (9, 3)):
        distance = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
        data += np.exp(-distance / (2 * 1.5**2))
    return data.astype(np.float32)


@pytest.fixture
def molecule(tmp_path: Path) -> Path:
    """``molecule.mrc``, 32³ voxels of 4 Å."""
    path = tmp_path / "molecule.mrc"
    write_volume(path, Volume(data=blobs(), pixel_size_angstrom=PIXEL))
    return path


@pytest.fixture
def half_maps(tmp_path: Path) -> list[Path]:
    """The molecule with independent noise that grows with frequency."""
    rng = np.random.default_rng(6)
    paths = []
    for number in (1, 2):
        noise = rng.normal(size=(BOX,) * 3).astype(np.float32)
        paths.append(tmp_path / f"half{number}.mrc")
        write_volume(paths[-1], Volume(data=blobs() + 0.15 * noise, pixel_size_angstrom=PIXEL))
    return paths


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """``run("fsc", input=…)`` on one thread of the CPU, into a folder of its own."""

    def call(name: str, /, **options: Any) -> Result:
        options.setdefault("output", tmp_path / f"out_{name}")
        return api.function(name)(**{"device": "cpu", "threads": 1, **options})

    return call


@pytest.fixture(scope="session")
def simulated_sets(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of simulated particles of the molecule, by the options of ``simulate particles``; made once."""
    made: dict[tuple[tuple[str, Any], ...], Path] = {}

    def folder(**options: Any) -> Path:
        key = tuple(sorted(options.items()))
        if key not in made:
            where = tmp_path_factory.mktemp("simulated")
            write_volume(where / "molecule.mrc", Volume(data=blobs(), pixel_size_angstrom=PIXEL))
            simulate = api.function("simulate_particles")
            simulate(model=where / "molecule.mrc", output=where / "made", device="cpu", threads=1, **options)
            made[key] = where / "made"
        return made[key]

    return folder


@pytest.fixture
def simulate(
    tmp_path: Path, molecule: Path, simulated_sets: Callable[..., Path]
) -> Callable[..., dict[str, Path]]:
    """``simulate(count=60, snr=1.0)``: images, particles, truth and reference, a copy to change at will.

    ``molecule.mrc`` lies beside the copy.
    """

    def call(**options: Any) -> dict[str, Path]:
        folder = tmp_path / "simulated"
        shutil.copytree(simulated_sets(**options), folder)
        stems = {"images": "particles.mrcs", "reference": "reference.mrc"}
        return {n: folder / stems.get(n, f"{n}.star") for n in ("images", "particles", "truth", "reference")}

    return call
