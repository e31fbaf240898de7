"""What reconstruct and merge3d share: the options on maps and statistics, and writing and showing maps."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from parhelion.jobs import _engine_options as engine
from parhelion.jobs._inputs import MapFile
from parhelion.registry import JobParams, Output, option

if TYPE_CHECKING:
    from parhelion.algorithms.reconstruct_solve import ReconstructResult, SolveSettings
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

MAPS = "Maps and their mask"

OUTPUTS = (
    Output(name="map", file="map.mrc", help="map of all particles, filtered", optional=True),
    Output(name="half1", file="half1.mrc", help="map of the first half set, unfiltered", optional=True),
    Output(name="half2", file="half2.mrc", help="map of the second half set, unfiltered", optional=True),
    Output(name="mask", file="mask.mrc", help="the mask of the stated resolution", optional=True),
    Output(name="fsc", file="fsc.star", help="half-map correlation per shell", optional=True),
    Output(
        name="statistics",
        file="statistics.txt",
        help="the same in cisTEM's columns, with SSNR",
        optional=True,
    ),
    Output(
        name="class_maps",
        file="map_*.mrc",
        help="with --classes: map of each class, by its number",
        optional=True,
    ),
    Output(name="class_half1", file="half1_*.mrc", help="its first half map", optional=True),
    Output(name="class_half2", file="half2_*.mrc", help="its second half map", optional=True),
    Output(name="class_masks", file="mask_*.mrc", help="the mask of its resolution", optional=True),
    Output(name="class_fsc", file="fsc_*.star", help="its half-map correlation", optional=True),
    Output(name="class_statistics", file="statistics_*.txt", help="its statistics", optional=True),
)
OF_CLASS = {
    "map": "class_maps",
    "half1": "class_half1",
    "half2": "class_half2",
    "mask": "class_masks",
    "fsc": "class_fsc",
    "statistics": "class_statistics",
}


class MapParams(JobParams):
    """Options on the maps that sums are turned into."""

    mask: MapFile | None = option(
        None,
        help="mask (0 to 1) in the frame of the particles, for the FSC",
        default_text="made automatically",
        group=MAPS,
    )
    auto_mask: bool = engine.auto_mask_option(MAPS)
    outer_radius: float | None = option(
        None,
        help="use a sphere of this radius as mask, of the FSC and of the map",
        unit="Å",
        gt=0,
        le=5000,
        default_text="no sphere",
        group=MAPS,
    )
    inner_radius: float = engine.inner_radius_option(MAPS)
    mass: float | None = option(
        None,
        help="molecular mass, from which the statistics find the particle's share of the mask",
        unit="kDa",
        gt=0,
        le=1e6,
        default_text="the particle fills the mask",
        group=MAPS,
    )
    smooth: bool = option(False, help="smooth the FSC of the statistics (Savitzky-Golay)", group=MAPS)
    centre: bool = option(
        False, help="move the centre of mass to the middle of the box, as the symmetry allows", group=MAPS
    )

    def check_masks(self) -> None:
        """ValueError for options that contradict each other."""
        given = self.model_fields_set
        masks = [f"--{n.replace('_', '-')}" for n in ("mask", "auto_mask", "outer_radius") if n in given]
        if self.mask is not None and "auto_mask" in given and self.auto_mask:
            raise ValueError("--mask gives the mask, --auto-mask makes one; choose")
        if self.outer_radius is not None and len(masks) > 1:
            raise ValueError(f"{' and '.join(masks)} each say what the mask is; choose")
        if self.inner_radius and self.outer_radius is None:
            raise ValueError("--inner-radius needs --outer-radius, the other side of the shell")


def solve_settings(params: MapParams, seed: int) -> "SolveSettings":
    """The options as the algorithm takes them."""
    from parhelion.algorithms.reconstruct_solve import SolveSettings

    return SolveSettings(
        automatic_mask=params.auto_mask,
        outer_radius_angstrom=params.outer_radius,
        inner_radius_angstrom=params.inner_radius,
        centre=params.centre,
        seed=seed,
    )


def mask_of(params: MapParams, box: int, pixel: float, name: Path) -> "Volume | None":
    """The mask that was given, in the frame of the particles of the file ``name``."""
    import numpy as np

    from parhelion.jobs._maps import read_mask
    from parhelion.model.volume import Volume

    if params.mask is None:
        return None
    frame = Volume(data=np.broadcast_to(np.float32(0), (box,) * 3), pixel_size_angstrom=pixel)
    return read_mask(params.mask, frame, name)


Figures = dict[str, float | int | str | None]
Outputs = dict[str, Path | list[Path]]


def finish(
    context: "Context", params: MapParams, found: "list[ReconstructResult]"
) -> tuple[Figures, Outputs]:
    """Write and show the maps of all classes; figures of the only one, or of each by its number."""
    outputs: Outputs = {}
    figures: Figures = {}
    for one in found:
        written = _write(context, params, one)
        title = "" if one.number is None else f" of class {one.number}"
        _show(context, one, title)
        start = "" if one.number is None else f"class_{one.number}_"
        for name, value in _figures(one).items():
            figures[start + name] = value
        for name, path in written.items():
            if one.number is None:
                outputs[name] = path
            else:
                listed = outputs.setdefault(OF_CLASS[name], [])
                if isinstance(listed, list):
                    listed.append(path)
    return figures, outputs


def _write(context: "Context", params: MapParams, found: "ReconstructResult") -> dict[str, Path]:
    from parhelion.io import mrc
    from parhelion.jobs._fsc import curves_by_kind, share_or_notice, write_cistem_statistics, write_fsc

    def path(name: str) -> Path:
        if found.number is None:
            return context.path(name)
        return context.path(OF_CLASS[name], f"{found.number:03d}")

    volumes = {"map": found.map}
    if found.half_maps is not None and found.mask is not None:
        volumes |= {"half1": found.half_maps[0], "half2": found.half_maps[1], "mask": found.mask}
    for name, volume in volumes.items():
        mrc.write_volume(path(name), volume)
    written = {name: path(name) for name in volumes}
    if found.curves is not None:
        write_fsc(path("fsc"), curves_by_kind(found.curves), found.map.box, found.map.pixel_size_angstrom)
        share = share_or_notice(context, params.mass, found.map, found.mask)
        curve = found.curves.corrected
        write_cistem_statistics(path("statistics"), curve, found.map, share, smooth=params.smooth)
        written |= {name: path(name) for name in ("fsc", "statistics")}
    return written


def _show(context: "Context", found: "ReconstructResult", title: str) -> None:
    from parhelion.jobs._fsc import curves_by_kind

    report = context.report
    if found.curves is not None:
        box, pixel = found.map.box, found.map.pixel_size_angstrom
        report.fsc(curves_by_kind(found.curves), box, pixel, f"Half maps{title}")
    report.surface(found.map, f"Map{title}")
    report.slices(found.map, f"Central slices{title}")
    report.projections(found.map, f"Projections{title}")
    if found.mask is not None:
        report.slices(found.mask, f"Mask{title}")


def _figures(found: "ReconstructResult") -> dict[str, Any]:
    import numpy as np

    figures: dict[str, Any] = {"particles_in_map": found.weight}
    if found.curves is not None:
        figures |= {
            "resolution_angstrom": found.curves.resolution_angstrom,
            "unmasked_resolution_angstrom": found.curves.unmasked_resolution_angstrom,
        }
    if found.shift_xyz_angstrom.any():
        figures["moved_angstrom"] = float(np.linalg.norm(found.shift_xyz_angstrom))
    return figures
