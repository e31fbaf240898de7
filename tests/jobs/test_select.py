"""select: particles and micrographs by condition and class, with all their columns."""

import numpy as np
import pytest

from parhelion.errors import InputError, ParameterError
from parhelion.io.particles import read_particles
from parhelion.io.relion_micrographs import read_micrographs

OPTICS = (
    "data_optics\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n"
    "_rlnAmplitudeContrast\n_rlnImagePixelSize\n_rlnMicrographPixelSize\n"
    "g 1 300 2.7 0.1 2 2\nh 2 200 2.7 0.1 2 2\n"
)
PARTICLES = OPTICS + (
    "\ndata_particles\nloop_\n_rlnImageName\n_rlnMicrographName\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
    "_rlnClassNumber\n_rlnOpticsGroup\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n"
)


@pytest.fixture
def particles(tmp_path):
    path = tmp_path / "particles.star"
    rows = [
        f"{i + 1}@s.mrcs m{i % 2}.mrc {10000 + 1000 * i} {10000 + 1000 * i} 0 "
        f"{i % 3 + 1} {1 + i // 4} {10 * i} 20 30"
        for i in range(6)
    ]
    path.write_text(PARTICLES + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def micrographs(tmp_path):
    path = tmp_path / "micrographs.star"
    path.write_text(
        OPTICS
        + "\ndata_micrographs\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n_rlnDefocusU\n_rlnDefocusV\n"
        "_rlnDefocusAngle\n_rlnCtfMaxResolution\n"
        "a.mrc 1 1e4 1e4 0 4\nb.mrc 2 2e4 2e4 0 9\nc.mrc 1 1e4 1e4 0 nan\n"
    )
    return path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"classes": "1,3"}, [0, 2, 3, 5]),
        ({"where": "rlnDefocusU > 12000"}, [3, 4, 5]),
        ({"where": "rlnDefocusU > 12000", "classes": [1]}, [3]),
        ({"where": "rlnVoltage == 200"}, [4, 5]),
        ({"where": "rlnAngleRot < 25 and rlnMicrographName == 'm0.mrc'"}, [0, 2]),
        ({"where": "rlnDefocusU > 12000", "invert": True}, [0, 1, 2]),
    ],
)
def test_particles(run, particles, options, expected) -> None:
    found = run("select", input=particles, **options)
    kept = read_particles(found.outputs["particles"])
    assert kept.views.image_index.tolist() == expected
    assert found.figures["kept"] == len(expected)
    assert found.figures["left_out"] == 6 - len(expected)
    whole = read_particles(particles).take(np.array(expected))
    np.testing.assert_allclose(kept.rotation, whole.rotation, atol=1e-6)
    assert kept.extra["rlnMicrographName"].tolist() == whole.extra["rlnMicrographName"].tolist()
    assert kept.views.image_path == whole.views.image_path


def test_micrographs(run, micrographs) -> None:
    found = run("select", input=micrographs, where="rlnCtfMaxResolution < 5")
    kept = read_micrographs([found.outputs["micrographs"]])
    assert kept.name == ("a.mrc",)
    assert kept.path == (micrographs.parent / "a.mrc",)
    assert set(found.outputs) == {"micrographs"}
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "rlnCtfMaxResolution" in report


def test_movies_come_back_as_movies(run, tmp_path) -> None:
    path = tmp_path / "movies.star"
    path.write_text(
        "data_movies\nloop_\n_rlnMicrographMovieName\n_rlnMicrographDoseRate\na.tif 1.0\nb.tif 2.0\n"
    )
    found = run("select", input=path, where="rlnMicrographDoseRate > 1.5")
    kept = read_micrographs([found.outputs["movies"]], needs=())
    assert kept.movies
    assert kept.name == ("b.tif",)


def test_some_at_random_are_the_same_for_a_seed(run, particles, tmp_path) -> None:
    def pick(number, **options):
        found = run("select", input=particles, count=3, output=tmp_path / str(number), **options)
        return read_particles(found.outputs["particles"]).views.image_index.tolist()

    first = pick(1)
    assert len(first) == 3
    assert first == sorted(first) == pick(2)
    assert any(pick(3 + seed, seed=seed) != first for seed in range(5))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing says what to keep"),
        ({"invert": True, "count": 1}, "--invert turns"),
        ({"where": "rlnDefocusW > 1"}, "did you mean rlnDefocus"),
        ({"classes": "one"}, "--classes"),
    ],
)
def test_what_makes_no_sense_is_refused(run, particles, options, said) -> None:
    with pytest.raises(ParameterError, match=said):
        run("select", input=particles, **options)


def test_nothing_left_says_what_there_is(run, particles, micrographs, tmp_path) -> None:
    with pytest.raises(InputError, match="rlnDefocusU lies between 10000 and 15000"):
        run("select", input=particles, where="rlnDefocusU > 9e5")
    with pytest.raises(InputError, match="the classes are 1, 2, 3"):
        run("select", input=particles, classes="7", output=tmp_path / "b")
    with pytest.raises(InputError, match="no rlnClassNumber"):
        run("select", input=micrographs, classes="1", output=tmp_path / "c")
    other = tmp_path / "other.star"
    other.write_text("data_\nloop_\n_rlnSomething\n1\n")
    with pytest.raises(InputError, match="neither particles nor micrographs"):
        run("select", input=other, where="rlnSomething > 0", output=tmp_path / "d")


def test_more_than_there_are_is_said(run, molecule, tmp_path) -> None:
    made = run("simulate_particles", model=molecule, count=6, output=tmp_path / "made").outputs
    result = run("select", input=made["particles"], count=10)
    assert result.figures["kept"] == 6
    assert "--count 10 are not there" in result.notices
