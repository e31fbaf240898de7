"""``motion`` on small movies: files, figures, bad movies among good ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import tifffile

from parhelion.errors import InputError, MetadataError, ParhelionError
from parhelion.fourier.crop import fourier_bin
from parhelion.io.mrc import StackWriter, open_stack, read_header
from parhelion.io.relion_motion import read_motion
from parhelion.io.star import read_star
from parhelion.registry import Result

Run = Callable[..., Result]
Film = tuple[np.ndarray, np.ndarray]
SIZE, COUNT = (288, 256), 8


def counts(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A movie ``(8, 288, 256)`` uint8 and its true shifts."""
    rng = np.random.default_rng(seed)
    y, x = scipy.fft.fftfreq(SIZE[0])[:, None], scipy.fft.rfftfreq(SIZE[1])[None, :]
    radius = np.hypot(y, x)
    spectrum = scipy.fft.rfft2(rng.standard_normal(SIZE)) * np.exp(-30 * radius**2) / (1 + (40 * radius) ** 2)
    spectrum[0, 0] = 0
    spectrum *= 0.25 / scipy.fft.irfft2(spectrum, s=SIZE).std()
    shifts = np.stack([np.linspace(0, 9, COUNT) ** 0.8, -np.linspace(0, 5, COUNT)], axis=1)
    frames = [
        rng.poisson(
            1.5 * (1 + scipy.fft.irfft2(spectrum * np.exp(2j * np.pi * (dx * x + dy * y)), s=SIZE)).clip(0)
        )
        for dx, dy in shifts
    ]
    return np.array(frames, np.uint8), shifts


@pytest.fixture(scope="module")
def film() -> tuple[np.ndarray, np.ndarray]:
    return counts()


@pytest.fixture
def movie(tmp_path: Path, film: Film) -> Path:
    path = tmp_path / "movies" / "film.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, film[0], photometric="minisblack", compression="zlib")
    return path


OPTIONS: dict[str, Any] = {"pixel_size": 1.5, "voltage": 300.0, "dose_per_frame": 1.0}


def test_micrograph_and_motion_are_written(run: Run, movie: Path, film: Film) -> None:
    result = run("motion", input=movie, **OPTIONS, even_odd=True, unweighted=True)
    folder = Path(str(result.folder))
    tables = read_star(folder / "micrographs.star")
    row = {label: values[0] for label, values in tables["micrographs"].items()}
    assert row["rlnMicrographName"] == "micrographs/film.mrc"
    for label in ("Metadata", "NameNoDW", "NameEven", "NameOdd"):
        assert (folder / row[f"rlnMicrograph{label}"]).is_file()
    assert read_header(folder / row["rlnCtfPowerSpectrum"]).shape[1:] == (256, 256)
    assert tables["optics"]["rlnMicrographPixelSize"][0] == 1.5
    assert read_header(folder / row["rlnMicrographName"]).shape[1:] == SIZE
    motion = read_motion(folder / row["rlnMicrographMetadata"])
    # TIFF pages are turned upside down when they are read
    error = motion.shift_px - film[1] * (1, -1)
    assert np.sqrt(((error - error.mean(axis=0)) ** 2).mean()) < 0.4
    way = np.hypot(*np.diff(motion.shift_px * 1.5, axis=0).T).sum()
    assert row["rlnAccumMotionTotal"] == pytest.approx(way, rel=1e-3)
    assert row["rlnAccumMotionEarly"] + row["rlnAccumMotionLate"] == pytest.approx(way, rel=1e-3)
    assert "film.tif" in (folder / "report.html").read_text()


def test_binned_shifts_are_those_of_the_movie(run: Run, movie: Path) -> None:
    whole = Path(str(run("motion", input=movie, **OPTIONS, output=movie.parent / "a").folder))
    result = run("motion", input=movie, **OPTIONS, binning=2.0, local=False, output=movie.parent / "b")
    binned = Path(str(result.folder))
    assert read_header(binned / "micrographs" / "film.mrc").shape[1:] == (144, 128)
    first, second = (read_motion(f / "micrographs" / "film_shifts.star") for f in (whole, binned))
    assert (second.binning, second.pixel_size_angstrom, second.shape) == (2.0, 1.5, SIZE)
    np.testing.assert_allclose(second.shift_px, first.shift_px, atol=0.6)
    optics = read_star(binned / "micrographs.star")["optics"]
    assert (optics["rlnMicrographPixelSize"][0], optics["rlnMicrographOriginalPixelSize"][0]) == (3.0, 1.5)


def test_low_memory_gives_the_same_bytes(run: Run, movie: Path) -> None:
    sums = []
    for name, low in (("a", False), ("b", True)):
        result = run("motion", input=movie, **OPTIONS, low_memory=low, output=movie.parent / name)
        sums.append((Path(str(result.folder)) / "micrographs" / "film.mrc").read_bytes())
    assert sums[0] == sums[1]


def test_bad_movies_are_left_out_and_named(run: Run, movie: Path) -> None:
    whole = movie.read_bytes()
    (movie.parent / "cut.tif").write_bytes(whole[: len(whole) // 2])
    tifffile.imwrite(
        movie.parent / "empty.tif",
        np.zeros((4, *SIZE), np.uint8),
        photometric="minisblack",
        compression="zlib",
    )
    tifffile.imwrite(movie.parent / "one.tif", counts(1)[0][:1], photometric="minisblack", compression="zlib")
    result = run("motion", input=[str(movie.parent / "*.tif")], **OPTIONS)
    assert result.figures["micrographs"] == 2
    assert result.figures["failed_micrographs"] == 2
    assert "cut.tif" in str(result.figures["failed"]) and "empty.tif" in str(result.figures["failed"])
    assert any("one frame" in notice for notice in result.notices)
    names = read_star(Path(str(result.folder)) / "micrographs.star")["micrographs"]["rlnMicrographName"]
    assert list(names) == ["micrographs/film.mrc", "micrographs/one.mrc"]


def test_dead_frame_is_told(run: Run, movie: Path, film: Film) -> None:
    frames = film[0].copy()
    frames[3] = 0
    tifffile.imwrite(movie, frames, photometric="minisblack", compression="zlib")
    result = run("motion", input=movie, **OPTIONS)
    assert [notice for notice in result.notices if "1 of 8 frames are empty and left out: 4" in notice]


def test_exposure_filter_needs_a_dose(run: Run, movie: Path) -> None:
    with pytest.raises(MetadataError, match="--dose-per-frame"):
        run("motion", input=movie, pixel_size=1.5, voltage=300.0)
    result = run("motion", input=movie, pixel_size=1.5, exposure_filter=False)
    assert result.figures["micrographs"] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"first_frame": 5, "last_frame": 2}, "--last-frame"),
        ({"mask_cross": False, "vertical_mask": 2}, "--no-mask-cross"),
        ({"binning": 2.0, "output_pixel_size": 3.0}, "--output-pixel-size"),
        ({"local": False, "patches": (3, 3)}, "--patches"),
        ({"gain_corrected": True, "gain_flip": "x"}, "leaves nothing"),
        ({"min_shift": 50.0, "max_shift": 20.0}, "--min-shift"),
        ({"last_frame": 40}, "movie has frames 1 to 8"),
    ],
)
def test_contradictions_are_refused(run: Run, movie: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ParhelionError, match=says):
        run("motion", input=movie, **OPTIONS, **options)


def test_scaled_sum_is_the_sum_for_screens(
    run: Run, movie: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.jobs._motion.SCREEN_PX", 144)
    result = run("motion", input=movie, **OPTIONS, local=False, output=tmp_path / "a")
    folder = Path(str(result.folder)) / "micrographs"
    whole, small = (open_stack(folder / f"film{end}.mrc") for end in ("", "_scaled"))
    assert small.shape[-2:] == (144, 128) and small.pixel_size_angstrom == pytest.approx(3.0)
    image, scaled = (stack.read(np.array([0]))[0] for stack in (whole, small))
    np.testing.assert_allclose(scaled, fourier_bin(image, (144, 128)), rtol=1e-4)
    plain = run("motion", input=movie, **OPTIONS, local=False, scaled_sum=False, output=tmp_path / "b")
    assert not list(Path(str(plain.folder)).glob("micrographs/*_scaled.mrc"))
    assert (Path(str(plain.folder)) / "micrographs" / "film.mrc").read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize("option", ["gain", "dark"])
def test_a_wrong_reference_is_told_once(run: Run, movie: Path, option: str) -> None:
    second = movie.parent / "second.tif"
    second.write_bytes(movie.read_bytes())
    gain = movie.parent / "wrong.mrc"
    with StackWriter(gain, 1, (100, 90), 1.0) as writer:
        writer.write(0, np.ones((1, 100, 90), np.float32))
    with pytest.raises(InputError, match=r"wrong.mrc has 90 x 100 pixels, the frames 256 x 288") as told:
        run("motion", input=[movie, second], **{option: gain}, **OPTIONS)
    assert "second" not in str(told.value)


def test_the_table_names_the_gain_as_it_lies(run: Run, movie: Path, tmp_path: Path) -> None:
    gain = np.random.default_rng(3).uniform(0.9, 1.1, SIZE).astype(np.float32)
    path = tmp_path / "detector" / "reference.mrc"
    path.parent.mkdir()
    with StackWriter(path, 1, SIZE, 1.0) as writer:
        writer.write(0, gain[None])
    options = {**OPTIONS, "local": False, "gain": path}
    plain = Path(str(run("motion", input=movie, **options, output=tmp_path / "a").folder))
    assert read_motion(plain / "micrographs" / "film_shifts.star").gain == path.as_posix()
    turned = Path(str(run("motion", input=movie, **options, gain_flip="y", output=tmp_path / "b").folder))
    name = read_motion(turned / "micrographs" / "film_shifts.star").gain
    assert name is not None and name.endswith("micrographs/reference_gain.mrc")
    np.testing.assert_array_equal(open_stack(Path(name)).read(np.array([0]))[0], gain[::-1])
