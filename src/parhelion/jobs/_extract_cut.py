"""The pixels of ``extract``: one micrograph after the other becomes a stack of particle images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from parhelion.algorithms.extraction import ExtractSettings, cut_boxes, particle_images, place_boxes
from parhelion.contracts import Observer
from parhelion.errors import FormatError, InputError, MetadataError, ParhelionError
from parhelion.fourier.resample import fourier_resize_images
from parhelion.images.normalise import contrast_sign
from parhelion.images.saturation import saturation
from parhelion.io.formats import open_images
from parhelion.io.mrc import StackWriter
from parhelion.io.relion_micrographs import stems
from parhelion.jobs._extract_positions import Positions
from parhelion.model.micrographs import Micrographs

AT_ONCE = 64
"""Boxes that are worked on at a time."""
SAMPLE_MICROGRAPHS, SAMPLE_BOXES = 8, 60
SAMPLE_EDGE = 64
"""Edge that boxes are cropped to before their contrast is looked at."""
SURE = 3.0
"""Standard errors from which on the contrast counts as known."""
FLOAT16_LARGEST = 60_000.0


def stack_files(names: Sequence[str]) -> list[str]:
    """Where the stack of each micrograph goes, below the output folder."""
    return [f"particles/{stem}.mrcs" for stem in stems(names)]


def read_micrograph(path: Path) -> np.ndarray:
    """The pixels ``(y, x)`` float32 of a micrograph. Raises FormatError for movies."""
    stack = open_images(path)
    if len(stack) != 1:
        raise FormatError(f"{path} holds {len(stack)} frames; sum them first with parhelion motion")
    return stack.read(np.array([0]))[0]


def extract_micrograph(
    micrographs: Micrographs,
    positions: Positions,
    number: int,
    target: Path,
    name: str,
    settings: ExtractSettings,
    *,
    seed: int,
    float16: bool,
    ctf_needed: bool,
) -> dict[str, Any]:
    """Write the particles of one micrograph to ``target`` (none: no file); returns what became of them.

    ``kept`` counts within the micrograph's positions. Raises InputError where the micrograph cannot be read
    or its defocus is needed and unknown.
    """
    if ctf_needed and micrographs.ctf is not None:
        fit = micrographs.ctf
        values = (fit.defocus_u_angstrom, fit.defocus_v_angstrom, fit.defocus_angle_deg, fit.phase_shift_deg)
        if not all(np.isfinite(one[number]) for one in values):
            raise MetadataError(
                f"{micrographs.name[number]} has no finite defocus; the fit of its CTF failed"
            )
    image = read_micrograph(micrographs.path[number])
    placed = place_boxes(image, positions.xy_px[positions.of(number)], settings.box, settings.edge)
    row = {
        "file": name,
        "kept": placed.kept.tolist(),
        "positions": int(np.count_nonzero(positions.micrograph == number)),
        "outside": placed.outside,
        "at_edge": placed.at_edge,
        "broken": placed.broken,
        "dust": 0,
        "saturation": saturation(image),
        "shape": list(image.shape),
    }
    if not len(placed.kept):
        return row
    pixel = micrographs.optics_of(number).pixel_size_angstrom * settings.box / settings.final_box
    edges = (settings.final_box, settings.final_box)
    dtype = np.float16 if float16 else np.float32
    # every micrograph has random numbers of its own, whatever order they are taken in
    generator = np.random.default_rng([seed, number])
    with StackWriter(target, len(placed.kept), edges, pixel, dtype) as writer:
        for start in range(0, len(placed.kept), AT_ONCE):
            boxes = cut_boxes(image, placed.centres[start : start + AT_ONCE], settings.box)
            images, dust = particle_images(boxes, settings, generator)
            row["dust"] += dust
            if float16 and np.abs(images).max() > FLOAT16_LARGEST:
                raise InputError(
                    f"values up to {np.abs(images).max():.3g} do not fit 16 bits; normalise the images or "
                    "store them as float32 (--no-float16)"
                )
            writer.write(start, images)
    return row


def contrast_of(
    micrographs: Micrographs, positions: Positions, box: int, observer: Observer
) -> Literal["white", "black"]:
    """How protein looks in the micrographs, from boxes of a few of them.

    Says what was found. Where it does not show, protein is taken for black, as detectors have it.
    """
    used = np.unique(positions.micrograph)
    chosen = used[np.unique(np.linspace(0, len(used) - 1, SAMPLE_MICROGRAPHS).astype(int))]
    samples = []
    for number in chosen.tolist():
        try:
            image = read_micrograph(micrographs.path[number])
        except ParhelionError:
            # it is named when its turn comes
            continue
        placed = place_boxes(image, positions.xy_px[positions.of(number)], box, "skip")
        boxes = cut_boxes(image, placed.centres[:SAMPLE_BOXES], box)
        if len(boxes):
            edge = min(SAMPLE_EDGE, box)
            samples.append(boxes if edge == box else fourier_resize_images(boxes, edge))
    images = np.concatenate(samples) if samples else np.zeros((0, 2, 2))
    if len(images) < 2:
        observer.notice("too few boxes show whether protein is white or black; black is assumed")
        return "black"
    guess = contrast_sign(images)
    colour: Literal["white", "black"] = "white" if guess.white else "black"
    if abs(guess.z_score) < SURE:
        observer.notice(
            "the micrographs do not show clearly whether protein is white or black "
            f"(z = {guess.z_score:.1f}); black is assumed, --contrast says otherwise"
        )
        return "black"
    observer.notice(f"protein is {colour} in the micrographs (z = {guess.z_score:.1f})")
    return colour
