"""Two-dimensional classes in ``spa``: particles of good classes, brought to the centres of their boxes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parhelion.algorithms import first_run
from parhelion.algorithms.recentring import moved_images, returned, whole_pixels
from parhelion.io.particles import read_particles, write_particles
from parhelion.jobs import load
from parhelion.run.steps import run_step

if TYPE_CHECKING:
    from parhelion.jobs._particles import Contrast
    from parhelion.jobs.spa import Params, Start
    from parhelion.model.particles import ParticleSet
    from parhelion.registry import Result
    from parhelion.run.context import Context

AT_ONCE = 256


@dataclass
class Classified:
    """``table`` is what the maps are made of; ``kept`` and ``dropped`` are the particles by 2D class.

    ``restore`` writes the table of a later step for the images of the input.
    """

    table: Path
    decisions: list[tuple[object, object, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    recentred: bool = False
    step: "Result | None" = None
    kept: "ParticleSet | None" = None
    moved: np.ndarray | None = None

    def restore(self, refined: Path, to: Path) -> None:
        """The particles of ``refined`` with the images and shifts of the input's stack."""
        if self.kept is None or self.moved is None:
            raise ValueError("nothing was re-centred in the stack")
        write_particles(to, returned(read_particles(refined), self.kept, self.moved))


def values_of(table: Path, diameter: float, contrast: "Contrast", count: int) -> dict[str, Any]:
    """Options of class2d in a first run of ``count`` particles."""
    return {
        "input": table,
        "diameter": diameter,
        "contrast": contrast,
        "classes": first_run.classes_2d(count),
        "cycles": first_run.CYCLES_2D,
    }


def classify_first(context: "Context", params: "Params", start: "Start") -> Classified:
    """The particles that maps are made of: those of good classes, centred, or all."""
    everything = Classified(table=start.table)
    if not params.class2d:
        return everything
    if params.diameter is None or start.count < first_run.FEWEST_FOR_CLASSES:
        why = (
            "needs --diameter"
            if params.diameter is None
            else f"{start.count} particles are too few, {first_run.FEWEST_FOR_CLASSES} are needed"
        )
        everything.decisions.append(("2D classes", "none", why))
        return everything
    values = values_of(start.table, params.diameter, start.contrast, start.count)
    if start.table == params.input[0]:
        values |= {} if params.pixel_size is None else {"pixel_size": params.pixel_size}
    return classified(context, values, start.again)


def particle_outputs(
    context: "Context", classes: Classified, refined: "Result"
) -> dict[str, Path | list[Path]]:
    """The table of particles for the images of the input, and what was made on the way."""
    from parhelion.jobs._steps import place

    outputs: dict[str, Path | list[Path]] = {}
    if classes.moved is None:
        outputs["particles"] = place(context, "particles", refined)
    else:
        classes.restore(Path(str(refined.outputs["particles"])), context.path("particles"))
        outputs["particles"] = context.path("particles")
        for name in ("recentred", "recentred_stack"):
            outputs[name] = context.path(name)
    if classes.step is not None:
        outputs["classes"] = place(context, "classes", classes.step)
    return outputs


def classified(
    context: "Context",
    values: dict[str, Any],
    again: Callable[[Path], Path] | None,
) -> Classified:
    """Run class2d, keep the particles of good classes, and centre them.

    ``again`` cuts particles of a table out of their micrographs at their new centres; without it the images
    of the stack are moved by whole pixels.
    """
    table, contrast = Path(values["input"]), values["contrast"]
    step = run_step(context, load("class2d"), "2D classes", values)
    done = Classified(table=table, step=step)
    particles, kept = int(str(step.figures["particles"])), int(str(step.figures["selected_particles"]))
    done.figures = {"particles_before_selection": particles}
    done.decisions = [
        ("2D classes", step.figures["classes"], "about 50 particles in each, 10 to 50"),
        (
            "Good classes",
            step.figures["good_classes"],
            f"a score of {float(str(step.figures['score_threshold'])):.2f} or more",
        ),
    ]
    if "selected" not in step.outputs or kept < first_run.FEWEST_KEPT * particles:
        context.notice(
            f"the 2D classes of {particles} particles show too little detail to choose by ({kept} particles "
            "in good classes): all particles are used; look at the classes"
        )
        done.decisions.append(("Particles kept", particles, "all, the classes show too little detail"))
        return done
    done.figures["kept_particles"] = kept
    done.decisions.append(("Particles kept", kept, f"of {particles}, those of good classes"))
    selected = Path(str(step.outputs["selected"]))
    done.kept = read_particles(selected)
    shift = np.hypot(*_shifts(done.kept).T)
    done.figures["median_recentring_angstrom"] = float(np.median(shift))
    if again is not None:
        done.table = again(selected)
        how = "cut again at the centres that the classes show"
    else:
        done.table = _moved(context, done, contrast)
        how = "images moved by whole pixels to the centres that the classes show"
    done.recentred = True
    done.decisions.append(("Median distance from the centre before (Å)", float(np.median(shift)), how))
    return done


def _shifts(particles: "ParticleSet") -> np.ndarray:
    shift = particles.shift_xyz_angstrom
    return np.zeros((len(particles), 2)) if shift is None else shift[:, :2]


def _moved(context: "Context", done: Classified, contrast: "Contrast") -> Path:
    """Write the kept particles' images, re-centred, and their table; the table's path."""
    from parhelion.io.mrc import StackWriter
    from parhelion.io.source import StackSource

    if done.kept is None:
        raise ValueError("nothing was kept")
    kept, stack = done.kept, context.path("recentred_stack")
    done.moved = whole_pixels(kept)
    source = StackSource(kept)  # as they are: what is white stays white, black stays black
    count = len(kept)
    stack.parent.mkdir(exist_ok=True)
    with StackWriter(stack, count, (source.box, source.box), kept.optics[0].pixel_size_angstrom) as writer:
        for first in range(0, count, AT_ONCE):
            context.check()
            rows = np.arange(first, min(first + AT_ONCE, count))
            writer.write(first, moved_images(source.images(rows), done.moved[rows]).astype(np.float32))
    views = replace(
        kept.views, image_path=(stack,), path_id=np.zeros(count, np.int64), image_index=np.arange(count)
    )
    extra = kept.extra.without("rlnImageName")
    centred = replace(kept, views=views, extra=extra, rotation=None, shift_xyz_angstrom=None)
    write_particles(context.path("recentred"), centred)
    return context.path("recentred")
