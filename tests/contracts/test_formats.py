"""What every registered format must do, and how it meets damaged files.

A format without an example here fails ``test_every_format_has_an_example``.
"""

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import example as always
from hypothesis import strategies as st

from parhelion.errors import InputError, OutputError, ParhelionError
from parhelion.io.cistem_binary import write_cistem_binary
from parhelion.io.formats import FORMATS, format_of
from parhelion.io.frealign import write_par
from parhelion.io.mrc import StackWriter, write_volume
from parhelion.io.relion_writer import write_relion
from parhelion.io.stack import ImageStack
from parhelion.model.particles import OpticsGroup, ParticleSet, Views
from parhelion.model.table import Table
from parhelion.model.volume import Volume

IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
PIXEL = 1.5
MEMORY_LIMIT = 64 * 2**20
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def some_particles(folder: Path) -> ParticleSet:
    """Three particles without poses."""
    n = np.zeros(3, np.int64)
    ones = np.ones(3)
    views = Views(
        image_path=(folder / "a.mrcs",),
        path_id=n,
        image_index=np.arange(3),
        particle=np.arange(3),
        optics_group=n,
        defocus_u_angstrom=12000 * ones,
        defocus_v_angstrom=11000 * ones,
        defocus_angle_deg=30 * ones,
        phase_shift_deg=0 * ones,
        ctf_bfactor_angstrom2=0 * ones,
        ctf_scale=ones,
        noise_group=n,
    )
    group = OpticsGroup(
        name="g",
        pixel_size_angstrom=PIXEL,
        voltage_kv=300,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
    )
    names = np.array([f"{i + 1}@a.mrcs" for i in range(3)], dtype=object)
    return ParticleSet(optics=(group,), views=views, count=3, extra=Table({"rlnImageName": names}))


def make_mrcs(path: Path) -> None:
    with StackWriter(path, 3, (8, 8), PIXEL) as writer:
        writer.write(0, IMAGES)


def make_mrc(path: Path) -> None:
    write_volume(path, Volume(data=IMAGES, pixel_size_angstrom=PIXEL))


def make_tiff(path: Path) -> None:
    tifffile.imwrite(path, IMAGES[:, ::-1], compression="deflate", photometric="minisblack")


def spider_bytes(shape: tuple[int, int, int], kind: int, images: int = 0) -> bytes:
    """A SPIDER header; the header fills whole rows of four bytes a value."""
    z, y, x = shape
    records = -(-1024 // (4 * x))
    head = np.zeros(records * x, ">f4")
    head[[0, 1, 4, 11, 12, 21, 22]] = (z, y, kind, x, records, records * x * 4, x * 4)
    head[37] = PIXEL
    if images:
        head[[23, 25]] = (2, images)
    return head.tobytes()


def make_spider(path: Path) -> None:
    one = spider_bytes((1, 8, 8), 1)
    path.write_bytes(
        spider_bytes((1, 8, 8), 1, images=3)
        + b"".join(one + image.astype(">f4").tobytes() for image in IMAGES)
    )


def make_spider_volume(path: Path) -> None:
    path.write_bytes(spider_bytes((3, 8, 8), 3) + IMAGES.astype(">f4").tobytes())


def make_star(path: Path) -> None:
    write_relion(path, some_particles(path.parent))


def make_star30(path: Path) -> None:
    write_relion(path, some_particles(path.parent), version="3.0")


def make_cistem(path: Path) -> None:
    labels = "PositionInStack AnglePhi AngleTheta AnglePsi XShift YShift Defocus1 Defocus2 DefocusAngle "
    labels += "PixelSize MicroscopeVoltagekV MicroscopeCsMM AmplitudeContrast StackFilename"
    rows = [f"{i} 0 0 0 0 0 12000 11000 30 {PIXEL} 300 2.7 0.1 'a.mrcs'" for i in (1, 2, 3)]
    path.write_text(
        "data_\nloop_\n" + "".join(f"_cisTEM{x}\n" for x in labels.split()) + "\n".join(rows) + "\n"
    )


def make_cistem_binary(path: Path) -> None:
    write_cistem_binary(path, some_particles(path.parent))


def make_par(path: Path) -> None:
    write_par(path, some_particles(path.parent))


def make_cs(path: Path) -> None:
    fields: list[Any] = [("blob/path", "S8"), ("blob/idx", "u4"), ("blob/psize_A", "f4"), ("blob/sign", "f4")]
    values = {"accel_kv": 300, "cs_mm": 2.7, "amp_contrast": 0.1, "df1_A": 12000, "df2_A": 11000}
    values["df_angle_rad"] = np.radians(30)
    table = np.zeros(3, [*fields, *((f"ctf/{name}", "f4") for name in values)])
    table["blob/path"], table["blob/idx"], table["blob/psize_A"], table["blob/sign"] = (
        b"a.mrcs",
        range(3),
        PIXEL,
        1,
    )
    for name, value in values.items():
        table[f"ctf/{name}"] = value
    with path.open("wb") as stream:
        np.save(stream, table)


EXAMPLES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "mrcs": ("a.mrcs", make_mrcs),
    "mrc": ("a.mrc", make_mrc),
    "tiff": ("a.tif", make_tiff),
    "spider": ("a.spi", make_spider),
    "spider-volume": ("a.vol", make_spider_volume),
    "cistem": ("a.star", make_cistem),
    "star": ("a.star", make_star),
    "star30": ("a.star", make_star30),
    "cs": ("a.cs", make_cs),
    "par": ("a.par", make_par),
    "cistem-binary": ("a.cistem", make_cistem_binary),
}


def read_all(name: str, path: Path) -> Any:
    """Read ``path`` with every value in it."""
    form = FORMATS[name]
    if form.kind == "particles":
        return form.read(path, None, [])
    if form.kind == "volume":
        return form.read(path, PIXEL)
    stack: ImageStack = form.read(path)
    # a damaged header may promise many tiny images, never more than the file holds
    return stack.read(np.arange(min(len(stack), 100)))


def assert_content(name: str, content: Any) -> None:
    if FORMATS[name].kind == "particles":
        assert len(content) == 3
        assert content.optics[0].pixel_size_angstrom == pytest.approx(PIXEL)
        assert content.views.image_index.tolist() == [0, 1, 2]
        assert [p.name for p in content.views.image_path] == ["a.mrcs"]
        np.testing.assert_allclose(content.views.defocus_angle_deg, 30, rtol=1e-6)
    elif FORMATS[name].kind == "volume":
        np.testing.assert_array_equal(content.data, IMAGES)
    else:
        np.testing.assert_array_equal(content, IMAGES)


def assert_valid_or_refused(name: str, path: Path) -> None:
    """Reading ends in a result or in an error of ours that names the file, and takes little memory."""
    tracemalloc.start()
    try:
        read_all(name, path)
    except ParhelionError as error:
        assert str(path) in str(error) or path.name in str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MEMORY_LIMIT


@pytest.fixture(params=sorted(EXAMPLES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def example(name: str, tmp_path: Path) -> Path:
    file, make = EXAMPLES[name]
    make(tmp_path / file)
    return tmp_path / file


def test_every_format_has_an_example() -> None:
    assert set(EXAMPLES) == set(FORMATS), "register an example in EXAMPLES for each format"


def test_example_is_read_and_recognised(name: str, example: Path) -> None:
    assert_content(name, read_all(name, example))
    found = format_of(example, FORMATS[name].kind)
    assert_content(name, read_all(found.name, example))
    # RELION 3.0 tables are read by the one reader of RELION's tables
    assert found.name == name or {found.name, name} == {"star", "star30"}


def test_what_is_written_is_read_again(name: str, example: Path, tmp_path: Path) -> None:
    form = FORMATS[name]
    if form.write is None:
        assert form.name in ("spider", "spider-volume"), "say here that the format is only read"
        return
    content = form.read(*(example, PIXEL, [])[: {"stack": 1, "volume": 2, "particles": 3}[form.kind]])
    second = tmp_path / f"second{example.suffix}"
    form.write(second, *((content, PIXEL) if form.kind == "stack" else (content,)))
    assert_content(name, read_all(name, second))
    with pytest.raises(OutputError, match="does not exist"):
        missing = tmp_path / "none" / second.name
        form.write(missing, *((content, PIXEL) if form.kind == "stack" else (content,)))


def test_missing_file_and_folder(name: str, tmp_path: Path) -> None:
    for path in (tmp_path / "none.xyz", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            read_all(name, path)


@FUZZ
@given(cut=st.floats(0, 1, exclude_max=True))
def test_truncated(name: str, example: Path, cut: float) -> None:
    whole = example.read_bytes()
    path = example.with_name("cut" + example.suffix)
    path.write_bytes(whole[: int(cut * len(whole))])
    assert_valid_or_refused(name, path)


@FUZZ
@given(content=st.binary(max_size=3000))
def test_random_bytes(name: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ("random" + Path(EXAMPLES[name][0]).suffix)
    path.write_bytes(content)
    assert_valid_or_refused(name, path)


@FUZZ
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
    ),
    head=st.booleans(),
)
@always(changes=[(0.021484375, 2)], head=True)  # another version of NumPy's format: a header of 600 MB
def test_changed_bytes(name: str, example: Path, changes: list[tuple[float, int]], head: bool) -> None:
    content = bytearray(example.read_bytes())
    reach = min(len(content), 300) if head else len(content)
    for where, value in changes:
        content[int(where * reach)] = value
    path = example.with_name("changed" + example.suffix)
    path.write_bytes(content)
    assert_valid_or_refused(name, path)


NUMBERS = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 2**20, 7, 1_000_000])


@FUZZ
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=6), word=st.integers(0, 60), real=st.booleans())
def test_header_words(name: str, example: Path, numbers: list[int], word: int, real: bool) -> None:
    """Sizes that are negative, zero, or make terabytes, anywhere in a binary header."""
    content = bytearray(example.read_bytes())
    for order in "<>":
        for position, number in enumerate(numbers):
            struct.pack_into(
                order + "fi"[not real], content, min(4 * (word + position), len(content) - 4), number
            )
        path = example.with_name("words" + example.suffix)
        path.write_bytes(content)
        assert_valid_or_refused(name, path)


LINES = ["\n", "\n\n", " ", "\t", "_rlnImageName #1"]
WORDS = (
    "data_ data_x loop_ _rlnVoltage _x 1 -1e999 nan ' \" # 1@a.mrcs @ inf ; _ 0 none Å 999999999999999999999"
)
TOKENS = st.sampled_from([*LINES, *WORDS.split(" ")])


@FUZZ
@given(tokens=st.lists(TOKENS, max_size=40))
def test_random_tables(tmp_path: Path, tokens: list[str]) -> None:
    path = tmp_path / "t.star"
    path.write_text(" ".join(tokens))
    for name in ("star", "cistem", "par"):
        assert_valid_or_refused(name, path)


CELLS = st.sampled_from(
    ["nan", "inf", "-1", "0", "1e300", "x", "99999999999999999999", "1_0", "'a b'", "@", "1@"]
)


@FUZZ
@given(row=st.integers(0, 2), column=st.integers(0, 30), cell=CELLS, optics=st.booleans())
def test_values_of_tables(tmp_path: Path, row: int, column: int, cell: str, optics: bool) -> None:
    """Any cell of a RELION table may hold anything."""
    path = tmp_path / "t.star"
    particles = some_particles(tmp_path)
    rotation, shift = np.tile(np.eye(3), (3, 1, 1)), np.ones((3, 3))
    group = replace(
        particles.optics[0], beam_tilt_xy_mrad=(0.1, 0), odd_zernike=(0.1,), ctf_premultiplied=True
    )
    full = replace(particles, optics=(group,), half=np.array([1, 2, 1]), class_number=np.ones(3, int))
    write_relion(path, full.with_poses(rotation, shift))
    lines = path.read_text().split("\n")
    rows = [i for i, line in enumerate(lines) if "\t" in line]
    which = rows[0] if optics else rows[1 + row]
    cells = lines[which].split("\t")
    cells[column % len(cells)] = cell
    lines[which] = "\t".join(cells)
    path.write_text("\n".join(lines))
    assert_valid_or_refused("star", path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(name: str, tmp_path: Path, value: float) -> None:
    """Maps refuse them with the count; images pass them on to the check for bad images."""
    kind = FORMATS[name].kind
    if kind == "particles":
        return
    file, make = EXAMPLES[name]
    IMAGES[1, 2, 3], kept = value, IMAGES[1, 2, 3]
    try:
        if name in ("mrcs", "mrc"):
            order = make_mrcs if name == "mrcs" else make_mrc
            with pytest.raises(OutputError):
                order(tmp_path / file)
            return
        make(tmp_path / file)
        if kind == "volume":
            with pytest.raises(ParhelionError, match="1 of the 192 values"):
                read_all(name, tmp_path / file)
        else:
            assert np.count_nonzero(~np.isfinite(read_all(name, tmp_path / file))) == 1
    finally:
        IMAGES[1, 2, 3] = kept
