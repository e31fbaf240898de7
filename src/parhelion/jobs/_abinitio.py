"""What ``abinitio`` writes and shows."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from parhelion.algorithms.ab_initio import AbInitioResult, Start
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

AGREE = 0.5
"""Mean FSC from which on two starts count as the same map."""
SEEN = ("z (from the top)", "y", "x", "along z", "along y", "along x")


class RoundKeeper:
    """Writes the maps of some rounds while the search runs, and keeps their pictures for the report."""

    def __init__(self, context: "Context", rounds: tuple[int, ...], classes: int) -> None:
        self.context = context
        self.rounds = rounds
        self.classes = classes
        self.paths: list[Path] = []
        self.pictures: dict[int, list[tuple[str, list[np.ndarray]]]] = {}

    def __call__(self, start: int, number: int, volumes: "tuple[Volume, ...]") -> None:
        """Hears of every round."""
        from parhelion.io import mrc

        if number not in self.rounds:
            return
        for k, volume in enumerate(volumes, 1):
            mrc.write_volume(self._path(start, number, k), volume)
            self._keep(start, number, k, volume)

    def written_before(self, start: int) -> None:
        """Hears of a start that an earlier run finished; its maps are taken from their files."""
        from parhelion.io import mrc

        for number in self.rounds:
            for k in range(1, self.classes + 1):
                path = self._path(start, number, k)
                if path.is_file():
                    self._keep(start, number, k, mrc.read_volume(path))

    def _path(self, start: int, number: int, k: int) -> "Path":
        suffix = f"_class_{k:03d}" if self.classes > 1 else ""
        return self.context.path("rounds", f"{start:03d}_round_{number:03d}{suffix}")

    def _keep(self, start: int, number: int, k: int, volume: "Volume") -> None:
        from parhelion.report.images import axis_projections, central_slices

        self.paths.append(self._path(start, number, k))
        label = f"Round {number}, class {k}" if self.classes > 1 else f"Round {number}"
        views = [*central_slices(volume), *axis_projections(volume)]
        self.pictures.setdefault(start, []).append((label, [view.copy() for view in views]))


def write_maps(context: "Context", found: "AbInitioResult") -> "dict[str, Path | list[Path]]":
    """Maps of all classes and of all starts."""
    from parhelion.io import mrc

    several = len(found.volumes) > 1
    maps, starts = [], []
    for k, volume in enumerate(found.volumes, 1):
        maps.append(context.path("maps", f"{k:03d}"))
        mrc.write_volume(maps[-1], volume)
    for i, start in enumerate(found.starts, 1):
        for k, volume in enumerate(start.volumes, 1):
            name = f"{i:03d}_class_{k:03d}" if several else f"{i:03d}"
            starts.append(context.path("starts", name))
            mrc.write_volume(starts[-1], volume)
    return {"maps": maps, "starts": starts}


def best_rival(found: "AbInitioResult") -> int | None:
    """Number of the start with the next best evidence; None where there was one start only."""
    others = [i for i in range(len(found.starts)) if i != found.chosen]
    return max(others, key=lambda i: found.starts[i].evidence) if others else None


def best_agreement(found: "AbInitioResult") -> float | None:
    """The mean FSC of the chosen start with the start that is most like it."""
    others = [start.agreement for i, start in enumerate(found.starts) if i != found.chosen]
    return max(others) if others else None


def doubts(found: "AbInitioResult") -> list[str]:
    """Why the map may be wrong, in sentences for the user; none where nothing speaks against it."""
    said = []
    rival, agreement = best_rival(found), best_agreement(found)
    if rival is None or agreement is None:
        said.append("a single start cannot be checked against others; --starts 3 makes more")
    elif agreement < AGREE:
        chosen, other = found.starts[found.chosen].evidence, found.starts[rival].evidence
        said.append(
            f"the initial map is doubtful: no other start led to it (mean FSC at most {agreement:.2f}; its "
            f"evidence is {chosen:.3f}, the next best {other:.3f} per particle); look at the map, or use "
            "more --starts or --rounds"
        )
    return said


def figures_of(found: "AbInitioResult") -> dict[str, float | int | str | None]:
    """The key figures; evidence is in nats per particle that the start has not seen."""
    rival = best_rival(found)
    figures: dict[str, float | int | str | None] = {
        "chosen_start": found.chosen + 1,
        "evidence": found.starts[found.chosen].evidence,
        "evidence_of_the_next": None if rival is None else found.starts[rival].evidence,
        "agreement": best_agreement(found),
        "symmetry_correlation": found.symmetry_correlation,
        "resolution_limit_angstrom": found.resolution_limit_angstrom,
    }
    if len(found.shares) > 1:
        figures |= {f"class_{k}_share": share for k, share in enumerate(found.shares, 1)}
    return figures


def show(context: "Context", found: "AbInitioResult", rounds: RoundKeeper) -> None:
    """The chosen maps, all starts side by side, and how they came about."""
    report = context.report
    for k, (volume, share) in enumerate(zip(found.volumes, found.shares), 1):
        which = f", class {k}: {100 * share:.0f} % of the particles" if len(found.volumes) > 1 else ""
        title = f"Initial map ({found.symmetry}){which}, to {found.resolution_limit_angstrom:.1f} Å"
        report.surface(volume, title)
        report.slices(volume, "Central slices")
        report.projections(volume, "Projections")
    if found.particles is not None and found.particles.rotation is not None:
        report.angular_distribution(found.particles.rotation)
    _show_starts(context, found)
    _show_rounds(context, rounds)


def _show_starts(context: "Context", found: "AbInitioResult") -> None:
    from parhelion.report.images import axis_projections

    starts = context.report.section("All starts")
    starts.text(
        "Evidence is what a particle that the start has not seen gains from its maps over pure noise, in "
        "nats; agreement is the mean Fourier shell correlation with the chosen start."
    )
    starts.table(
        [
            (i + 1, start.evidence, start.agreement, "chosen" if i == found.chosen else "")
            for i, start in enumerate(found.starts)
        ],
        heads=("start", "evidence", "agreement", ""),
    )
    for i, start in enumerate(found.starts):
        mark = ", chosen" if i == found.chosen else ""
        title = f"Start {i + 1}{mark}: evidence {start.evidence:.3f}, agreement {start.agreement:.2f}"
        pictures = [view for volume in start.volumes for view in axis_projections(volume)]
        starts.gallery(pictures, _captions(start), title)


def _captions(start: "Start") -> list[str]:
    views = ("along z", "along y", "along x")
    if len(start.volumes) == 1:
        return list(views)
    return [f"class {k + 1}, {view}" for k in range(len(start.volumes)) for view in views]


def _show_rounds(context: "Context", rounds: RoundKeeper) -> None:
    """What is left of the images round by round, maps on the way, and everything that was noted."""
    import numpy as np

    report, rows = context.report, context.history.get("rounds", [])
    numbers = sorted({int(row["start"]) for row in rows})
    curves = {}
    for number in numbers:
        mine = [row for row in rows if row["start"] == number]
        curves[f"start {number}"] = (
            np.array([float(row["round"]) for row in mine]),
            np.array([float(row["sigma"]) for row in mine]),
        )
    if curves:
        report.curve(
            curves, x_label="round", y_label="sigma (of the noise)", title="What is left of the images"
        )
    for number, pictures in rounds.pictures.items():
        section = report.section(f"Start {number}, round by round", folded=True)
        for label, views in pictures:
            section.gallery(views, SEEN, f"{label}: central slices and projections")
    report.history(rows, "Rounds")
