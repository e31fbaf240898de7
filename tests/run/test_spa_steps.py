"""The way from movies or micrographs to particles: which steps run, with which options, decided how.

The steps themselves are replaced by files as they would leave them; their options are checked as ever.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from parhelion.errors import InputError, ParameterError
from parhelion.io.mrc import StackWriter, write_volume
from parhelion.io.relion_micrographs import read_micrographs
from parhelion.jobs import _spa_particles, spa
from parhelion.jobs._spa_input import kind_of
from parhelion.model.volume import Volume
from parhelion.registry import Result, validate

OPTICS = (
    "data_optics\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnMicrographOriginalPixelSize\n"
    "_rlnMicrographPixelSize\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
)
ROW = "\ng 1 0.5 {pixel} 300 2.7 0.1\n"


def image(path: Path, count: int) -> Path:
    with StackWriter(path, count, (64, 64), 0.5) as writer:
        writer.write(0, np.random.default_rng(1).normal(size=(count, 64, 64)).astype(np.float32))
    return path


def movies(folder: Path, dose: str = "1.0") -> Path:
    for number in (1, 2, 3):
        image(folder / f"v{number}.mrcs", 3)
    path = folder / "movies.star"
    rows = "".join(f"v{n}.mrcs 1 {dose}\n" for n in (1, 2, 3))
    path.write_text(
        OPTICS + ROW.format(pixel=0.5) + "\ndata_movies\nloop_\n_rlnMicrographMovieName\n_rlnOpticsGroup\n"
        "_rlnMicrographDoseRate\n" + rows
    )
    return path


def micrographs(folder: Path, *, pixel: float = 1.0, fits: tuple[float, ...] = ()) -> Path:
    path = folder / "micrographs.star"
    for number in (1, 2, 3):
        image(folder / f"v{number}.mrc", 1)
    labels = ["_rlnMicrographName", "_rlnOpticsGroup"]
    ctf = ["_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle", "_rlnCtfMaxResolution"] if fits else []
    rows = [f"v{n + 1}.mrc 1" + (f" 15000 14000 30 {fits[n]}" if fits else "") for n in range(3)]
    path.write_text(
        OPTICS
        + ROW.format(pixel=pixel)
        + "\ndata_micrographs\nloop_\n"
        + "\n".join([*labels, *ctf, *rows])
        + "\n"
    )
    return path


class Steps:
    """Stands for ``run_step``: remembers what was asked for, leaves the files of a step."""

    def __init__(self, folder: Path, fits: tuple[float, ...] = (4.0, 4.2, 20.0)) -> None:
        self.folder, self.fits = folder, fits
        self.asked: dict[str, dict] = {}

    def __call__(self, context, job, title, values):
        # options that the job does not have, or cannot have together, are refused here
        self.asked[job.name] = {"params": validate(job.params, values), **values}
        folder = self.folder / f"{len(self.asked):02d}_{job.name}"
        folder.mkdir()
        made = getattr(self, job.name)(folder, values)
        return Result(outputs=made, figures={"particles": 42, "contrast": "black"}, folder=folder)

    def motion(self, folder, values):
        return {"micrographs": micrographs(folder, pixel=0.5 * values["binning"])}

    def ctf(self, folder, values):
        pixel = read_micrographs(values["input"], needs=()).optics[0].pixel_size_angstrom
        return {"micrographs": micrographs(folder, pixel=pixel, fits=self.fits)}

    def select(self, folder, values):
        return {"micrographs": micrographs(folder, pixel=0.7, fits=self.fits)}

    def pick(self, folder, values):
        path = folder / "coordinates.star"
        rows = "".join(f"v1.mrc 30 {20 + n} {m}\n" for n, m in enumerate([20, 20, 20, 20, 20, 4]))
        path.write_text(
            "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnAutopickFigureOfMerit\n"
            + rows
        )
        return {"coordinates": path}

    def extract(self, folder, values):
        return {"particles": folder / "particles.star"}


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    def call(**options):
        steps = Steps(tmp_path, options.pop("fits", (4.0, 4.2, 20.0)))
        monkeypatch.setattr(_spa_particles, "run_step", steps)
        params = validate(spa.Params, {"diameter": 100, **options})
        context = SimpleNamespace(log=lambda message: None)
        found = _spa_particles.prepare(context, params, kind_of(params.input))
        return steps, found

    return call


def test_movies_take_every_step(prepare, tmp_path) -> None:
    steps, found = prepare(input=movies(tmp_path))
    assert list(steps.asked) == ["motion", "ctf", "select", "pick", "extract"]
    assert steps.asked["motion"]["binning"] == pytest.approx(1.4)
    assert steps.asked["motion"]["exposure_filter"] is True
    assert steps.asked["select"]["where"] == "not (rlnCtfMaxResolution > 5.46)"
    assert steps.asked["pick"]["params"].maximum_radius == 50
    assert steps.asked["pick"]["params"].radius_range == (25, 45)
    extract = steps.asked["extract"]["params"]
    assert extract.min_merit == pytest.approx(8)
    assert extract.rescale is not None
    assert extract.rescale <= extract.box
    assert 0.7 * extract.box >= 1.5 * 100 * 0.99
    assert found.particles.name == "particles.star"
    decided = {what: value for what, value, _ in found.decisions}
    assert decided["Micrographs kept"] == 2
    assert decided["Picks"] == 5
    assert all(how for _, _, how in found.decisions)
    assert found.figures == {
        "movies": 3,
        "micrographs": 2,
        "picked_particles": 42,
        "pixel_size_angstrom": pytest.approx(decided["Final pixel size (Å)"]),
    }


def test_micrographs_with_ctf_are_not_fitted_again(prepare, tmp_path) -> None:
    steps, _ = prepare(input=micrographs(tmp_path, fits=(4.0, 4.1, 4.2)), voltage=300)
    assert list(steps.asked) == ["pick", "extract"]
    assert steps.asked["pick"]["voltage"] == 300


def test_micrographs_without_ctf_are_fitted(prepare, tmp_path) -> None:
    steps, _ = prepare(input=micrographs(tmp_path), pixel_size=1.1, fits=(4.0, 4.1, 4.2))
    assert list(steps.asked) == ["ctf", "pick", "extract"]
    assert steps.asked["ctf"]["pixel_size"] == 1.1
    # the table that ctf writes has the pixel size: it is not given again
    assert "pixel_size" not in steps.asked["extract"]


def test_what_is_given_is_not_decided(prepare, tmp_path) -> None:
    steps, found = prepare(
        input=movies(tmp_path), final_pixel_size=2.8, fit_resolution=4.1, min_merit=3, dose_per_frame=2
    )
    assert steps.asked["motion"]["binning"] == pytest.approx(2.8)
    assert steps.asked["motion"]["dose_per_frame"] == 2
    assert "4.1" in steps.asked["select"]["where"]
    assert steps.asked["pick"]["threshold"] == 3
    assert steps.asked["extract"]["min_merit"] == 3
    assert found.figures["pixel_size_angstrom"] <= 2.8


def test_coordinates_take_the_place_of_picking(prepare, tmp_path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("name,x,y\nv1.mrc,30,30\n")
    steps, _ = prepare(input=micrographs(tmp_path, fits=(4.0, 4.1, 4.2)), coordinates=[path])
    assert list(steps.asked) == ["extract"]
    assert steps.asked["extract"]["input"] == (path,)


def test_movies_without_dose_are_not_weighted(prepare, tmp_path) -> None:
    steps, found = prepare(input=movies(tmp_path, dose="0"))
    assert steps.asked["motion"]["exposure_filter"] is False
    assert ("Frames weighted by damage", "no", "the dose of each frame is not known") in found.decisions


def test_what_the_files_are_is_told_apart(tmp_path) -> None:
    assert kind_of([movies(tmp_path)]) == "movies"
    assert kind_of([micrographs(tmp_path)]) == "micrographs"
    assert kind_of([tmp_path / "v1.mrcs", tmp_path / "v2.mrcs"]) == "movies"
    assert kind_of([tmp_path / "v1.mrc"]) == "micrographs"
    particles = tmp_path / "particles.star"
    particles.write_text("data_\nloop_\n_rlnImageName\n_rlnMicrographName\n1@a.mrcs v1.mrc\n")
    assert kind_of([particles]) == "particles"


def test_options_without_use_are_refused(tmp_path) -> None:
    path = micrographs(tmp_path)
    with pytest.raises(ParameterError, match="--dose-per-frame has no use here"):
        validate(spa.Params, {"input": path, "diameter": 100, "dose_per_frame": 1})
    with pytest.raises(ParameterError, match="--diameter is needed"):
        validate(spa.Params, {"input": path})


def test_what_all_steps_need_is_asked_for_first(tmp_path) -> None:
    path = image(tmp_path / "v1.mrc", 1)
    params = validate(spa.Params, {"input": path, "diameter": 100})
    with pytest.raises(InputError, match="--voltage"):
        spa.JOB.estimate(params)


@pytest.mark.parametrize("sections", [1, 3])
def test_files_with_what_the_user_knows_are_enough(tmp_path, sections) -> None:
    """Micrographs and movies without any table, as in the README."""
    path = image(tmp_path / "v1.mrcs" if sections > 1 else tmp_path / "v1.mrc", sections)
    said = {"input": path, "diameter": 20, "pixel_size": 0.5, "voltage": 300, "cs": 2.7}
    if sections > 1:
        said["dose_per_frame"] = 1.0
    assert spa.JOB.estimate(validate(spa.Params, said)).memory_bytes > 0


def test_a_map_is_no_movie(tmp_path) -> None:
    write_volume(tmp_path / "map.mrc", Volume(data=np.ones((8, 8, 8), np.float32), pixel_size_angstrom=1.0))
    with pytest.raises(InputError, match="three-dimensional map"):
        validate(spa.Params, {"input": tmp_path / "map.mrc", "diameter": 100})
