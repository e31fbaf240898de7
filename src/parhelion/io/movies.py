"""Movies of direct detectors: MRC, TIFF and EER, one frame at a time.

MRC files begin with the bottom row of the image, TIFF files with the top row: TIFF pages are turned upside
down on reading, as RELION and IMOD do, so that an exposure is the same array, and the molecule has the same
hand, from either file. EER frames come as stored, as in RELION. A gain reference must lie as its movie does
(see ``io.gain``).
"""

from pathlib import Path

from parhelion.errors import FormatError, InputError, ParameterError
from parhelion.io.eer import EerMovie, is_eer
from parhelion.io.movie_file import MovieFile, MrcMovie, TiffMovie

TIFF_STAMPS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MRC_SUFFIXES = (".mrc", ".mrcs", ".st", ".map", ".ali", ".preali")
EXPECTED = "movies are MRC (.mrc, .mrcs), TIFF (.tif, .tiff) or EER (.eer) files"
CONVERSIONS = {
    ".dm4": "convert it with IMOD's dm2mrc or EMAN2's e2proc2d.py",
    ".dm3": "convert it with IMOD's dm2mrc or EMAN2's e2proc2d.py",
    ".hdf": "convert it with EMAN2's e2proc2d.py",
    ".bz2": "unpack it with bunzip2",
    ".gz": "unpack it with gunzip",
    ".zst": "unpack it with zstd -d",
}


def open_movie(path: Path | str, *, eer_upsampling: int = 1, eer_grouping: int | None = None) -> MovieFile:
    """The frames of a movie (``contracts.FrameSource``), by the file's content, else by its extension.

    ``eer_upsampling`` (1, 2 or 4) places the electrons of an EER movie on a grid that many times finer than
    the detector's pixels; ``eer_grouping`` raw frames are summed to one frame, by default as many as give
    about 40. Both only concern EER movies. Raises InputError where the file cannot be opened, FormatError
    where it is damaged or of another format.
    """
    path = Path(path)
    if eer_upsampling not in (1, 2, 4):
        raise ParameterError(f"EER up-sampling is {eer_upsampling}, expected 1, 2 or 4")
    if eer_grouping is not None and eer_grouping < 1:
        raise ParameterError(f"EER grouping is {eer_grouping}, expected at least 1 raw frame")
    try:
        with path.open("rb") as stream:
            head = stream.read(1024)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    suffix = path.suffix.lower()
    if head[:4] in TIFF_STAMPS:
        return EerMovie(path, eer_upsampling, eer_grouping) if is_eer(path) else TiffMovie(path)
    if head[208:211] == b"MAP" or suffix in MRC_SUFFIXES:
        return MrcMovie(path)
    if not head:
        raise FormatError(f"{path} is empty; copy it again")
    if suffix in (".tif", ".tiff", ".eer"):
        raise FormatError(f"{path} does not begin as a TIFF file does: it is damaged; copy it again")
    advice = CONVERSIONS.get(suffix)
    raise FormatError(
        f"{path} is no movie that parhelion reads: {EXPECTED}" + (f"; {advice}" if advice else "")
    )
