"""MRC2014: what is read back, what is refused, and what other programs say about the files."""

import resource
import shutil
import struct
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from parhelion.errors import FormatError, InputError, MetadataError, OutputError, ParameterError
from parhelion.io.mrc import StackWriter, open_stack, read_header, read_transform, read_volume, write_volume
from parhelion.model.volume import Volume


@pytest.fixture
def volume() -> Volume:
    return Volume(
        data=np.random.default_rng(1).normal(size=(6, 7, 9)).astype(np.float32), pixel_size_angstrom=1.25
    )


@pytest.fixture
def written(tmp_path: Path, volume: Volume) -> Path:
    path = tmp_path / "map.mrc"
    write_volume(path, volume)
    return path


def patch(path: Path, offset: int, kind: str, *values: float) -> None:
    """Overwrite header values."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<" + kind, content, offset, *values)
    path.write_bytes(content)


def raw_mrc(path: Path, data: np.ndarray, mode: int, order: str = "<", **words: int) -> Path:
    """A minimal file built by hand, in either byte order; ``words`` overwrite 4-byte words by number."""
    header = np.zeros(256, f"{order}i4")
    header[:4] = (*data.shape[::-1], mode)
    header[7:10] = data.shape[::-1]
    header[10:13] = np.array([2.0 * n for n in data.shape[::-1]], f"{order}f4").view(f"{order}i4")
    header[16:19] = (1, 2, 3)
    header[22] = 1
    content = bytearray(header.tobytes())
    content[208:216] = b"MAP " + (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    for word, value in words.items():
        struct.pack_into(f"{order}i", content, 4 * int(word[1:]), value)
    path.write_bytes(bytes(content) + data.astype(data.dtype.newbyteorder(order)).tobytes())
    return path


def test_map_comes_back(written: Path, volume: Volume) -> None:
    found = read_volume(written)
    np.testing.assert_array_equal(found.data, volume.data)
    assert found.pixel_size_angstrom == 1.25
    assert read_header(written).kind == "volume"
    assert read_header(written).notes == ()


def test_map_is_valid_for_mrcfile(written: Path, volume: Volume) -> None:
    assert mrcfile.validate(written)
    with mrcfile.open(written) as mrc:
        np.testing.assert_array_equal(mrc.data, volume.data)
        assert mrc.voxel_size.x == pytest.approx(1.25)
        assert mrc.is_volume()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int16", "uint16"])
def test_stack_comes_back_in_every_mode(tmp_path: Path, dtype: str) -> None:
    images = np.random.default_rng(2).integers(0, 100, size=(5, 6, 8)).astype(np.float32)
    path = tmp_path / "a.mrcs"
    with StackWriter(path, 5, (6, 8), 2.0, dtype) as writer:
        writer.write(3, images[3:])
        writer.write(0, images[:3])
    np.testing.assert_array_equal(open_stack(path).read(np.arange(5)), images)
    assert open_stack(path).pixel_size_angstrom == 2.0
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data.astype(np.float32), images)
        assert mrc.is_image_stack()
        assert mrc.header.dmax == images.max()
        assert mrc.header.dmin == images.min()
        assert mrc.header.dmean == pytest.approx(images.mean(), rel=1e-5)
        assert mrc.header.rms == pytest.approx(images.std(), rel=1e-5)
    # mrcfile sums float16 in float16, which overflows
    assert dtype == "float16" or mrcfile.validate(path)


def test_relion_reads_maps_and_stacks(tmp_path: Path, written: Path, volume: Volume) -> None:
    program = shutil.which("relion_image_handler")
    if program is None:
        pytest.skip("relion_image_handler is not installed")
    said = subprocess.run(
        [program, "--i", written, "--stats"], capture_output=True, text=True, check=True
    ).stdout
    assert "9 x 7 x 6 x 1" in said
    assert f"minval= {volume.data.min():.6g}"[:14] in said
    assert "angpix = 1.25" in said
    path = tmp_path / "a.mrcs"
    with StackWriter(path, 3, (8, 8), 2.5) as writer:
        writer.write(0, np.arange(192.0).reshape(3, 8, 8))
    said = subprocess.run(
        [program, "--i", path, "--stats"], capture_output=True, text=True, check=True
    ).stdout
    assert said.count("8 x 8 x 1 x") >= 1
    assert "angpix = 2.5" in said


def test_images_out_of_order_and_repeated(tmp_path: Path) -> None:
    images = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    path = tmp_path / "a.mrcs"
    with StackWriter(path, 5, (3, 4), 1.0) as writer:
        writer.write(0, images)
    wanted = np.array([4, 0, 0, 3])
    np.testing.assert_array_equal(open_stack(path).read(wanted), images[wanted])


def test_index_past_the_end(written: Path) -> None:
    with pytest.raises(FormatError, match=r"points at image 120 of .*map\.mrc, which holds 6"):
        open_stack(written).read(np.array([0, 119]))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("mode", "kind"), [(0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")])
def test_both_byte_orders(tmp_path: Path, order: str, mode: int, kind: str) -> None:
    data = np.random.default_rng(3).integers(0, 100, size=(3, 4, 5)).astype(kind)
    path = raw_mrc(tmp_path / "a.mrc", data, mode, order)
    np.testing.assert_array_equal(read_volume(path).data, data.astype(np.float32))
    assert read_header(path).notes == ()


@pytest.mark.parametrize("order", ["<", ">"])
def test_missing_and_wrong_stamps_are_noted(tmp_path: Path, order: str) -> None:
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    path = raw_mrc(tmp_path / "a.mrc", data, 2, order, w52=0, w53=0)
    np.testing.assert_array_equal(read_volume(path).data, data)
    notes = " ".join(read_header(path).notes)
    assert "byte-order stamp missing" in notes and "no MAP stamp" in notes
    assert ("little" if order == "<" else "big") in notes
    swapped = bytearray(raw_mrc(tmp_path / "b.mrc", data, 2, order).read_bytes())
    swapped[212:214] = b"\x11\x11" if order == "<" else b"\x44\x44"
    (tmp_path / "b.mrc").write_bytes(swapped)
    np.testing.assert_array_equal(read_volume(tmp_path / "b.mrc").data, data)
    assert "byte-order stamp wrong" in read_header(tmp_path / "b.mrc").notes[0]


@pytest.mark.parametrize("axes", [(1, 2, 3), (2, 1, 3), (3, 1, 2), (1, 3, 2), (2, 3, 1), (3, 2, 1)])
def test_axis_order(tmp_path: Path, axes: tuple[int, int, int]) -> None:
    # the value at (x, y, z) tells where it belongs
    z, y, x = np.meshgrid(np.arange(3), np.arange(4), np.arange(5), indexing="ij")
    zyx = (100 * z + 10 * y + x).astype(np.float32)
    columns, rows, sections = (3 - axis for axis in axes)
    stored = zyx.transpose(sections, rows, columns)
    path = raw_mrc(tmp_path / "a.mrc", stored, 2, w16=axes[0], w17=axes[1], w18=axes[2])
    np.testing.assert_array_equal(read_volume(path, 1.0).data, zyx)
    assert read_header(path).shape == zyx.shape
    assert read_header(path).stored_shape == stored.shape
    if axes[2] == 3:
        np.testing.assert_array_equal(open_stack(path).read(np.arange(3)), zyx)
    else:
        with pytest.raises(FormatError, match="axis order"):
            open_stack(path)


def test_mode_0_is_signed_but_for_imods_older_files(tmp_path: Path) -> None:
    data = np.array([[[0, 127, 128, 255]]], dtype=np.uint8)
    assert open_stack(raw_mrc(tmp_path / "a.mrc", data, 0)).read(np.array([0])).tolist() == [
        [[0, 127, -128, -1]]
    ]
    imod = raw_mrc(tmp_path / "b.mrc", data, 0, w38=1146047817, w39=0)
    assert open_stack(imod).read(np.array([0])).tolist() == [[[0, 127, 128, 255]]]
    signed = raw_mrc(tmp_path / "c.mrc", data, 0, w38=1146047817, w39=1)
    assert open_stack(signed).read(np.array([0])).tolist() == [[[0, 127, -128, -1]]]


def test_transform_is_read_only_as_such(tmp_path: Path) -> None:
    data = (np.arange(24) + 1j).astype(np.complex64).reshape(2, 3, 4)
    path = raw_mrc(tmp_path / "ft.mrc", data, 4)
    np.testing.assert_array_equal(read_transform(path), data)
    for read in (open_stack, read_volume):
        with pytest.raises(FormatError, match="Fourier transform"):
            read(path)


def test_transform_expected(written: Path) -> None:
    with pytest.raises(FormatError, match="has mode 2"):
        read_transform(written)


def test_extended_header_is_skipped(tmp_path: Path) -> None:
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    path = raw_mrc(tmp_path / "a.mrc", data, 2, w23=160)
    content = path.read_bytes()
    path.write_bytes(content[:1024] + b"\xff" * 160 + content[1024:] + b"tail")
    np.testing.assert_array_equal(read_volume(path).data, data)
    assert "4 bytes behind the data" in read_header(path).notes[0]


def test_stack_of_maps(tmp_path: Path) -> None:
    data = np.arange(120, dtype=np.float32).reshape(6, 4, 5)
    path = raw_mrc(tmp_path / "a.mrc", data, 2, w22=401, w9=3)
    header = read_header(path)
    assert (header.kind, header.volumes) == ("volume_stack", 2)
    np.testing.assert_array_equal(read_volume(path, 1.0, number=1).data, data[3:])
    with pytest.raises(FormatError, match="holds 2 maps"):
        read_volume(path, 1.0)
    with pytest.raises(FormatError, match="map 3 of"):
        read_volume(path, 1.0, number=2)
    with pytest.raises(FormatError, match="holds 2 maps"):
        open_stack(path)


@pytest.mark.parametrize(
    ("offset", "kind", "values", "message"),
    [
        (0, "3i", (-5, 7, 6), r"-5 x 7 x 6"),
        (0, "3i", (0, 7, 6), r"must be positive"),
        (
            0,
            "3i",
            (2**30, 2**30, 2**30),
            r"4,951,760,157,141,521,099,596,497,920 bytes, but the file has 2,536",
        ),
        (12, "i", (77,), r"mode is 77"),
        (12, "i", (16,), r"RGB colours"),
        (12, "i", (3,), r"complex 16-bit"),
        (92, "i", (-1,), r"claims -1 bytes"),
        (92, "i", (10_000_000,), r"the file has 2,536"),
    ],
)
def test_impossible_headers(
    written: Path, offset: int, kind: str, values: tuple[int, ...], message: str
) -> None:
    patch(written, offset, kind, *values)
    with pytest.raises(FormatError, match=message):
        read_header(written)


def test_truncated_file_says_its_numbers(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-4])
    with pytest.raises(
        FormatError, match=r"9 x 7 x 6 values of mode 2 .* 2,536 bytes, but the file has 2,532"
    ):
        read_volume(written)


def test_short_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "empty.mrc").write_bytes(b"")
    with pytest.raises(FormatError, match="has 0 bytes"):
        read_header(tmp_path / "empty.mrc")
    with pytest.raises(InputError, match=r"none\.mrc: No such file"):
        read_header(tmp_path / "none.mrc")
    with pytest.raises(InputError, match="directory"):
        read_header(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    data = np.zeros((3, 4, 5), np.float32)
    data[1, 2, 3:] = value
    with pytest.raises(FormatError, match=r"2 of the 60 values in .*a\.mrc"):
        read_volume(raw_mrc(tmp_path / "a.mrc", data, 2))
    with pytest.raises(OutputError, match="not finite"):
        write_volume(tmp_path / "b.mrc", Volume(data=data, pixel_size_angstrom=1))
    assert not (tmp_path / "b.mrc").exists()


def test_missing_pixel_size(written: Path, volume: Volume) -> None:
    patch(written, 40, "3f", 0, 0, 0)
    assert read_header(written).pixel_size_angstrom is None
    with pytest.raises(MetadataError, match="--pixel-size"):
        read_volume(written)
    assert read_volume(written, 3.0).pixel_size_angstrom == 3.0


def test_voxels_that_are_not_cubic(written: Path) -> None:
    patch(written, 40, "3f", 9.0, 7.0, 12.0)
    with pytest.raises(MetadataError, match="1 x 1 x 2 Å"):
        read_volume(written)


@pytest.mark.filterwarnings("ignore:Map ID string not found", "ignore:Unrecognised machine stamp")
@pytest.mark.parametrize(
    ("name", "shape", "kind", "pixel"),
    [
        ("bgal_particles/particles.mrcs", (2374, 64, 64), "stack", 3.54),
        ("formats/relion/relion31.mrcs", (5, 256, 256), "stack", 1.0),
        ("formats/relion/rln_proj_65.mrcs", (5, 65, 65), "stack", None),
        ("maps/EMD-3001.map", (73, 25, 43), "volume", 0.44825),
        ("maps/EMD-3197.map", (20, 20, 20), "volume", 11.4),
        ("maps/emd_3488_mask.mrc", (100, 91, 91), "volume", 1.05),
        ("micrographs/k2_300kv_0.854A.mrc", (1, 3838, 3710), "image", 0.853775),
    ],
)
def test_files_of_other_programs(
    test_data: Path, name: str, shape: tuple[int, ...], kind: str, pixel: float | None
) -> None:
    header = read_header(test_data / name)
    assert (header.shape, header.kind, header.pixel_size_angstrom) == (shape, kind, pixel)
    with mrcfile.mmap(test_data / name, permissive=True) as mrc:
        theirs = np.array(mrc.data[0] if kind != "image" else mrc.data, dtype=np.float32)
    if kind != "volume":
        np.testing.assert_array_equal(open_stack(test_data / name).read(np.array([0]))[0], theirs)
    elif header.axes == (1, 2, 3):
        np.testing.assert_array_equal(read_volume(test_data / name).data[0], theirs)
    else:
        # columns along z, rows along x, sections along y
        np.testing.assert_array_equal(read_volume(test_data / name, 1.0).data[:, 0, :].T, theirs)


def test_failure_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.mrcs"
    path.write_text("old")
    with pytest.raises(RuntimeError), StackWriter(path, 2, (3, 3), 1.0) as writer:
        writer.write(0, np.zeros((1, 3, 3)))
        raise RuntimeError
    with (
        pytest.raises(OutputError, match=r"1 of 2 images .* first number 2"),
        StackWriter(path, 2, (3, 3), 1.0) as w,
    ):
        w.write(0, np.zeros((1, 3, 3)))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mrcs"]


def test_full_disk(tmp_path: Path, volume: Volume) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        big = np.zeros((50, 64, 64), np.float32)
        with (
            pytest.raises(OutputError, match=r"cannot write .*a\.mrcs"),
            StackWriter(tmp_path / "a.mrcs", 50, (64, 64), 1.0) as w,
        ):
            w.write(0, big)
        with pytest.raises(OutputError, match=r"cannot write .*b\.mrc"):
            write_volume(tmp_path / "b.mrc", Volume(data=big, pixel_size_angstrom=1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_there(tmp_path: Path, volume: Volume) -> None:
    with pytest.raises(OutputError, match=r"the folder .*no does not exist"):
        write_volume(tmp_path / "no" / "a.mrc", volume)
    with pytest.raises(OutputError, match="it is a folder"):
        write_volume(tmp_path, volume)


def test_values_that_do_not_fit(tmp_path: Path) -> None:
    for dtype, value in (("int8", 200.0), ("float16", 1e6), ("float32", np.nan)):
        with (
            pytest.raises(OutputError, match="do not fit"),
            StackWriter(tmp_path / "a.mrcs", 1, (2, 2), 1.0, dtype) as w,
        ):
            w.write(0, np.full((1, 2, 2), value))
    with pytest.raises(ParameterError, match="float64"):
        StackWriter(tmp_path / "a.mrcs", 1, (2, 2), 1.0, "float64")
    assert list(tmp_path.iterdir()) == []
