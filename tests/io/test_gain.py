"""Gain and dark references: orientation, size, reciprocals."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from parhelion.errors import FormatError, InputError, ParameterError
from parhelion.io.gain import oriented, read_dark, read_gain
from parhelion.io.mrc import StackWriter, open_stack

RNG = np.random.default_rng(5)
CORNERS = np.array([[1, 2], [3, 4]], np.float32)
AS_RELION = {
    (0, 0): [[1, 2], [3, 4]],
    (0, 1): [[3, 4], [1, 2]],
    (0, 2): [[2, 1], [4, 3]],
    (1, 0): [[3, 1], [4, 2]],
    (1, 1): [[4, 2], [3, 1]],
    (1, 2): [[1, 3], [2, 4]],
    (2, 0): [[4, 3], [2, 1]],
    (2, 1): [[2, 1], [4, 3]],
    (2, 2): [[3, 4], [1, 2]],
    (3, 0): [[2, 4], [1, 3]],
    (3, 1): [[1, 3], [2, 4]],
    (3, 2): [[4, 2], [3, 1]],
}
"""(--gain_rot, --gain_flip) → where RELION 3.1.3 puts the corners of an MRC gain on an MRC movie."""


def write(path: Path, image: np.ndarray) -> Path:
    with StackWriter(path, 1, image.shape, 1.0) as writer:
        writer.write(0, image[None].astype(np.float32))
    return path


@pytest.mark.parametrize("key", sorted(AS_RELION))
def test_orientations_are_relions(tmp_path: Path, key: tuple[int, int]) -> None:
    path = write(tmp_path / "g.mrc", CORNERS)
    rotation, flip = key
    assert read_gain(path, rotation=rotation, flip=flip).tolist() == AS_RELION[key]
    assert read_dark(path, rotation=rotation, flip=flip).tolist() == AS_RELION[key]


@pytest.mark.parametrize("key", [(1, 0), (0, 1), (3, 2)])
def test_relion_turns_the_gain_in_the_same_way(tmp_path: Path, key: tuple[int, int]) -> None:
    """A movie without contrast becomes an image of the gain."""
    program = shutil.which("relion_run_motioncorr")
    if program is None:
        pytest.skip("relion_run_motioncorr is not installed")
    gain = np.ones((64, 64), np.float32)
    gain[:32, :32], gain[40:, :] = 2, 0.5
    gain[:8, :16] = 4
    write(tmp_path / "g.mrc", gain)
    with StackWriter(tmp_path / "m.mrcs", 4, (64, 64), 1.0) as writer:
        writer.write(0, 100 + RNG.normal(size=(4, 64, 64)).astype(np.float32))
    command = (
        f"{program} --i m.mrcs --o out --use_own --gainref g.mrc --gain_rot {key[0]} --gain_flip {key[1]} "
    )
    command += "--skip_defect --angpix 1 --voltage 300"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    image = open_stack(tmp_path / "out/m.mrc").read(np.array([0]))[0]
    assert np.corrcoef(image.ravel(), oriented(gain, *key).ravel())[0, 1] > 0.999


def test_impossible_orientation() -> None:
    for rotation, flip in ((4, 0), (-1, 0), (0, 3)):
        with pytest.raises(ParameterError, match="expected"):
            oriented(CORNERS, rotation, flip)


@pytest.mark.parametrize(
    ("found", "frames", "advice"),
    [
        ((6, 8), (8, 6), "a quarter turn would fit: --gain-rotation 90 or 270"),
        ((6, 8), (12, 16), "the frames are exactly 2 times finer"),
        ((12, 16), (6, 8), "the reference is exactly 2 times finer"),
        ((6, 8), (7, 8), "of this detector"),
    ],
)
def test_size_that_does_not_fit(
    tmp_path: Path, found: tuple[int, int], frames: tuple[int, int], advice: str
) -> None:
    path = write(tmp_path / "g.mrc", np.ones(found))
    sizes = f"has {found[1]} x {found[0]} pixels, the frames {frames[1]} x {frames[0]} .*{advice}"
    for read in (read_gain, read_dark):
        with pytest.raises(InputError, match=sizes):
            read(path, shape=frames)
    assert read_gain(path, rotation=1, shape=found[::-1]).shape == found[::-1]


def test_gain_of_eer_movies(tmp_path: Path) -> None:
    """``.gain`` files are multiplied, others divided and kept at a mean of about 1; grids are matched."""
    gain = RNG.uniform(0.8, 1.25, (4, 6)).astype(np.float32)
    gain[1, 2] = 0
    tifffile.imwrite(tmp_path / "a.gain", gain)
    write(tmp_path / "a.mrc", gain)
    fine = read_gain(tmp_path / "a.gain", eer_movie=True, shape=(8, 12))
    np.testing.assert_array_equal(fine, np.kron(gain, np.ones((2, 2))))
    np.testing.assert_array_equal(read_gain(tmp_path / "a.gain", eer_movie=True, shape=(4, 6)), gain)
    np.testing.assert_allclose(
        read_gain(tmp_path / "a.gain", eer_movie=True, shape=(2, 3)),
        gain.reshape(2, 2, 3, 2).mean(axis=(1, 3)),
        rtol=1e-6,
    )
    notes: list[str] = []
    divided = read_gain(tmp_path / "a.mrc", notes, eer_movie=True)
    assert divided[1, 2] == 0 and "reciprocal" in notes[1]
    np.testing.assert_allclose((divided * gain)[gain > 0], gain.mean(), rtol=1e-5)
    with pytest.raises(InputError, match="3 times finer"):
        read_gain(tmp_path / "a.gain", eer_movie=True, shape=(12, 18))


def test_gain_files_with_several_pages(tmp_path: Path) -> None:
    """The first page of a ``.gain`` file counts; what else is in it may be anything."""
    gain = RNG.uniform(0.8, 1.25, (4, 6)).astype(np.float32)
    with tifffile.TiffWriter(tmp_path / "a.gain") as writer:
        writer.write(gain)
        writer.write(np.zeros((2, 2), np.uint8))
    notes: list[str] = []
    np.testing.assert_array_equal(read_gain(tmp_path / "a.gain", notes), gain)
    assert notes == ["a.gain: the first of 2 pages is the gain reference"]
    content = (tmp_path / "a.gain").read_bytes()
    for broken in (content[:30], b"II*\0\x08\0\0\0\0\0\0\0\0\0", b"nothing"):
        (tmp_path / "a.gain").write_bytes(broken)
        with pytest.raises(FormatError, match=r"a\.gain"):
            read_gain(tmp_path / "a.gain")


def test_dark(tmp_path: Path, stack: Callable[..., np.ndarray]) -> None:
    dark = RNG.normal(size=(4, 6)).astype(np.float32)
    np.testing.assert_array_equal(read_dark(write(tmp_path / "d.mrc", dark), shape=(4, 6)), dark)
    tifffile.imwrite(tmp_path / "d.tif", np.full((4, 4), np.nan, np.float32))
    with pytest.raises(FormatError, match="not finite"):
        read_dark(tmp_path / "d.tif")
    stack("many.mrcs")
    with pytest.raises(FormatError, match="holds 5 images, a dark reference is one"):
        read_dark(tmp_path / "many.mrcs")


def test_files_of_gatan_say_how_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "a.dm4").write_bytes(b"\0\0\0\4")
    with pytest.raises(FormatError, match=r"dm2mrc a\.dm4 a\.mrc"):
        read_gain(tmp_path / "a.dm4")
