"""What ``pick`` does with each micrograph: read it, find particles, draw them."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parhelion.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.picking.matched import PickingCtf
    from parhelion.algorithms.picking.search import Picks, PickSettings
    from parhelion.algorithms.picking.templates import Templates
    from parhelion.model.micrographs import Micrographs
    from parhelion.run.context import Context

POLARITY_MICROGRAPHS = 3
PICTURE_PX = 1024
MASK_RADII = 1.25
"""Radius of the circle in which templates are compared, in maximum radii: without ice around it, a particle
that fills its circle has nothing to stand out from."""


def read_image(path: Path) -> "np.ndarray":
    """The one image ``(y, x)`` float32 of a micrograph. Raises InputError for a file with several."""
    import numpy as np

    from parhelion.io.formats import open_images

    stack = open_images(path)
    if len(stack) != 1:
        raise InputError(
            f"{path} holds {len(stack)} frames or images, a micrograph holds one; correct the motion of "
            "movies first (parhelion motion)"
        )
    return stack.read(np.array([0]))[0]


def ctf_of(micrographs: "Micrographs", row: int) -> "PickingCtf | None":
    """The fitted CTF of one micrograph; None where the table has none or it is not finite."""
    import numpy as np

    from parhelion.algorithms.picking.matched import PickingCtf

    if micrographs.ctf is None:
        return None
    optics, fit = micrographs.optics_of(row), micrographs.ctf
    found = PickingCtf(
        defocus_u_angstrom=float(fit.defocus_u_angstrom[row]),
        defocus_v_angstrom=float(fit.defocus_v_angstrom[row]),
        defocus_angle_deg=float(fit.defocus_angle_deg[row]),
        phase_shift_deg=float(fit.phase_shift_deg[row]),
        voltage_kv=optics.voltage_kv,
        spherical_aberration_mm=optics.spherical_aberration_mm,
        amplitude_contrast=optics.amplitude_contrast,
    )
    return found if np.isfinite(list(vars(found).values())).all() else None


def mask_files(names: Sequence[str], masks: Sequence[Path]) -> "list[Path | None]":
    """The mask of each micrograph: the only one there is, or that whose name begins with the micrograph's
    (the longest, where several do). Raises InputError where no mask belongs to any micrograph."""
    if len(masks) == 1:
        return [masks[0]] * len(names)
    by_stem = {path.stem: path for path in masks}
    found: list[Path | None] = []
    for name in names:
        stem = Path(name).stem
        fitting = [s for s in by_stem if s == stem or s.startswith((stem + "_", stem + ".", stem + "-"))]
        found.append(by_stem[min(fitting, key=len)] if fitting else None)
    if not any(found):
        raise InputError(
            "no mask belongs to a micrograph: masks are named like their micrograph "
            f"({Path(names[0]).stem}), with or without an ending; the first mask is {masks[0].name}"
        )
    return found


def read_probability(path: "Path | None") -> "np.ndarray | None":
    """A map of contaminants ``(v, u)``. Raises InputError for values that are no probabilities."""
    import numpy as np

    if path is None:
        return None
    values = read_image(path)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if not (np.isfinite(values).all() and low >= -0.01 and high <= 1.01):
        raise InputError(f"mask {path} has values from {low:g} to {high:g}, expected 0 (ice) to 1 (to avoid)")
    return values


def is_white(context: "Context", micrographs: "Micrographs", settings: "PickSettings") -> bool:
    """Whether protein is white, from what can be found in either contrast in a few micrographs."""
    import numpy as np

    from parhelion.algorithms.picking.search import polarity_evidence
    from parhelion.errors import ParhelionError

    count = len(micrographs)
    rows = np.unique(np.linspace(0, count - 1, min(POLARITY_MICROGRAPHS, count)).round().astype(int))
    white = black = 0.0
    for row in rows:
        context.check()
        try:
            image = read_image(micrographs.path[row])
            pixel = micrographs.optics_of(row).pixel_size_angstrom
            found = polarity_evidence(image, pixel, ctf_of(micrographs, row), settings)
        except (ParhelionError, OSError) as error:
            context.log(f"contrast of {micrographs.name[row]} was not looked at: {error}")
            continue
        white, black = white + found[0], black + found[1]
    if white == black == 0:
        context.notice(
            "no particle shows whether protein is white or black; black was taken, as detectors show it"
        )
    elif white > black:
        context.notice("protein looks white in these micrographs; --contrast black overrules this")
    return white > black


def picked_row(
    found: "Picks", image: "np.ndarray", pixel: float, settings: "PickSettings", picture: Path | None
) -> dict[str, Any]:
    """The row of a micrograph, and its picture where one is wanted."""
    if picture is not None:
        draw(picture, image, found, pixel, settings)
    row: dict[str, Any] = {
        "x": found.xy_px[:, 0].round(3).tolist(),
        "y": found.xy_px[:, 1].round(3).tolist(),
        "merit": found.score.round(4).tolist(),
        "refused": found.refused,
        "boxes": found.background_xy_px.round(2).tolist(),
        "box_px": found.background_box_px,
        "variance": found.background_variance.round(6).tolist(),
        "power": found.noise_power.round(6).tolist(),
        "pixel": found.pixel_angstrom,
        "area": float(image.shape[0] * image.shape[1] * pixel**2),
    }
    for name in ("radius_angstrom", "template", "psi_deg"):
        values = getattr(found, name)
        if values is not None:
            row[name] = values.tolist()
    return row


def draw(path: Path, image: "np.ndarray", found: "Picks", pixel: float, settings: "PickSettings") -> None:
    """Write the picture of one micrograph; the first row is at the bottom, as the field's viewers show it."""
    from parhelion.algorithms.picking.overlay import overlay

    radius = (
        settings.characteristic_radius_angstrom if found.radius_angstrom is None else found.radius_angstrom
    )
    picture = overlay(
        image,
        found.xy_px,
        radius / pixel,
        largest=PICTURE_PX,
        boxes_xy_px=found.background_xy_px,
        box_px=found.background_box_px,
        smooth_px=settings.highest_resolution_angstrom / (8 * pixel),
    )
    write_picture(path, picture)


def write_picture(path: Path, picture: "np.ndarray") -> None:
    """Colours ``(v, u, 3)`` as PNG, whole or not at all."""
    from matplotlib.image import imsave

    from parhelion.io.atomic import atomic_path

    with atomic_path(path) as partial:
        imsave(partial, picture[::-1])


class TemplateMaker:
    """Templates from ``--reference`` or ``--templates``, made once for each pixel size of picking."""

    def __init__(self, params: Any, settings: "PickSettings") -> None:
        self.params = params
        self.settings = settings
        self._lock = threading.Lock()
        self._made: dict[float, Templates] = {}

    def at(self, micrograph_pixel_angstrom: float) -> "Templates":
        """White templates for micrographs of this pixel size."""
        pixel = max(0.5 * self.settings.highest_resolution_angstrom, micrograph_pixel_angstrom)
        with self._lock:
            if pixel not in self._made:
                self._made[pixel] = self._make(pixel)
            return self._made[pixel]

    def _make(self, pixel_angstrom: float) -> "Templates":
        import numpy as np

        from parhelion.algorithms.picking.templates import templates_from_classes, templates_from_map
        from parhelion.errors import MetadataError
        from parhelion.io import mrc
        from parhelion.io.formats import open_images
        from parhelion.model.volume import Volume

        params, radius = self.params, MASK_RADII * self.settings.maximum_radius_angstrom
        sign = np.float32(-1.0 if params.template_contrast == "black" else 1.0)
        if params.reference is not None:
            volume = mrc.read_volume(params.reference, params.template_pixel_size)
            return templates_from_map(
                Volume(data=sign * volume.data, pixel_size_angstrom=volume.pixel_size_angstrom),
                radius_angstrom=radius,
                pixel_angstrom=pixel_angstrom,
                symmetry=params.symmetry,
                step_deg=params.angular_step,
                rotations=params.rotations,
                radial_average=params.radial_average,
            )
        stack = open_images(params.templates)
        size = params.template_pixel_size or stack.pixel_size_angstrom
        if size is None:
            raise MetadataError(
                f"{params.templates} does not say its pixel size; give it with --template-pixel-size"
            )
        return templates_from_classes(
            sign * stack.read(np.arange(len(stack))),
            size,
            radius_angstrom=radius,
            pixel_angstrom=pixel_angstrom,
            rotations=params.rotations,
            radial_average=params.radial_average,
        )
