"""Movies and micrographs for ``test_bad_movies.py``: sound ones, and what can be wrong with them."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile

from bad_input import blobs, cut, silently
from parhelion.io.mrc import open_stack, write_volume
from parhelion.io.mrc_writer import StackWriter

SIZE, PIXEL, MOVIES, FRAMES, PER_MOVIE = 512, 2.0, 3, 8, 14
VOLTS = 24.0
BURNT = 185.0
"""Values above this one are few in the simulated micrographs."""
SECOND, SECOND_SUM = "movies/movie_0002.tif", "micrographs/movie_0002.mrc"
KNOWN = "--voltage 300 --dose-per-frame 5 --gain gain.mrc"
SCOPE = "--voltage 300 --cs 2.7"
MOTION = "motion --input movies.star --output result"
MRC_MOTION = f"motion --input movies/*.mrc {KNOWN} --output result"
CTF = "ctf --input micrographs.star --output result"
RADII = "--maximum-radius 60 --characteristic-radius 40"
PICK = f"pick --input micrographs.star {RADII} --output result"
EXTRACT = "extract --input coordinates.star --micrographs micrographs.star --box 80 --output result"
SPA = "spa --input movies.star --diameter 110 --output result"
QUICK = {
    "simulate": f"--count {MOVIES} --particles-per-micrograph {PER_MOVIE} --size {SIZE} --frames {FRAMES} "
    f"--pixel-size {PIXEL} --dose-per-frame 5 --dead-pixels 5 --hot-pixels 5 --defocus-range 1.5 2",
    "motion": "--no-local --spectrum-dose 0 --no-scaled-sum",
    "ctf": "--no-pictures --spectrum-size 256",
    "pick": "--pictures 1",
    "spa": "--starts 1 --rounds 2 --max-rounds 1",
}
"""Added to the commands so that the tests are fast; the page leaves it out."""


def simulate(folder: Path) -> None:
    """Movies of a molecule of a few blobs with their gain, and the way to coordinates of its images."""
    molecule = blobs(32, 4.0, width=2.25, spread=8, count=14)
    molecule = replace(molecule, data=molecule.data * np.float32(VOLTS / molecule.data.max()))
    write_volume(folder / "molecule.mrc", molecule)
    with contextlib.chdir(folder):
        silently("simulate movies --model molecule.mrc --output made", QUICK)
        for name in ("movies", "movies.star", "gain.mrc"):
            shutil.move(f"made/{name}", name)
        shutil.rmtree("made")
        Path("molecule.mrc").unlink()
        silently(MOTION.replace("result", "motion"), QUICK)
        shutil.move("motion/micrographs", "micrographs")
        without_folder("motion/micrographs.star")
        silently(CTF.replace("result", "ctf"), QUICK)
        without_folder("ctf/micrographs.star")
        silently(PICK.replace("result", "pick"), QUICK)
        shutil.move("pick/coordinates.star", "coordinates.star")
        for name in ("motion", "ctf", "pick"):
            shutil.rmtree(name)


def without_folder(table: str) -> None:
    """A table at the place where the names in it start, and nothing said about the folder that it was in."""
    lines = Path(table).read_text("utf-8").splitlines(keepends=True)
    Path(table).unlink()
    Path("micrographs.star").write_text("".join(line for line in lines if line[0] != "#"), "utf-8")


def frames_of(path: Path) -> np.ndarray:
    return tifffile.imread(path)


def movie(change: Callable[[np.ndarray], np.ndarray], name: str = SECOND) -> Callable[[Path], None]:
    """Changes the frames ``(n, y, x)`` of a movie."""

    def prepare(folder: Path) -> None:
        changed = change(frames_of(folder / name).copy())
        tifffile.imwrite(folder / name, changed, photometric="minisblack", compression="lzw")

    return prepare


def dark_frames(numbers: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    def change(frames: np.ndarray) -> np.ndarray:
        frames[list(numbers)] = 0
        return frames

    return change


def half_of_a_plain_movie(folder: Path) -> None:
    """Frames in one piece, as many programs store them without compression; the copy stopped half way."""
    path = folder / SECOND
    tifffile.imwrite(path, frames_of(path), photometric="minisblack")
    cut(SECOND, path.stat().st_size // 2)(folder)


def mrc_movies(folder: Path) -> None:
    """The movies as MRC files, the second of them cut."""
    for path in sorted((folder / "movies").glob("*.tif")):
        frames = frames_of(path)[:, ::-1]
        with StackWriter(path.with_suffix(".mrc"), FRAMES, (SIZE, SIZE), PIXEL) as writer:
            writer.write(0, frames.astype(np.float32))
        path.unlink()
    cut("movies/movie_0002.mrc", 3_000_000)(folder)


def image(change: Callable[[np.ndarray], np.ndarray], name: str) -> Callable[[Path], None]:
    """Changes an MRC file of one image ``(y, x)``."""

    def prepare(folder: Path) -> None:
        changed = np.ascontiguousarray(change(open_stack(folder / name).read(np.array([0]))[0]), np.float32)
        with StackWriter(folder / name, 1, changed.shape, PIXEL) as writer:
            writer.write(0, changed[None])

    return prepare


def filtered_noise(rings: float, texture: float) -> np.ndarray:
    """An image of noise with CTF ``rings`` (1.8 µm) in its power, and that much coarse ``texture``."""
    rng = np.random.default_rng(3)
    ky, kx = np.fft.fftfreq(SIZE, PIXEL)[:, None], np.fft.rfftfreq(SIZE, PIXEL)[None]
    s2 = kx**2 + ky**2
    sine = np.sin(np.pi * 0.0197 * 18_000 * s2 - 0.5 * np.pi * 2.7e7 * 0.0197**3 * s2**2 + 0.1)
    power = 1 + (rings * np.exp(-30 * s2) + texture * np.exp(-4000 * s2)) * sine**2
    noise = np.fft.rfft2(rng.standard_normal((SIZE, SIZE)))
    return np.fft.irfft2(noise * np.sqrt(power), (SIZE, SIZE)).astype(np.float32)


def only(kind: np.ndarray) -> Callable[[Path], None]:
    """Every micrograph holds ``kind``, each at another place, so that no two are the same."""

    def prepare(folder: Path) -> None:
        for number in range(MOVIES):
            rolled = np.roll(kind, 100 * number, axis=0)
            image(lambda _, rolled=rolled: rolled, f"micrographs/movie_{number + 1:04d}.mrc")(folder)

    return prepare


def ice_movies(folder: Path) -> None:
    """Movies of nothing but counting noise."""
    rng = np.random.default_rng(7)
    for path in (folder / "movies").glob("*.tif"):
        frames = rng.poisson(20, (FRAMES, SIZE, SIZE)).astype(np.uint8)
        tifffile.imwrite(path, frames, photometric="minisblack", compression="lzw")


def a_hundred(folder: Path) -> None:
    """Small parts of a micrograph, the forty-second of them unreadable."""
    (folder / "many").mkdir()
    whole = open_stack(folder / SECOND_SUM).read(np.array([0]))[0]
    for number in range(1, 101):
        part = np.roll(whole, (17 * number, 29 * number), (0, 1))[:256, :256]
        with StackWriter(folder / f"many/m{number:03d}.mrc", 1, part.shape, PIXEL) as writer:
            writer.write(0, part[None].copy())
    (folder / "many/m042.mrc").write_bytes(b"no image at all" * 100)


def saturated(name: str, share: float) -> Callable[[Path], None]:
    """That share of the pixels of an image has the one greatest value."""
    return image(lambda pixels: np.where(pixels > np.quantile(pixels, 1 - share), BURNT, pixels), name)
