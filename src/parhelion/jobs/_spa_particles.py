"""The first half of ``spa``: from movies or micrographs to extracted particles, step by step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parhelion.algorithms import first_run
from parhelion.errors import InputError, MetadataError
from parhelion.io.coordinates import read_coordinates
from parhelion.io.relion_micrographs import read_micrographs
from parhelion.jobs import load
from parhelion.jobs._spa_estimate import first_table, knows_dose
from parhelion.jobs._spa_input import Start
from parhelion.model.micrographs import Micrographs
from parhelion.run.steps import run_step

if TYPE_CHECKING:
    from parhelion.jobs.spa import Params
    from parhelion.registry import Result
    from parhelion.run.context import Context

GIVEN = "given"
NEAREST = 0.3
"""Diameters between particles: closer ones are the same one, picked twice."""
FEWEST = 4
"""Two half sets of fewer particles cannot be compared."""
MICROSCOPE = ("pixel_size", "voltage", "cs", "amplitude_contrast")


@dataclass
class Prepared:
    """Where the particles are, what was decided on the way (what, value, how), and key figures."""

    particles: Path
    decisions: list[tuple[object, object, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    again: Callable[[Path], Path] | None = None
    """Cuts the particles of a table out once more, at their refined centres."""


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def prepare(context: "Context", params: "Params", start: Start) -> Prepared:
    """Run motion, ctf, select, pick and extract, as far as the input needs them."""
    way = _Way(context, params)
    table = params.input
    if start == "movies":
        table = (way.motion(),)
    table = way.ctf(table, fresh=start == "movies")
    table = way.select(table)
    positions, merit = way.pick(table)
    return way.extract(table, positions, merit)


class _Way:
    """The steps in their order; each adds its decisions."""

    def __init__(self, context: "Context", params: "Params") -> None:
        self.context, self.params = context, params
        self.failed: list[str] = []
        self.found = Prepared(particles=Path())
        if params.diameter is None:
            raise MetadataError("--diameter is needed to find particles in micrographs")
        self.diameter = params.diameter

    def _decide(self, what: str, value: object, how: str) -> None:
        self.found.decisions.append((what, value, how))
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        self.context.log(f"decided: {what} {shown} ({how})")

    def _run(self, job: str, title: str, values: dict[str, Any]) -> "Result":
        done = run_step(self.context, load(job), title, values)
        if done.figures.get("failed"):
            self.failed.append(f"{done.figures['failed']} ({title})")
            self.found.figures["failed"] = "; ".join(self.failed)
        return done

    def motion(self) -> Path:
        """Align the movies; their sums are the micrographs."""
        params = self.params
        movies = first_table(params)
        choice = first_run.movie_binning(movies.optics[0].pixel_size_angstrom, params.final_pixel_size)
        self._decide("Movies", len(movies), "of the input")
        self._decide("Binning of movies", choice.value, choice.why)
        weighted = knows_dose(params, movies)
        how = "the dose of each frame is known" if weighted else "the dose of each frame is not known"
        self._decide("Frames weighted by damage", "yes" if weighted else "no", how)
        values = {"input": params.input, "binning": choice.value, "exposure_filter": weighted} | given(
            pixel_size=params.pixel_size,
            voltage=params.voltage,
            gain=params.gain,
            gain_rotation=params.gain_rotation,
            gain_flip=params.gain_flip,
            dose_per_frame=params.dose_per_frame,
        )
        done = self._run("motion", "Motion", values)
        self.found.figures["movies"] = len(movies)
        return Path(str(done.outputs["micrographs"]))

    def ctf(self, table: tuple[Path, ...], *, fresh: bool) -> tuple[Path, ...]:
        """Fit the CTF, unless the table has one for every micrograph."""
        params = self.params
        if not fresh:
            known = read_micrographs(table, pixel_size_angstrom=params.pixel_size, movies=False, needs=())
            if known.ctf is not None and np.isfinite(known.ctf.defocus_u_angstrom).all():
                self._decide("CTF of micrographs", len(known), "of the input's table")
                return table
        values = {"input": table} | given(cs=params.cs, amplitude_contrast=params.amplitude_contrast)
        if not fresh:
            values |= given(pixel_size=params.pixel_size)
        # a table of motion may lack what only the user knows
        values |= given(voltage=params.voltage)
        done = self._run("ctf", "CTF", values)
        return (Path(str(done.outputs["micrographs"])),)

    def _micrographs(self, table: tuple[Path, ...]) -> Micrographs:
        params = self.params
        # a table that a step wrote has what was given; it must not be given again
        own = table == params.input
        return read_micrographs(
            table, pixel_size_angstrom=params.pixel_size if own else None, movies=False, needs=("pixel_size",)
        )

    def select(self, table: tuple[Path, ...]) -> tuple[Path, ...]:
        """Leave out micrographs whose fit is far worse than the others'."""
        micrographs = self._micrographs(table)
        fits = micrographs.ctf.max_resolution_angstrom if micrographs.ctf is not None else np.array([])
        known = np.isfinite(fits) & (fits > 0)
        if self.params.fit_resolution is not None:
            cut = first_run.Choice(self.params.fit_resolution, GIVEN)
        else:
            cut = first_run.fit_resolution_cut(fits, self.params.final_pixel_size)
        bad = int(np.count_nonzero(fits[known] > cut.value))
        self._decide("Coarsest fit of the CTF (Å)", cut.value, cut.why)
        self._decide("Micrographs kept", len(micrographs) - bad, f"of {len(micrographs)}, by their fit")
        self.found.figures["micrographs"] = len(micrographs) - bad
        if not bad:
            return table
        # micrographs without a stated fit resolution stay
        where = f"not (rlnCtfMaxResolution > {cut.value:g})"
        done = self._run("select", "Micrographs kept", {"input": table[0], "where": where})
        return (Path(str(done.outputs["micrographs"])),)

    def pick(self, table: tuple[Path, ...]) -> tuple[Any, float | None]:
        """Coordinates of particles and the lowest figure of merit that is believed."""
        params = self.params
        if params.coordinates is not None:
            self._decide("Coordinates", params.coordinates[0].name, GIVEN)
            return params.coordinates, params.min_merit
        farthest, low, high = first_run.pick_radii(self.diameter)
        self._decide("Radii of discs looked for (Å)", f"{low:.0f} to {high:.0f}", "from the diameter")
        values = {
            "input": table,
            "maximum_radius": round(farthest, 1),
            "radius_range": (round(low, 1), round(high, 1)),
            "threshold": min(first_run.LOWEST_MERIT, params.min_merit or first_run.LOWEST_MERIT),
            "contrast": params.contrast,
        }
        done = self._run("pick", "Picking", values | self._microscope(table))
        coordinates = Path(str(done.outputs["coordinates"]))
        found = read_coordinates([coordinates])
        merits = found.figure_of_merit if found.figure_of_merit is not None else np.array([])
        cut = first_run.Choice(params.min_merit, GIVEN) if params.min_merit else first_run.merit_cut(merits)
        self._decide("Lowest merit of a pick (σ of the noise)", cut.value, cut.why)
        count = int(np.count_nonzero(merits >= cut.value))
        self._decide("Picks", count, f"of {len(found)} found")
        if count < FEWEST:
            raise InputError(
                f"only {count} particles were found in {done.figures['micrographs']} micrographs, too few "
                f"for a map: nothing but ice or carbon, or a wrong --diameter ({self.diameter:g} Å), "
                f"--pixel-size or --contrast; {coordinates.parent / 'overlays'} shows the micrographs"
            )
        return coordinates, cut.value

    def extract(self, table: tuple[Path, ...], positions: Any, merit: float | None) -> Prepared:
        """Cut the particles at the scale of the first run."""
        params = self.params
        micrographs = self._micrographs(table)
        pixel = micrographs.optics[0].pixel_size_angstrom
        final = first_run.final_pixel(self.diameter, pixel, params.final_pixel_size)
        fit = micrographs.ctf
        defocus = float(np.nanmedian(fit.defocus_u_angstrom)) if fit is not None else 0.0
        voltage = params.voltage or micrographs.optics[0].voltage_kv
        extent = first_run.box_extent(self.diameter, final.value, defocus, voltage)
        chosen = first_run.boxes(extent, pixel, final.value)
        self._decide("Final pixel size (Å)", chosen.pixel_size_angstrom, final.why)
        self._decide("Edge of the boxes (Å)", chosen.box * pixel, chosen.why)
        self._decide("Edge of the images (pixels)", chosen.final_box, "even, of fast transforms")
        values = {
            "input": positions,
            "micrographs": table,
            "box": chosen.box,
            "rescale": chosen.final_box,
            "contrast": params.contrast,
            "background_radius": round(min(0.5 * self.diameter * 1.1, 0.45 * chosen.box * pixel), 1),
        } | given(min_merit=merit)
        microscope = self._microscope(table)
        done = self._run("extract", "Particles", values | microscope)
        again = {name: value for name, value in values.items() if name != "min_merit"}
        again |= {
            "contrast": done.figures["contrast"],
            "centres": "refined",
            "min_distance": round(NEAREST * self.diameter, 1),
        }

        def once_more(selected: Path) -> Path:
            cut = self._run("extract", "Centred particles", again | microscope | {"input": selected})
            return Path(str(cut.outputs["particles"]))

        self.found.again = once_more
        self.found.particles = Path(str(done.outputs["particles"]))
        self.found.figures["picked_particles"] = done.figures["particles"]
        self.found.figures["pixel_size_angstrom"] = chosen.pixel_size_angstrom
        return self.found

    def _microscope(self, table: tuple[Path, ...]) -> dict[str, Any]:
        """What the user said of the microscope, for steps that read the user's own table."""
        if table != self.params.input:
            return {}
        return given(**{name: getattr(self.params, name) for name in MICROSCOPE})
