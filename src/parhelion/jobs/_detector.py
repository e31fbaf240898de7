"""Options of jobs that read movies: what the detector did to the frames."""

from typing import Any

from parhelion.registry import option


def gain_option(group: str) -> Any:
    """``gain``, the reference that frames are multiplied by."""
    return option(
        None,
        help="gain reference, which is multiplied (MRC, TIFF or .gain)",
        default_text="from the table, if it names one",
        group=group,
    )


def gain_rotation_option(group: str) -> Any:
    """``gain_rotation``, as the text of an angle."""
    return option(
        "0", help="turn gain, dark and defect images clockwise (first row on top), in degrees", group=group
    )


def gain_flip_option(group: str) -> Any:
    """``gain_flip``, after the rotation."""
    return option("none", help="then mirror them: upside down (y) or left to right (x)", group=group)


def gain_corrected_option(group: str) -> Any:
    """``gain_corrected``, a switch."""
    return option(False, help="the movies are corrected already: use no gain reference", group=group)


def dark_option(group: str) -> Any:
    """``dark``, the reference that is subtracted."""
    return option(None, help="dark reference, which is subtracted", default_text="none", group=group)


def defects_option(group: str) -> Any:
    """``defects``, beside the bad pixels that are found."""
    return option(
        None,
        help="list of defects: an image, rectangles x y w h, or SerialEM's defects file",
        default_text="none; hot and dead pixels are found anyway",
        group=group,
    )


def magnification_option(group: str) -> Any:
    """``magnification``, three numbers."""
    return option(
        None,
        help="correct a magnification distortion: angle in degrees, major and minor scale",
        unit="degrees, 1, 1",
        default_text="none",
        group=group,
    )
