"""TIFF, SPIDER, masks, gain references and conversion."""

import resource
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from parhelion.errors import FormatError, InputError, MetadataError, OutputError, ParameterError
from parhelion.io.convert import convert
from parhelion.io.formats import format_of, open_images, output_format
from parhelion.io.gain import read_gain
from parhelion.io.masks import read_mask
from parhelion.io.mrc import open_stack, read_volume, write_volume
from parhelion.io.particles import read_particles
from parhelion.io.spider import open_spider, read_spider_volume
from parhelion.io.star import read_star
from parhelion.io.tiff import open_tiff, write_tiff
from parhelion.model.volume import Volume

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("compression", [None, "deflate", "lzw"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_tiff(tmp_path: Path, compression: str | None, dtype: str) -> None:
    images = RNG.integers(0, 100, size=(4, 6, 9)).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, images, compression=compression, photometric="minisblack")
    stack = open_tiff(path)
    assert stack.shape == (4, 6, 9) and stack.pixel_size_angstrom is None
    np.testing.assert_array_equal(stack.read(np.array([3, 0])), images[[3, 0], ::-1])
    with pytest.raises(FormatError, match="points at image 5 of"):
        stack.read(np.array([4]))


def test_tiff_comes_back_with_its_pixel_size(tmp_path: Path) -> None:
    images = RNG.normal(size=(5, 6, 9)).astype(np.float32)
    write_tiff(tmp_path / "a.tif", iter([images[:2], images[2:]]), images.shape, 0.885)
    stack = open_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(stack.read(np.arange(5)), images)
    assert stack.pixel_size_angstrom == pytest.approx(0.885, rel=1e-4)


def test_tiff_that_is_damaged_or_coloured(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RNG.integers(0, 9, (4, 5, 3), dtype=np.uint8), photometric="rgb")
    with pytest.raises(FormatError, match="grey images"):
        open_tiff(path)
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((4, 4), np.uint8))
        writer.write(np.zeros((4, 5), np.uint8))
    with pytest.raises(FormatError, match="page 2 of"):
        open_tiff(path)
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8))
    content = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        width = tiff.pages[0].tags["ImageWidth"].valueoffset
    path.write_bytes(content[:width] + struct.pack("<I", 2**31 - 1) + content[width + 4 :])
    with pytest.raises(FormatError, match="promises 137,438,953,408 bytes"):
        open_tiff(path)
    path.write_bytes(content[:200])
    with pytest.raises(FormatError):
        open_tiff(path).read(np.array([0]))
    with pytest.raises(InputError, match="No such file"):
        open_tiff(tmp_path / "none.tif")


def test_spider_files(test_data: Path) -> None:
    folder = test_data / "formats/spider"
    stack = open_spider(folder / "smallStack.stk")
    assert stack.shape == (4, 64, 64)
    images = stack.read(np.arange(4))
    raw = np.fromfile(folder / "smallStack.stk", "<f4")
    # each image lies behind the file's header and a header of its own
    np.testing.assert_array_equal(images[2].ravel(), raw[256 + 2 * (256 + 4096) + 256 :][:4096])
    assert open_spider(folder / "sum.spi").shape == (1, 64, 64)
    assert open_spider(folder / "test2_wrap_true.spi").shape == (1, 128, 128)
    volume = read_spider_volume(folder / "big_endian_volume_81.hbl", 2.0)
    assert volume.data.shape == (81, 81, 81) and np.abs(volume.data).max() < 1e4
    with pytest.raises(MetadataError, match="--pixel-size"):
        read_spider_volume(folder / "big_endian_volume_81.hbl")
    with pytest.raises(FormatError, match="promises 4 x 4 x 64 x 64 values, 267,264 bytes, but has 2,048"):
        open_spider(folder / "smallVolumeStackCorrupted.stk")
    with pytest.raises(FormatError, match="several maps"):
        read_spider_volume(folder / "smallVolumeStack.stk", 1.0)
    with pytest.raises(FormatError, match="maps of 4 sections"):
        open_spider(folder / "smallVolumeStack.stk")
    with pytest.raises(FormatError, match="holds images"):
        read_spider_volume(folder / "sum.spi", 1.0)


def test_format_by_content(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "formats"
    for name, expected in {
        "relion/relion31.mrcs": "mrcs",
        "relion/pointmass.mrc": "mrc",
        "spider/smallStack.stk": "spider",
        "spider/big_endian_volume_81.hbl": "spider-volume",
        "relion/relion5.star": "star",
        "../peers/blob_cistem_auto_refine.star": "cistem",
        "cryosparc/empiar_10076_7.cs": "cs",
    }.items():
        assert format_of(folder / name).name == expected
    (tmp_path / "a.xyz").write_text("nothing")
    with pytest.raises(FormatError, match=r"no known format; known extensions are .*\.mrcs"):
        format_of(tmp_path / "a.xyz")
    with pytest.raises(FormatError, match=r"cannot be written as \.xyz; choose \.cistem, \.cs, \.par"):
        output_format(tmp_path / "a.xyz", "particles")


def test_mask_that_does_not_fit(test_data: Path) -> None:
    folder = test_data / "maps"
    with pytest.raises(MetadataError, match=r"has 100 x 91 x 91 voxels .* the map 100 x 100 x 100"):
        read_mask(folder / "emd_3488_mask.mrc", read_volume(folder / "emd_3488.mrc"))


def test_masks(tmp_path: Path) -> None:
    path = tmp_path / "mask.mrc"
    like = Volume(data=np.zeros((4, 5, 6), np.float32), pixel_size_angstrom=2.0)

    def mask(data: np.ndarray, pixel: float = 2.0) -> Volume:
        write_volume(path, Volume(data=data.astype(np.float32), pixel_size_angstrom=pixel))
        return read_mask(path, like)

    soft = RNG.random((4, 5, 6))
    np.testing.assert_allclose(mask(soft).data, soft, atol=1e-7)
    # what interpolation leaves beyond 0 and 1 is cut off
    assert mask(soft * 1.0005).data.max() <= 1
    with pytest.raises(MetadataError, match=r"run from 0\.\d+ to 1\.9\d*, expected 0 to 1"):
        mask(soft * 2 * 0.99 / soft.max())
    with pytest.raises(MetadataError, match="is empty"):
        mask(soft * 0)
    with pytest.raises(MetadataError, match="has 3 Å per voxel, the map 2"):
        mask(soft, 3.0)
    mask(soft)
    content = bytearray(path.read_bytes())
    struct.pack_into("<3f", content, 40, 0, 0, 0)
    path.write_bytes(content)
    assert read_mask(path, like).pixel_size_angstrom == 2.0


def test_gain(tmp_path: Path, stack: Callable[..., np.ndarray]) -> None:
    gain = RNG.random((6, 7)).astype(np.float32) + 0.5
    gain[0, :2] = 0
    tifffile.imwrite(tmp_path / "a.gain", gain)
    notes: list[str] = []
    np.testing.assert_array_equal(read_gain(tmp_path / "a.gain", notes), gain)
    assert notes == ["a.gain: 2 of 42 pixels have gain 0 (dead pixels)"]
    for bad, message in ((-gain, "negative or not finite"), (gain * 0, "zero everywhere")):
        tifffile.imwrite(tmp_path / "a.gain", bad)
        with pytest.raises(FormatError, match=message):
            read_gain(tmp_path / "a.gain")
    stack("many.mrcs")
    with pytest.raises(FormatError, match="holds 5 images, a gain reference is one"):
        read_gain(tmp_path / "many.mrcs")


def test_convert_images(tmp_path: Path, stack: Callable[..., np.ndarray]) -> None:
    images = stack("a.mrcs", pixel=1.25)
    for first, second in (("a.mrcs", "b.tif"), ("b.tif", "c.st"), ("c.st", "d.mrcs")):
        assert convert(tmp_path / first, tmp_path / second) == []
        found = open_images(tmp_path / second)
        np.testing.assert_array_equal(found.read(np.arange(5)), images)
        assert found.pixel_size_angstrom == pytest.approx(1.25, rel=1e-4)
    notes = convert(tmp_path / "a.mrcs", tmp_path / "m.map", pixel_size_angstrom=2.0)
    assert "the stack in a.mrcs was written as volume" in notes[0]
    np.testing.assert_array_equal(read_volume(tmp_path / "m.map").data, images)
    assert read_volume(tmp_path / "m.map").pixel_size_angstrom == 2.0
    convert(tmp_path / "m.map", tmp_path / "s.mrcs")
    np.testing.assert_array_equal(open_stack(tmp_path / "s.mrcs").read(np.arange(5)), images)


def test_convert_refuses(tmp_path: Path, stack: Callable[..., np.ndarray]) -> None:
    stack("a.mrcs")
    tifffile.imwrite(tmp_path / "bare.tif", np.ones((4, 4), np.float32))
    with pytest.raises(MetadataError, match="--pixel-size"):
        convert(tmp_path / "bare.tif", tmp_path / "b.mrcs")
    with pytest.raises(FormatError, match=r"cannot be written as \.png"):
        convert(tmp_path / "a.mrcs", tmp_path / "a.png")
    with pytest.raises(ParameterError, match="unknown format 'jpeg'; known are: mrcs, mrc"):
        convert(tmp_path / "a.mrcs", tmp_path / "b.mrcs", to_format="jpeg")
    with pytest.raises(ParameterError, match="spider is only read"):
        convert(tmp_path / "a.mrcs", tmp_path / "b.spi", to_format="spider")
    with pytest.raises(ParameterError, match="format star holds particles, the input is stack"):
        convert(tmp_path / "a.mrcs", tmp_path / "b.star", to_format="star")
    with pytest.raises(MetadataError, match="pixel size is 500 "):
        convert(tmp_path / "a.mrcs", tmp_path / "b.mrcs", pixel_size_angstrom=500)


def test_convert_tables(test_data: Path, tmp_path: Path) -> None:
    source = test_data / "formats/cryosparc/empiar_10076_7.cs"
    convert(source, tmp_path / "a.star")
    assert set(read_star(tmp_path / "a.star")) == {"optics", "particles"}
    convert(tmp_path / "a.star", tmp_path / "old.star", to_format="star30")
    assert set(read_star(tmp_path / "old.star")) == {""}
    particles = read_particles(tmp_path / "old.star")
    assert particles.views.image_path == (source.with_suffix(".mrc"),)


def test_conversion_to_a_full_disk(tmp_path: Path, stack: Callable[..., np.ndarray]) -> None:
    stack("a.mrcs", count=20, box=32)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        for name in ("b.tif", "b.mrcs", "b.map"):
            with pytest.raises(OutputError, match=f"cannot write .*{name}"):
                convert(tmp_path / "a.mrcs", tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mrcs"]
