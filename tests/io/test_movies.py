"""Movies: what is read of MRC, TIFF and EER files, and how damaged ones are refused."""

import gc
import pickle
import shutil
import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import example as with_example
from hypothesis import strategies as st

from parhelion.contracts import FrameSource
from parhelion.errors import FormatError, InputError, ParameterError, ParhelionError
from parhelion.io import packed
from parhelion.io.eer import EerMovie
from parhelion.io.formats import open_images
from parhelion.io.movies import open_movie

from .eer_files import encode, position, random_places, write_eer

RNG = np.random.default_rng(11)
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
KINDS = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
EER_SHAPE = (24, 32)


def mrc_bytes(
    size_xyz: tuple[int, int, int], mode: int, data: bytes, order: str = "<", **words: float
) -> bytes:
    """An MRC file by hand; ``words`` (w<number>) overwrite header words, reals where they are floats."""
    head = bytearray(1024)
    struct.pack_into(order + "4i", head, 0, *size_xyz, mode)
    struct.pack_into(
        order + "3i3f3f3i", head, 28, *size_xyz, *(0.9 * n for n in size_xyz), 90, 90, 90, 1, 2, 3
    )
    head[208:216] = b"MAP " + (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    for word, value in words.items():
        struct.pack_into(order + ("f" if isinstance(value, float) else "i"), head, 4 * int(word[1:]), value)
    return bytes(head) + data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", KINDS)
def test_mrc_modes(tmp_path: Path, order: str, mode: int) -> None:
    frames = RNG.integers(0, 100, (3, 5, 7)).astype(KINDS[mode])
    path = tmp_path / "a.mrcs"
    extended = b"\xff" * 96
    path.write_bytes(
        mrc_bytes((7, 5, 3), mode, extended + frames.astype(order + KINDS[mode]).tobytes(), order, w23=96)
    )
    movie = open_movie(path)
    assert isinstance(movie, FrameSource)
    assert (movie.count, movie.shape, movie.pixel_size_angstrom) == (3, (5, 7), pytest.approx(0.9))
    for i in range(3):
        frame = movie.frame(i)
        assert frame.dtype == np.float32 and frame.flags.writeable
        np.testing.assert_array_equal(frame, frames[i])
    assert not movie.rows_from_top


def test_bytes_are_signed_unless_the_header_says_otherwise(tmp_path: Path) -> None:
    path, values = tmp_path / "a.mrc", np.array([[[0, 127, 128, 255]]], np.uint8)
    for words, last in (
        ({}, -1),
        ({"w19": 0.0, "w20": 127.0}, -1),
        ({"w19": 0.0, "w20": 255.0}, 255),
        ({"w38": 1146047817, "w39": 0}, 255),
        ({"w38": 1146047817, "w39": 1, "w19": 0.0, "w20": 255.0}, -1),
    ):
        path.write_bytes(mrc_bytes((4, 1, 1), 0, values.tobytes(), **words))
        assert open_movie(path).frame(0)[0, 3] == last
    path.write_bytes(mrc_bytes((4, 1, 1), 0, values.tobytes(), w19=0.0, w20=255.0))
    assert any("unsigned" in note for note in open_movie(path).notes)


@pytest.mark.parametrize("width", [6, 7])
def test_packed_mrc(tmp_path: Path, width: int) -> None:
    """The first pixel of a pair is the lower half of the byte; rows of odd width end in half a byte."""
    frames = RNG.integers(0, 16, (3, 4, width)).astype(np.uint8)
    rows = np.concatenate([frames, np.full((3, 4, width % 2), 9, np.uint8)], axis=2)
    data = (rows[..., 0::2] | rows[..., 1::2] << 4).tobytes()
    path = tmp_path / "a.mrcs"
    path.write_bytes(mrc_bytes((width, 4, 3), 101, data))
    movie = open_movie(path)
    assert movie.shape == (4, width)
    np.testing.assert_array_equal([movie.frame(i) for i in range(3)], frames)
    path.write_bytes(mrc_bytes((width, 4, 3), 101, data[:-1]))
    with pytest.raises(FormatError, match="truncated"):
        open_movie(path)


@pytest.mark.parametrize("name", ["a.mrcs", "a.tif"])
def test_relion_reads_the_same(tmp_path: Path, name: str) -> None:
    """4-bit MRC pixels and the direction of TIFF rows are RELION's."""
    program = shutil.which("relion_image_handler")
    if program is None:
        pytest.skip("relion_image_handler is not installed")
    frames = RNG.integers(0, 16, (2, 6, 8)).astype(np.uint8)
    if name == "a.tif":
        tifffile.imwrite(tmp_path / name, frames, photometric="minisblack", metadata=None)
    else:
        (tmp_path / name).write_bytes(
            mrc_bytes((8, 6, 2), 101, (frames[..., 0::2] | frames[..., 1::2] << 4).tobytes())
        )
    command = [program, "--i", f"2@{name}", "--o", "out.mrc"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    relions = open_movie(tmp_path / "out.mrc").frame(0)
    np.testing.assert_array_equal(open_movie(tmp_path / name).frame(1), relions)


def test_packed_bytes_of_half_the_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = RNG.integers(0, 16, (2, 4, 6)).astype(np.uint8)
    data = (frames[..., 0::2] | frames[..., 1::2] << 4).tobytes()
    path = tmp_path / "a.mrc"
    path.write_bytes(mrc_bytes((3, 4, 2), 0, data, w38=1146047817, w39=16))
    np.testing.assert_array_equal(open_movie(path).frame(1), frames[1])
    # without IMOD's flag, the label and the size of a super-resolution frame are needed
    labelled = bytearray(mrc_bytes((3, 4, 2), 0, data))
    labelled[224:249] = b"SerialEM: 4 bits packed  "
    path.write_bytes(labelled)
    assert open_movie(path).shape == (4, 3)
    monkeypatch.setattr(packed, "SUPER_RESOLUTION_YX", ((6, 4),))
    movie = open_movie(path)
    assert movie.shape == (4, 6) and any("4-bit" in note for note in movie.notes)
    np.testing.assert_array_equal(movie.frame(0), frames[0])
    tifffile.imwrite(
        tmp_path / "a.tif", np.frombuffer(data, np.uint8).reshape(2, 4, 3), photometric="minisblack"
    )
    movie = open_movie(tmp_path / "a.tif")
    np.testing.assert_array_equal(movie.frame(1), frames[1, ::-1])
    assert "taken as 4-bit frames of 6 x 4" in movie.notes[0]


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_tiff(tmp_path: Path, compression: str | None, dtype: str) -> None:
    frames = RNG.integers(0, 100, (4, 33, 20)).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        frames,
        compression=compression,
        photometric="minisblack",
        rowsperstrip=8,
        bigtiff=dtype == "uint16",
        byteorder=">" if dtype == "int16" else "<",
        metadata=None,
    )
    movie = open_movie(path)
    assert (movie.count, movie.shape, movie.pixel_size_angstrom) == (4, (33, 20), None)
    assert not movie.rows_from_top
    np.testing.assert_array_equal([movie.frame(i) for i in (3, 0, 1, 2)], frames[[3, 0, 1, 2], ::-1])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(movie)).frame(2), frames[2, ::-1])


def test_threads_share_a_tiff(tmp_path: Path) -> None:
    frames = RNG.integers(0, 9, (12, 65, 40)).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frames, compression="lzw", photometric="minisblack", rowsperstrip=4)
    movie = open_movie(path)
    order = RNG.integers(0, 12, 200)
    with ThreadPoolExecutor(4) as pool:
        for i, frame in zip(order, pool.map(movie.frame, order)):
            np.testing.assert_array_equal(frame, frames[i, ::-1])
    # the file is closed with the movie: an open one would be reported as a warning, which is an error here
    del movie
    gc.collect()


def test_frames_outside_the_movie(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((2, 4, 4), np.uint8), photometric="minisblack")
    for index in (-1, 2):
        with pytest.raises(FormatError, match="which holds 2"):
            open_movie(path).frame(index)


def test_page_of_another_size(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((8, 8), np.uint8))
        writer.write(np.zeros((8, 9), np.uint8))
    with pytest.raises(FormatError, match=r"page 2 of .*a\.tif is uint8 \(8, 9\)"):
        open_movie(path)


def test_tiff_that_ends_early(tmp_path: Path) -> None:
    """The directories of a movie may lie before the data that an interrupted copy lost."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RNG.integers(0, 99, (3, 64, 64), dtype=np.uint8), photometric="minisblack")
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(FormatError, match=r"a\.tif"):
        open_movie(path)


@pytest.mark.parametrize("metadata", [None, {}], ids=["plain", "described"])
def test_tiff_cut_before_its_second_directory(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    """Stored in one piece, the first page says where the others are described: behind the data."""
    path = tmp_path / "a.tif"
    frames = RNG.integers(0, 99, (4, 64, 64), dtype=np.uint8)
    tifffile.imwrite(path, frames, photometric="minisblack", metadata=metadata)
    content = path.read_bytes()
    path.write_bytes(content[:9000])
    for open_it in (open_movie, open_images):
        with pytest.raises(
            FormatError, match=r"page 1 of .*a\.tif is followed by another .* 9,000: it is trunc"
        ):
            open_it(path)


def test_movie_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mrcs"
    path.write_bytes(mrc_bytes((4, 4, 3), 1, bytes(96)))
    movie = open_movie(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FormatError, match="ended within frame 2"):
        movie.frame(1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mrc", mrc_bytes((4, 4, 0), 2, b""), "must be positive"),
        ("a.mrc", mrc_bytes((2**30, 2**30, 2**30), 2, b""), "truncated"),
        ("a.mrc", mrc_bytes((4, 4, 1), 4, bytes(128)), "Fourier transform"),
        ("a.mrc", mrc_bytes((4, 4, 4), 2, bytes(256), w18=1, w16=3), "sections are no frames"),
        ("a.mrc", b"", "has 0 bytes"),
        ("a.tif", b"", "is empty"),
        ("a.tif", b"II*\0\x08\0\0\0\0\0\0\0\0\0", "page 1 of"),
        ("a.eer", b"something else" * 90, "does not begin as a TIFF"),
        ("a.dm4", b"\0\0\0\4" * 300, "dm2mrc"),
        ("a.txt", b"hello", "movies are MRC"),
    ],
)
def test_no_movies(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        open_movie(tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tif", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            open_movie(path)


@pytest.mark.parametrize(
    ("compression", "skip_bits", "bits"), [(65000, 8, None), (65001, 7, None), (65002, 9, (9, 2, 2))]
)
@pytest.mark.parametrize("finer", [1, 2, 4])
def test_eer(
    tmp_path: Path, compression: int, skip_bits: int, bits: tuple[int, int, int] | None, finer: int
) -> None:
    places = [random_places(RNG, EER_SHAPE, n) for n in (40, 0, 1, 300, 7, 60, 5)]
    path = tmp_path / "a.eer"
    coded = [encode(p, EER_SHAPE, skip_bits) for p in places]
    write_eer(path, coded, EER_SHAPE, compression, bits=bits, pixel_metres="9.2e-11")
    movie = open_movie(path, eer_upsampling=finer, eer_grouping=3)
    assert isinstance(movie, EerMovie)
    assert (movie.count, movie.shape) == (2, (EER_SHAPE[0] * finer, EER_SHAPE[1] * finer))
    assert movie.pixel_size_angstrom == pytest.approx(0.92 / finer)
    assert "the last 1 raw frames are left out" in movie.notes[0]
    for i in range(2):
        expected = np.zeros(movie.shape, np.float32)
        for pixel, place in np.concatenate(places[3 * i : 3 * i + 3]):
            expected[position(int(pixel), int(place), EER_SHAPE[1], finer)] += 1
        np.testing.assert_array_equal(movie.frame(i), expected)


def test_eer_behind_its_sum(tmp_path: Path) -> None:
    path = tmp_path / "a.eer"
    coded = [encode(random_places(RNG, EER_SHAPE, 9), EER_SHAPE, 7) for _ in range(4)]
    write_eer(path, coded, EER_SHAPE, with_sum=True)
    movie = open_movie(path, eer_grouping=1)
    assert movie.count == 4 and movie.frame(3).sum() == 9
    with ThreadPoolExecutor(4) as pool:
        assert [f.sum() for f in pool.map(movie.frame, range(4))] == [9] * 4
    assert pickle.loads(pickle.dumps(movie)).frame(0).sum() == 9


def test_eer_grouping_by_default(tmp_path: Path) -> None:
    path = tmp_path / "a.eer"
    write_eer(path, [encode(np.zeros((0, 2)), EER_SHAPE, 7)] * 130, EER_SHAPE)
    movie = open_movie(path)
    assert isinstance(movie, EerMovie) and (movie.grouping, movie.count, movie.raw_count) == (4, 32, 130)


def test_eer_parameters(tmp_path: Path) -> None:
    path = tmp_path / "a.eer"
    write_eer(path, [encode(np.zeros((0, 2)), EER_SHAPE, 7)] * 3, EER_SHAPE)
    for parameters, message in (
        ({"eer_upsampling": 3}, "expected 1, 2 or 4"),
        ({"eer_grouping": 0}, "at least 1 raw frame"),
        ({"eer_grouping": 4}, "holds 3 raw frames"),
    ):
        with pytest.raises(ParameterError, match=message):
            open_movie(path, **parameters)
    write_eer(path, [encode(np.zeros((0, 2)), EER_SHAPE, 8, 2)] * 3, EER_SHAPE, 65002, bits=(8, 1, 1))
    with pytest.raises(ParameterError, match="places electrons to 1/2"):
        open_movie(path, eer_upsampling=4)


def test_damaged_eer(tmp_path: Path) -> None:
    path = tmp_path / "a.eer"
    frame = encode(random_places(RNG, EER_SHAPE, 60), EER_SHAPE, 7)
    # skips that lead beyond the last pixel
    write_eer(path, [frame, b"\xff" * 40], EER_SHAPE)
    with pytest.raises(FormatError, match=r"raw frame 2 of .* cannot be decoded"):
        open_movie(path, eer_grouping=1).frame(1)
    write_eer(path, [frame, frame[:4]], EER_SHAPE)
    with pytest.raises(FormatError, match=r"raw frame 2 of .* in 4 bytes, at least 5 are needed"):
        open_movie(path)
    write_eer(path, [frame, frame], EER_SHAPE)
    # the last directory points behind the end
    path.write_bytes(path.read_bytes()[: len(frame)])
    with pytest.raises(FormatError, match=r"a\.eer"):
        open_movie(path)
    write_eer(path, [frame] * 4, EER_SHAPE)
    # cut where the data of the third raw frame would begin: two whole ones are left
    path.write_bytes(path.read_bytes()[: 16 + (path.stat().st_size - 16) // 2])
    with pytest.raises(FormatError, match=r"page 2 of .*a\.eer is followed by another"):
        open_movie(path)
    write_eer(path, [frame], (40_000, 50_000))
    with pytest.raises(FormatError, match="promises 50000 x 40000 pixels"):
        open_movie(path)


def make_mrc(path: Path) -> None:
    path.write_bytes(mrc_bytes((8, 6, 4), 6, RNG.integers(0, 99, (4, 6, 8)).astype("<u2").tobytes()))


def make_packed(path: Path) -> None:
    path.write_bytes(mrc_bytes((7, 6, 4), 101, RNG.integers(0, 256, 4 * 6 * 4).astype(np.uint8).tobytes()))


def make_tiff(path: Path) -> None:
    tifffile.imwrite(
        path,
        RNG.integers(0, 9, (3, 16, 12)).astype(np.uint8),
        compression="lzw",
        photometric="minisblack",
        rowsperstrip=4,
    )


def make_eer(path: Path) -> None:
    write_eer(path, [encode(random_places(RNG, EER_SHAPE, 30), EER_SHAPE, 7) for _ in range(3)], EER_SHAPE)


MAKERS: dict[str, Callable[[Path], None]] = {
    "a.mrcs": make_mrc,
    "b.mrc": make_packed,
    "a.tif": make_tiff,
    "a.eer": make_eer,
}


@pytest.fixture(params=sorted(MAKERS))
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    MAKERS[request.param](path)
    return path


def assert_read_or_refused(path: Path) -> None:
    """Reading ends in frames or in an error of ours that names the file, and takes little memory."""
    tracemalloc.start()
    try:
        movie = open_movie(path)
        for i in range(min(movie.count, 5)):
            assert movie.frame(i).shape == movie.shape
    except ParhelionError as error:
        assert path.name in str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 64 * 2**20


@FUZZ
@given(cut=st.floats(0, 1, exclude_max=True))
def test_truncated(example: Path, cut: float) -> None:
    path = example.with_name("cut" + example.suffix)
    whole = example.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    assert_read_or_refused(path)


@FUZZ
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
    ),
    near=st.booleans(),
)
@with_example(changes=[(0.099609375, 0)], near=False)  # a height that is a tuple
def test_changed_bytes(example: Path, changes: list[tuple[float, int]], near: bool) -> None:
    content = bytearray(example.read_bytes())
    reach = min(len(content), 300) if near else len(content)
    for where, value in changes:
        content[int(where * reach)] = value
    path = example.with_name("changed" + example.suffix)
    path.write_bytes(content)
    assert_read_or_refused(path)


@FUZZ
@given(
    numbers=st.lists(st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 2**20, 101]), min_size=1, max_size=6),
    where=st.floats(0, 1, exclude_max=True),
)
def test_header_words(example: Path, numbers: list[int], where: float) -> None:
    """Sizes that are negative, zero, or make terabytes, anywhere in the file."""
    content = bytearray(example.read_bytes())
    word = int(where * min(len(content) // 4, 64)) if example.suffix.startswith(".mrc") else None
    for position_, number in enumerate(numbers):
        start = (
            4 * (word + position_) if word is not None else int(where * (len(content) - 30)) + 4 * position_
        )
        struct.pack_into("<i", content, min(start, len(content) - 4), number)
    path = example.with_name("words" + example.suffix)
    path.write_bytes(content)
    assert_read_or_refused(path)
