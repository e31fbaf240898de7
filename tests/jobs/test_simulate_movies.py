"""simulate movies: files and truth that agree with each other, resumption, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest

from parhelion.algorithms.simulate.project import Projector
from parhelion.algorithms.simulate.views import images_of_particles
from parhelion.errors import InputError, ParameterError
from parhelion.geometry.rotations import from_relion
from parhelion.io.coordinates import read_coordinates
from parhelion.io.gain import read_gain
from parhelion.io.movies import open_movie
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.relion_micrographs import read_micrographs
from parhelion.io.star import read_star
from parhelion.model.particles import OpticsGroup, ParticleSet, Views
from parhelion.model.volume import Volume

SIZE = (384, 320)
BRIGHT = {"dose_per_frame": 30.0, "ice_noise": 0.0, "frames": 2, "drift": 0.0, "local_motion": 0.0}
"""So many electrons that one frame shows the particles."""
SHORT = {"size": (160,), "frames": 3, "particles_per_micrograph": 1}


@pytest.fixture
def potential(molecule, tmp_path) -> Path:
    """The molecule with densities of a potential, strong enough to be seen in one frame: up to 25 V."""
    volume = read_volume(molecule)
    path = tmp_path / "potential.mrc"
    write_volume(path, Volume(data=25 * volume.data / volume.data.max(), pixel_size_angstrom=4.0))
    return path


def numbers(table, *labels):
    return np.stack([np.asarray(table[label], float) for label in labels], axis=1)


def test_tables_say_what_the_movies_are(run, potential, tmp_path) -> None:
    result = run("simulate_movies", model=potential, count=2, dead_pixels=5, hot_pixels=4, **SHORT)
    folder = tmp_path / "out_simulate_movies"
    table = read_micrographs([folder / "movies.star"])
    assert table.movies
    assert [path.name for path in table.path] == ["movie_0001.tif", "movie_0002.tif"]
    assert table.gain[0] == folder / "gain.mrc"
    assert table.dose_per_frame.tolist() == [2.0, 2.0]
    optics = table.optics_of(0)
    assert (optics.pixel_size_angstrom, optics.voltage_kv, optics.amplitude_contrast) == (4.0, 300.0, 0.1)
    movie = open_movie(table.path[1])
    assert (movie.count, movie.shape) == (3, (160, 160))
    assert movie.pixel_size_angstrom == pytest.approx(4.0)
    gain = read_gain(folder / "gain.mrc")
    corrected = movie.frame(0) * gain
    assert np.median(corrected) == pytest.approx(2.0 * 16, rel=0.03)
    defects = np.loadtxt(folder / "truth/defects.txt", dtype=int)
    assert defects.shape == (9, 4)
    assert (gain[defects[:5, 1], defects[:5, 0]] == 0).all()
    assert (np.sum([movie.frame(i) for i in range(3)], axis=0)[defects[:5, 1], defects[:5, 0]] == 0).all()
    truth = read_micrographs([folder / "truth/micrographs.star"])
    assert (truth.ctf.defocus_u_angstrom >= truth.ctf.defocus_v_angstrom).all()
    assert truth.path == table.path
    assert result.figures["particles"] == 2
    assert (folder / "report.html").read_text().count("data:image/png") >= 5


def truth_of_one_movie(folder: Path) -> ParticleSet:
    """The true particles as any program reads them."""
    blocks = read_star(folder / "truth/particles.star")
    table, optics = blocks["particles"], blocks["optics"]
    n = table.rows
    ctf = numbers(table, "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
    views = Views(
        image_path=(Path("none"),),
        path_id=np.zeros(n, np.int64),
        image_index=np.arange(n),
        particle=np.arange(n),
        optics_group=np.zeros(n, np.int64),
        defocus_u_angstrom=ctf[:, 0],
        defocus_v_angstrom=ctf[:, 1],
        defocus_angle_deg=ctf[:, 2],
        phase_shift_deg=np.zeros(n),
        ctf_bfactor_angstrom2=np.zeros(n),
        ctf_scale=np.ones(n),
        noise_group=np.zeros(n, np.int64),
    )
    group = OpticsGroup(
        name="simulated",
        pixel_size_angstrom=float(optics["rlnMicrographOriginalPixelSize"][0]),
        voltage_kv=float(optics["rlnVoltage"][0]),
        spherical_aberration_mm=float(optics["rlnSphericalAberration"][0]),
        amplitude_contrast=float(optics["rlnAmplitudeContrast"][0]),
    )
    place = numbers(table, "rlnCoordinateX", "rlnCoordinateY")
    shift = np.zeros((n, 3))
    shift[:, :2] = (np.rint(place) - place) * group.pixel_size_angstrom
    rotation = from_relion(*numbers(table, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi").T)
    assert not numbers(table, "rlnOriginXAngst", "rlnOriginYAngst").any()
    return ParticleSet(optics=(group,), views=views, count=n, rotation=rotation, shift_xyz_angstrom=shift)


def test_true_poses_and_ctf_predict_the_frame(run, potential, tmp_path) -> None:
    """Predicted images, protein white, against boxes at the true places: dark, not mirrored, not flipped."""
    run(
        "simulate_movies",
        model=potential,
        size=SIZE,
        particles_per_micrograph=7,
        edge_distance=140.0,
        **BRIGHT,
    )
    folder = tmp_path / "out_simulate_movies"
    particles = truth_of_one_movie(folder)
    places = read_coordinates([folder / "truth/particles.star"]).xy_px
    movie = open_movie(folder / "movies/movie_0001.tif")
    assert movie.shape == (320, 384)
    frame = movie.frame(0) * read_gain(folder / "gain.mrc")
    reference = read_volume(folder / "truth/reference.mrc")

    def correlation(volume: np.ndarray, image: np.ndarray, places: np.ndarray) -> float:
        predicted = images_of_particles(
            Projector(volume), particles, np.arange(7), 64, reference.pixel_size_angstrom, with_ctf=True
        )
        found = []
        for (x, y), one in zip(np.rint(places).astype(int), predicted):
            box = image[y - 32 : y + 32, x - 32 : x + 32]
            found.append(np.corrcoef(box[8:56, 8:56].ravel(), one[8:56, 8:56].ravel())[0, 1])
        return float(np.mean(found))

    right = correlation(reference.data, frame, places)
    assert right < -0.55
    mirrored = np.roll(reference.data[::-1], 1, axis=0)
    assert correlation(mirrored, frame, places) > right + 0.05
    flipped = np.array([[0, 319]]) + places * np.array([[1, -1]])
    assert correlation(reference.data, frame, np.clip(flipped, 32, 287)) > -0.4


def test_shifts_bring_each_frame_onto_the_first(run, potential, tmp_path) -> None:
    moving = {**BRIGHT, "frames": 8, "dose_per_frame": 15.0, "drift": 60.0}
    run(
        "simulate_movies",
        model=potential,
        size=SIZE,
        particles_per_micrograph=7,
        edge_distance=200.0,
        **moving,
    )
    folder = tmp_path / "out_simulate_movies"
    table = read_star(folder / "truth/movie_0001_shifts.star")["global_shift"]
    shifts = numbers(table, "rlnMicrographShiftX", "rlnMicrographShiftY")
    assert table["rlnMicrographFrameNumber"].tolist() == list(range(1, 9))
    assert not shifts[0].any()
    assert np.linalg.norm(shifts[-1]) * 4.0 == pytest.approx(60.0, abs=1e-4)
    movie, gain = open_movie(folder / "movies/movie_0001.tif"), read_gain(folder / "gain.mrc")
    late, last = (movie.frame(i) * gain for i in (3, 7))
    dx, dy = np.rint(shifts[7] - shifts[3]).astype(int)
    assert max(abs(dx), abs(dy)) >= 2

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        blurred = [sum(np.roll(f, (i, j), (0, 1)) for i in range(4) for j in range(4)) for f in (a, b)]
        inner = (slice(20, -20), slice(20, -20))
        return float(np.corrcoef(blurred[0][inner].ravel(), blurred[1][inner].ravel())[0, 1])

    onto = alike(np.roll(last, (dy, dx), (0, 1)), late)
    assert onto > alike(last, late) + 0.05
    assert onto > alike(np.roll(last, (-dy, -dx), (0, 1)), late) + 0.05


def test_a_resumed_run_makes_the_same_movies(run, potential, tmp_path) -> None:
    given = {"model": potential, "count": 3, "seed": 7, **SHORT}
    run("simulate_movies", **given, threads=2, output=tmp_path / "whole")
    run("simulate_movies", **given, output=tmp_path / "cut")
    names = [f"movies/movie_000{i}.tif" for i in (1, 2, 3)]
    first = [(tmp_path / "cut" / name).read_bytes() for name in names]
    assert first == [(tmp_path / "whole" / name).read_bytes() for name in names]
    (tmp_path / "cut" / names[1]).unlink()
    next((tmp_path / "cut/checkpoints").rglob("000001.json")).unlink()
    kept = (tmp_path / "cut" / names[0]).stat().st_mtime_ns
    record = json.loads((tmp_path / "cut/job.json").read_text())
    (tmp_path / "cut/job.json").write_text(json.dumps({**record, "status": "running"}))
    run("simulate_movies", **given, output=tmp_path / "cut", resume=True)
    assert [(tmp_path / "cut" / name).read_bytes() for name in names] == first
    assert (tmp_path / "cut" / names[0]).stat().st_mtime_ns == kept


def test_tilt_and_mrc_format(run, potential, tmp_path) -> None:
    run("simulate_movies", model=potential, tilt=30.0, format="mrc", phase_shift=90.0, **SHORT)
    folder = tmp_path / "out_simulate_movies"
    assert open_movie(folder / "movies/movie_0001.mrc").count == 3
    table = read_star(folder / "truth/micrographs.star")["movies"]
    assert float(table["rlnMicrographTiltAngle"][0]) == 30.0
    assert 0 <= float(table["rlnMicrographTiltAxisDirection"][0]) <= 180
    assert float(table["rlnPhaseShift"][0]) == 90.0


def test_atomic_model_gets_a_box_that_holds_it(run, tmp_path) -> None:
    atoms = np.random.default_rng(2).normal(0, 10, (60, 3))
    lines = [
        f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 30.00           C  \n"
        for i, (x, y, z) in enumerate(atoms)
    ]
    (tmp_path / "model.pdb").write_text("".join(lines) + "END\n")
    result = run("simulate_movies", model=tmp_path / "model.pdb", pixel_size=3.0, **SHORT)
    volume = read_volume(result.outputs["reference"])
    assert volume.pixel_size_angstrom == 3.0
    assert np.abs(volume.data[0]).max() < 0.1 * volume.data.max()
    assert (
        result.figures["molecule_diameter_angstrom"]
        < 1.2 * 2 * np.linalg.norm(atoms - atoms.mean(axis=0), axis=1).max()
    )


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"defocus_range": (2.0, 1.0)}, "lower defocus first"),
        ({"size": (100, 200, 300)}, "width and height"),
        ({"size": (10,)}, "64"),
        ({"symmetry": "D2"}, "averages atomic models"),
        ({"frames": 0}, "frames"),
        ({"voltage": 20.0}, "voltage"),
        ({"particles_per_micrograph": 500}, "do not fit"),
        ({"ice_thickness": 20.0}, "thinner than the molecule"),
    ],
)
def test_bad_options_are_refused(run, potential, options, what) -> None:
    with pytest.raises((ParameterError, InputError), match=what):
        run("simulate_movies", model=potential, **{**SHORT, **options})


def test_a_map_that_is_not_in_volts_is_refused(run, molecule, tmp_path) -> None:
    volume = read_volume(molecule)
    write_volume(tmp_path / "odd.mrc", Volume(data=5000 * volume.data, pixel_size_angstrom=4.0))
    with pytest.raises(ParameterError, match="volts"):
        run("simulate_movies", model=tmp_path / "odd.mrc", **SHORT)
