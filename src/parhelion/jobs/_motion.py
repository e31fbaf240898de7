"""The work of ``motion`` on one movie: read, correct, align, sum, write."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parhelion.errors import InputError
from parhelion.jobs._motion_input import LOOKED_AT, open_source, read_movies
from parhelion.jobs._references import References

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.motion.align import MotionSettings, MovieMotion
    from parhelion.algorithms.motion.exposure import Exposure
    from parhelion.algorithms.motion.frames import CorrectedFrames
    from parhelion.algorithms.motion.sums import MovieSums, SumSettings
    from parhelion.io.movie_file import MovieFile
    from parhelion.jobs.motion import Params
    from parhelion.run.context import Context

EARLY_DOSE = 4.0
"""Electrons per Å² after which motion counts as late, as RELION counts it."""
SCREEN_PX = 1024
TURNS = {"0": 0, "90": 1, "180": 2, "270": 3}
FLIPS = {"none": 0, "y": 1, "x": 2}


class MovieWork:
    """Callable with the number of a movie; gives its row. References are read once."""

    def __init__(self, context: "Context", params: "Params") -> None:
        from parhelion.io.relion_micrographs import stems
        from parhelion.run.memory import keep_freed_memory

        keep_freed_memory()
        self.context, self.params = context, params
        self.movies = read_movies(context, params)
        self.names = self.movies.name
        self.stems = stems(self.names)
        self.references = References(
            dark=params.dark,
            defects=params.defects,
            rotation=TURNS[params.gain_rotation],
            flip=FLIPS[params.gain_flip],
        )
        self._turned: set[Path] = set()
        self._checked()

    def __call__(self, i: int) -> dict[str, Any]:
        """Align and sum movie ``i``, write its files, and say what was found."""
        from parhelion.algorithms.motion.align import align_movie
        from parhelion.algorithms.motion.kept import KeptFrames
        from parhelion.algorithms.motion.sums import sum_movie

        context, params = self.context, self.params
        movie = open_source(self.movies.path[i], params)
        wanted = self._sum_settings()
        wanted.frames(movie.count, ())
        frames, pixel = self._corrected(i, movie)
        exposure = self._exposure(i, pixel)
        kept = KeptFrames(frames, keep=not params.low_memory)
        motion = align_movie(
            kept,
            pixel,
            self._settings(),
            exposure=exposure,
            dead=frames.dead_frames,
            executor=context.executor,
            cancel=context,
        )
        sums = sum_movie(
            kept,
            motion,
            wanted,
            pixel,
            exposure=exposure,
            executor=context.executor,
            cancel=context,
        )
        files = self._write(i, movie, frames, motion, sums, pixel)
        return self._row(i, frames, motion, sums, pixel, exposure, files)

    def _gain(self, i: int) -> Path | None:
        if self.params.gain_corrected:
            return None
        if self.params.gain is not None:
            return self.params.gain
        return self.movies.gain[i] if self.movies.gain is not None else None

    def _checked(self) -> None:
        """Raise what is wrong with the references that the options name, before the first movie.

        Of the first movies one must fit; any other is told when its turn comes.
        """
        params, problem = self.params, None
        if params.gain is None and params.dark is None and params.defects is None:
            return
        for path in self.movies.path[:LOOKED_AT]:
            try:
                movie = open_source(path, params)
            except InputError:
                continue
            try:
                self._read_references(movie, params.gain)
                return
            except InputError as error:
                problem = problem or error
        if problem is not None:
            raise problem

    def _read_references(
        self, movie: "MovieFile", gain: Path | None
    ) -> "tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]":
        notes: list[str] = []
        found = self.references.read(movie, gain, notes)
        for note in notes:
            self.context.notice(note)
        return found

    def _corrected(self, i: int, movie: "MovieFile") -> "tuple[CorrectedFrames, float]":
        """The corrected frames of movie ``i`` and their pixel size in Å."""
        from parhelion.algorithms.motion.frames import CorrectedFrames, binning_to
        from parhelion.io.eer import EerMovie

        params = self.params
        pixel = float(self.movies.optics_of(i).pixel_size_angstrom)
        if isinstance(movie, EerMovie):
            pixel /= int(params.eer_upsampling)
        binning = params.binning
        if params.output_pixel_size is not None:
            binning = binning_to(pixel, params.output_pixel_size, params.magnification)
        gain, dark, defects = self._read_references(movie, self._gain(i))
        frames = CorrectedFrames(
            movie,
            gain=gain,
            dark=dark,
            defects=defects,
            magnification=params.magnification,
            binning=binning,
            seed=self.context.seed,
            workers=self.context.threads,
            keep=not params.low_memory,
        )
        scale = 1.0 if params.magnification is None else 0.5 * sum(params.magnification[1:])
        by, bx = frames.binning_yx
        return frames, pixel * math.sqrt(by * bx) / scale

    def _dose(self, i: int) -> float | None:
        if self.params.dose_per_frame is not None:
            return self.params.dose_per_frame
        doses = self.movies.dose_per_frame
        known = doses is not None and math.isfinite(doses[i]) and doses[i] > 0
        return float(doses[i]) if doses is not None and known else None

    def _pre_exposure(self, i: int) -> float:
        if self.params.pre_exposure is not None:
            return self.params.pre_exposure
        before = self.movies.pre_exposure
        return float(before[i]) if before is not None and math.isfinite(before[i]) else 0.0

    def _exposure(self, i: int, pixel_size_angstrom: float) -> "Exposure | None":
        """What damage is known of; without a dose or a voltage frames count as equally good."""
        from parhelion.algorithms.motion.exposure import Exposure

        dose, voltage = self._dose(i), float(self.movies.optics_of(i).voltage_kv)
        if dose is None or not math.isfinite(voltage):
            return None
        return Exposure(
            dose_per_frame=dose,
            pre_exposure=self._pre_exposure(i),
            voltage_kv=voltage,
            pixel_size_angstrom=pixel_size_angstrom,
        )

    def _settings(self) -> "MotionSettings":
        from parhelion.algorithms.motion.align import MotionSettings

        params = self.params
        return MotionSettings(
            min_shift_angstrom=params.min_shift,
            max_shift_angstrom=params.max_shift,
            threshold_angstrom=params.termination_threshold,
            max_iterations=params.max_iterations,
            bfactor_angstrom2=params.b_factor,
            resolution_angstrom=params.alignment_resolution,
            mask_vertical=params.vertical_mask if params.mask_cross else 0,
            mask_horizontal=params.horizontal_mask if params.mask_cross else 0,
            smooth=params.smooth,
            local=params.local,
            patches=params.patches,
        )

    def _sum_settings(self) -> "SumSettings":
        from parhelion.algorithms.motion.sums import SumSettings

        params = self.params
        return SumSettings(
            first=params.first_frame,
            last=params.last_frame,
            exposure_filter=params.exposure_filter,
            restore_power=params.restore_power,
            unweighted=params.unweighted,
            halves=params.even_odd,
            spectrum_dose=params.spectrum_dose,
        )

    def _write(
        self,
        i: int,
        movie: "MovieFile",
        frames: "CorrectedFrames",
        motion: "MovieMotion",
        sums: "MovieSums",
        pixel: float,
    ) -> dict[str, str]:
        """Write the images and the motion of movie ``i``; paths in the output folder by kind."""
        import numpy as np

        from parhelion.fourier.crop import binned_shape, fourier_bin
        from parhelion.io.eer import EerMovie
        from parhelion.io.mrc_writer import StackWriter
        from parhelion.io.relion_motion import MotionMetadata, write_motion

        images = {
            "sum": (sums.total, pixel),
            "unweighted": (sums.unweighted, pixel),
            "even": (sums.even, pixel),
            "odd": (sums.odd, pixel),
            "spectrum": (sums.spectrum, sums.spectrum_pixel_angstrom),
        }
        if self.params.scaled_sum:
            factor = max(max(sums.total.shape) / SCREEN_PX, 1.0)
            small = fourier_bin(sums.total, binned_shape(sums.total.shape, factor), 1)
            images["scaled"] = (small, pixel * sums.total.shape[1] / small.shape[1])
        files = {}
        for name, (image, size) in images.items():
            if image is None:
                continue
            path = self.context.path(name, self.stems[i])
            with StackWriter(path, 1, image.shape, size) as writer:
                writer.write(0, image[None])
            files[name] = str(path.relative_to(self.context.folder))
        factor_xy = frames.binning_yx[::-1]
        gain = self._gain(i)
        path = self.context.path("shifts", self.stems[i])
        write_motion(
            path,
            MotionMetadata(
                movie=self.names[i],
                shape=movie.shape,
                count=movie.count,
                shift_px=motion.shift_px * factor_xy,
                local_px=motion.local.scaled(np.array(factor_xy)).coefficients if motion.local else None,
                gain=None if gain is None else self._gain_as_it_lies(gain),
                eer_upsampling=int(self.params.eer_upsampling) if isinstance(movie, EerMovie) else None,
                eer_grouping=movie.grouping if isinstance(movie, EerMovie) else None,
                binning=math.sqrt(factor_xy[0] * factor_xy[1]),
                pixel_size_angstrom=pixel / math.sqrt(factor_xy[0] * factor_xy[1]),
                dose_per_frame=self._dose(i),
                pre_exposure=self._pre_exposure(i),
                voltage_kv=float(self.movies.optics_of(i).voltage_kv),
            ),
        )
        files["shifts"] = str(path.relative_to(self.context.folder))
        return files

    def _gain_as_it_lies(self, gain: Path) -> str:
        """The place of the reference that needs no turning: RELION's table has no words for that."""
        if not (self.references.rotation or self.references.flip):
            return gain.as_posix()
        path = self.context.path("gain", gain.stem)
        if gain not in self._turned:
            from parhelion.io.gain import read_gain
            from parhelion.io.mrc_writer import StackWriter

            turned = read_gain(gain, rotation=self.references.rotation, flip=self.references.flip)
            with StackWriter(path, 1, turned.shape, 1.0) as writer:
                writer.write(0, turned[None])
            self._turned.add(gain)
        return path.as_posix()

    def _row(
        self,
        i: int,
        frames: "CorrectedFrames",
        motion: "MovieMotion",
        sums: "MovieSums",
        pixel: float,
        exposure: "Exposure | None",
        files: dict[str, str],
    ) -> dict[str, Any]:
        import numpy as np

        for finding in (*frames.findings, *motion.findings):
            self.context.notice(f"{self.names[i]}: {finding}")
        known = motion.error_px[np.isfinite(motion.error_px)]
        fit = motion.local_fit
        return {
            "files": files,
            "pixel_size_angstrom": pixel,
            "shift_angstrom": (motion.shift_px * pixel).round(4).tolist(),
            "motion_angstrom": path_lengths(motion.shift_px * pixel, exposure),
            "error_angstrom": float(np.sqrt((known**2).mean()) * pixel) if len(known) else None,
            "local": None if motion.local is None else motion.local.scaled(pixel).coefficients.tolist(),
            "local_angstrom": None if fit is None or motion.local is None else fit.largest_px * pixel,
            "dead_frames": [int(d) + 1 for d in motion.dead],
            "summed_frames": sums.frames,
            "mean": float(sums.total.mean(dtype=np.float64)),
        }


def path_lengths(shift_angstrom: "np.ndarray", exposure: "Exposure | None") -> list[float]:
    """Length of the track in all, while early (to 4 e⁻/Å²) and later, as RELION states it."""
    import numpy as np

    steps = np.hypot(*np.diff(shift_angstrom, axis=0).T) if len(shift_angstrom) > 1 else np.zeros(0)
    if exposure is None:
        early = len(steps)
    else:
        # between frames that both end before that dose
        early = max(int((EARLY_DOSE - exposure.pre_exposure) / exposure.dose_per_frame) - 1, 0)
    return [float(part.sum()) for part in (steps, steps[:early], steps[early:])]
