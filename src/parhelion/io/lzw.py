"""Decoding of LZW, the compression that most movies of counted electrons have.

TIFF 6.0, section 13: codes of 9 to 12 bits, the most significant bit first; 256 empties the table, 257 ends
the data, and codes become longer one entry before the table needs it. A frame of 4 million pixels is about a
million strings of some five pixels. What costs is the fetching of strings, hence the table holds the first
eight bytes of each: nearly all strings are one load and one store.
"""

from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
from numba.extending import intrinsic

LZW = 5
"""The number of this compression in TIFF files."""
CLEAR, END, FIRST = 256, 257, 258
TABLE = 4096
SLACK = 8
"""Bytes behind data and image that may be touched, since both are moved in words of eight bytes."""


def _load_code(typing: Any, array: Any, index: Any) -> Any:
    """The eight bytes of a uint8 array from ``index`` on as a little-endian number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return nb.uint64(array, nb.intp), generate


def _store_code(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a number to eight bytes of a uint8 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], place, align=1)
        return context.get_dummy_value()

    return nb.void(array, nb.intp, nb.uint64), generate


def _reversed_code(typing: Any, value: Any) -> Any:
    """The bytes of a number in opposite order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bswap(arguments[0])

    return nb.uint64(nb.uint64), generate


_load: Any = intrinsic(_load_code)
_store: Any = intrinsic(_store_code)
_reversed: Any = intrinsic(_reversed_code)


@nb.njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)
def _decode(data, size, out, start, stop, head, where, length):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Decode ``size`` bytes to ``out[start:stop]``; how many bytes came, −1 for damaged data."""
    for byte in range(256):
        head[byte] = byte
        length[byte] = 1
    width, entries, mask = np.uint64(9), FIRST, np.uint64(511)
    grows = 511
    bit, bits = np.uint64(0), np.uint64(8 * size)
    at, fresh = start, True
    before: Any = 0
    while at < stop and bit + width <= bits:
        word = _reversed(_load(data, np.intp(bit >> np.uint64(3))))
        code = np.intp((word >> (np.uint64(64) - (bit & np.uint64(7)) - width)) & mask)
        bit += width
        if code == CLEAR:
            width, entries, mask, grows, fresh = np.uint64(9), FIRST, np.uint64(511), 511, True
            continue
        if code == END:
            break
        if fresh:
            if code > 255:
                return -1
            fresh = False
        else:
            if code > entries or entries >= TABLE or code == END:
                return -1
            # the string before, and the first byte of this one, which is the same where it is not known yet
            first = head[before if code == entries else code] & np.uint64(255)
            old = length[before]
            head[entries] = head[before] | (first << np.uint64(8 * old)) if old < 8 else head[before]
            where[entries] = at - old
            length[entries] = old + 1
            entries += 1
            if entries == grows and width < 12:
                width += np.uint64(1)
                mask = (np.uint64(1) << width) - np.uint64(1)
                grows = 2 * grows + 1
        count = length[code]
        _store(out, at, head[code])
        if count > 8:
            source = where[code]
            if at + count > stop:
                count = stop - at
            for step in range(8, count, 8):
                _store(out, at + step, _load(out, source + step))
        at += count
        before = code
    return min(at, stop) - start


def decode_page(path: Path, page: Any, little_endian: bool) -> np.ndarray | None:
    """The pixels ``(y, x)`` of a page of ``tifffile`` as stored.

    None where this is not for us or the data are not as expected (other compressions, differences instead of
    values, tiles, the old kind of LZW that begins with the least significant bit, damage): the library then
    decodes or says what is wrong. Raises OSError where the file cannot be read.
    """
    plain = page.compression == LZW and page.predictor == 1 and page.fillorder == 1 and not page.is_tiled
    whole = page.dtype in (np.uint8, np.uint16) and page.bitspersample == 8 * page.dtype.itemsize
    if not plain or not whole or len(page.shape) != 2 or (page.dtype == np.uint16 and not little_endian):
        return None
    rows, columns = page.shape
    per_strip = min(int(page.rowsperstrip), rows)
    counts = page.databytecounts
    if per_strip < 1 or len(counts) != -(-rows // per_strip) or sum(counts) > page.nbytes * 2 + SLACK:
        return None
    line = columns * page.dtype.itemsize
    out = np.empty(rows * line + 2 * SLACK, np.uint8)
    head, where = np.zeros(TABLE, np.uint64), np.zeros(TABLE, np.int64)
    length = np.zeros(TABLE, np.int64)
    with path.open("rb") as stream:
        for first, offset, count in zip(range(0, rows, per_strip), page.dataoffsets, counts):
            stream.seek(offset)
            part = np.frombuffer(stream.read(count) + bytes(SLACK), np.uint8)
            if len(part) != count + SLACK:
                return None
            start, stop = first * line, min(first + per_strip, rows) * line
            if _decode(part, count, out, start, stop, head, where, length) != stop - start:
                return None
    return out[: rows * line].view(page.dtype).reshape(rows, columns)
