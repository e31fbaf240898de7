"""Images by view: order, contrast, threads, bad images."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from parhelion.contracts import ParticleSource
from parhelion.errors import FormatError, ParameterError
from parhelion.io.mrc import StackWriter
from parhelion.io.particles import read_particles
from parhelion.io.source import StackSource
from parhelion.io.tiff import write_tiff
from parhelion.model.particles import ParticleSet


@pytest.fixture
def many(star31: Callable[..., Path], stack: Callable[..., np.ndarray]) -> tuple[ParticleSet, np.ndarray]:
    """Twelve particles from four files in mixed order, and their images."""
    files = {f"s{k}.mrcs": stack(f"s{k}.mrcs", count=3 + k) for k in range(4)}
    order = [(n, i) for n in files for i in range(3)]
    order = [order[i] for i in np.random.default_rng(0).permutation(len(order))]
    particles = read_particles(star31([f"{i + 1}@{n}" for n, i in order]))
    return particles, np.stack([files[n][i] for n, i in order])


def test_images_come_in_the_order_asked_for(many: tuple[ParticleSet, np.ndarray]) -> None:
    particles, images = many
    source = StackSource(particles, open_files=2)
    assert isinstance(source, ParticleSource)
    assert source.box == 8 and len(source) == 12
    for views in (np.arange(12), np.array([7, 7, 0, 11]), np.array([], int)):
        found = source.images(views)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, images[views])


def test_black_protein_is_turned_white(many: tuple[ParticleSet, np.ndarray]) -> None:
    particles, images = many
    np.testing.assert_array_equal(StackSource(particles, "black").images(np.arange(12)), -images)
    with pytest.raises(ParameterError, match="'grey'"):
        StackSource(particles, "grey")  # type: ignore[arg-type]


def test_threads_and_processes(many: tuple[ParticleSet, np.ndarray]) -> None:
    particles, images = many
    source = StackSource(particles, open_files=1)
    jobs = [np.random.default_rng(i).integers(0, 12, 6) for i in range(60)]
    with ThreadPoolExecutor(4) as pool:
        for views, found in zip(jobs, pool.map(source.images, jobs)):
            np.testing.assert_array_equal(found, images[views])
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.images(np.arange(12)), images)


def test_bad_images_are_found(tmp_path: Path, star31: Callable[..., Path]) -> None:
    images = np.random.default_rng(0).normal(size=(6, 4, 4)).astype(np.float32)
    images[1, 2, 2], images[3], images[4, 0, 0], images[5, 0, 0] = np.nan, 2.5, np.inf, -np.inf
    write_tiff(tmp_path / "a.tif", [images], images.shape, 1.0)
    source = StackSource(read_particles(star31([f"{i + 1}@a.tif" for i in range(6)])))
    assert source.scan().tolist() == [False, True, False, True, True, True]
    assert source.scan(np.array([2, 3])).tolist() == [False, True]


def test_images_that_do_not_fit(
    star31: Callable[..., Path], stack: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    stack("a.mrcs")
    stack("b.mrcs", box=6)
    source = StackSource(read_particles(star31(["1@a.mrcs", "1@b.mrcs"])))
    with pytest.raises(FormatError, match=r"b\.mrcs have 6 x 6 pixels, expected 8 x 8"):
        source.images(np.arange(2))
    with StackWriter(tmp_path / "c.mrcs", 1, (4, 6), 1.0) as writer:
        writer.write(0, np.zeros((1, 4, 6)))
    with pytest.raises(FormatError, match="expected square"):
        StackSource(read_particles(star31(["1@c.mrcs"])))
    with pytest.raises(FormatError, match=r"points at image 9 of .*a\.mrcs, which holds 5"):
        StackSource(read_particles(star31(["1@a.mrcs", "9@a.mrcs"]))).images(np.arange(2))
