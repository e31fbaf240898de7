"""EER files built from the published format (Guo et al. 2020, IUCrJ 7, 860-869), with no code of the package
and none of the decoder's library."""

import struct
from pathlib import Path

import numpy as np

XML = b'<metadata><item name="sensorPixelSize.width" unit="m">%s</item></metadata>'


def encode(places: np.ndarray, shape: tuple[int, int], skip_bits: int, place_bits: int = 4) -> bytes:
    """One raw frame of electrons at ``places`` (n, 2): pixel number in row order, code of the sub-pixel.

    Codes are packed from the lowest bit on. A skip of the greatest number means that many pixels without an
    electron, and no sub-pixel follows; behind the last electron the rest of the frame is skipped.
    """
    stream = places_done = bits = 0
    greatest = 2**skip_bits - 1

    def put(value: int, width: int) -> None:
        nonlocal stream, bits
        stream |= value << bits
        bits += width

    for pixel, place in sorted((int(a), int(b)) for a, b in places):
        gap = pixel - places_done
        while gap >= greatest:
            put(greatest, skip_bits)
            gap -= greatest
        put(gap, skip_bits)
        put(place, place_bits)
        places_done = pixel + 1
    gap = shape[0] * shape[1] - places_done
    while gap >= greatest:
        put(greatest, skip_bits)
        gap -= greatest
    put(gap, skip_bits)
    return stream.to_bytes(-(-bits // 8), "little") + b"\0\0"


def position(pixel: int, place: int, width: int, finer: int) -> tuple[int, int]:
    """Row and column of an electron on a grid ``finer`` (1, 2, 4) times finer, as RELION's renderer has it:
    the code's lower pair of bits is x, the upper y, and the higher bit of each pair is inverted."""
    place ^= 0b1010
    x, y = place & 3, place >> 2
    shift = {1: 2, 2: 1, 4: 0}[finer]
    return (pixel // width) * finer + (y >> shift), (pixel % width) * finer + (x >> shift)


def write_eer(
    path: Path,
    frames: list[bytes],
    shape: tuple[int, int],
    compression: int = 65001,
    *,
    with_sum: bool = False,
    pixel_metres: str | None = None,
    bits: tuple[int, int, int] | None = None,
) -> None:
    """A BigTIFF whose pages hold these codes; ``with_sum`` puts the exposure's sum before them."""
    out = bytearray(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
    link = 8
    pages = [(compression, frame) for frame in frames]
    if with_sum:
        pages.insert(0, (1, bytes(shape[0] * shape[1])))
    for number, (coding, content) in enumerate(pages):
        place = len(out)
        out += content
        tags = [(256, 4, shape[1]), (257, 4, shape[0]), (258, 3, 8 if coding == 1 else 1), (259, 3, coding)]
        tags += [(262, 3, 1), (273, 16, place), (277, 3, 1), (278, 4, shape[0]), (279, 16, len(content))]
        if pixel_metres and number == 0:
            text = XML % pixel_metres.encode()
            tags.append((65001, 7, (len(out), len(text))))
            out += text
        if bits and coding == 65002:
            tags += [(65007 + i, 3, value) for i, value in enumerate(bits)]
        struct.pack_into("<Q", out, link, len(out))
        out += struct.pack("<Q", len(tags))
        for tag, kind, value in tags:
            count, first = (value[1], value[0]) if isinstance(value, tuple) else (1, value)
            out += struct.pack("<HHQQ", tag, kind, count, first)
        link = len(out)
        out += struct.pack("<Q", 0)
    path.write_bytes(out)


def random_places(rng: np.random.Generator, shape: tuple[int, int], count: int) -> np.ndarray:
    """``count`` electrons in different pixels."""
    pixels = rng.choice(shape[0] * shape[1], count, replace=False)
    return np.stack([pixels, rng.integers(0, 16, count)], axis=1)
