"""simulate particles: the stack, the two tables, the same again from the same seed."""

from dataclasses import replace

import numpy as np
import pytest

from parhelion.errors import ParameterError
from parhelion.fourier.shells import fsc
from parhelion.io.mrc import open_stack, read_volume
from parhelion.io.particles import read_particles, write_particles

ATOMS = "".join(
    f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 30.00           C  \n"
    for i, (x, y, z) in enumerate(np.random.default_rng(2).normal(0, 10, (60, 3)))
)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.pdb"
    path.write_text(ATOMS + "END\n")
    return path


def test_map_gives_stack_and_tables(run, molecule) -> None:
    result = run("simulate_particles", model=molecule, count=70, defocus_range=(1.0, 2.0), snr=0.5)
    stack = open_stack(result.outputs["images"])
    assert stack.shape == (70, 32, 32)
    blind, truth = (read_particles(result.outputs[name]) for name in ("particles", "truth"))
    assert blind.rotation is None
    assert truth.rotation.shape == (70, 3, 3)
    assert np.array_equal(blind.views.defocus_u_angstrom, truth.views.defocus_u_angstrom)
    defocus = (truth.views.defocus_u_angstrom + truth.views.defocus_v_angstrom) / 2
    assert defocus.min() >= 10_000
    assert defocus.max() <= 20_000
    assert blind.views.image_path[0] == result.outputs["images"].resolve()
    assert np.isclose(result.figures["snr"], 0.5)
    assert np.isclose(stack.read(np.arange(70)).var(), 1.5, rtol=0.1)


def test_same_seed_gives_the_same_images_on_any_number_of_threads(run, molecule, tmp_path) -> None:
    made = [
        run("simulate_particles", model=molecule, count=130, seed=s, threads=t, output=tmp_path / f"{s}_{t}")
        for s, t in ((4, 1), (4, 3), (5, 1))
    ]
    images = [open_stack(m.outputs["images"]).read(np.arange(130)) for m in made]
    assert np.array_equal(images[0], images[1])
    assert not np.allclose(images[0], images[2], atol=0.5)


def test_atomic_model_gets_a_box_that_holds_it(run, model) -> None:
    result = run("simulate_particles", model=model, count=3, pixel_size=3.0, dose=50)
    volume = read_volume(result.outputs["reference"])
    assert volume.box == result.figures["box"]
    assert volume.pixel_size_angstrom == 3.0
    edge = np.abs(volume.data[0]).max()
    assert edge < 0.1 * volume.data.max()
    assert result.figures["snr"] > 0


def test_map_is_resampled_with_a_notice(run, molecule) -> None:
    result = run("simulate_particles", model=molecule, count=2, box=24, pixel_size=5.0)
    assert any("resampled to 24 at 5 Å" in notice for notice in result.notices)
    assert open_stack(result.outputs["images"]).shape == (2, 24, 24)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"snr": 0.1, "dose": 50}, "both set the noise"),
        ({"dose": 50}, "needs an atomic model"),
        ({"symmetry": "d2"}, "a map is taken as it is"),
        ({"symmetry": "q7"}, "unknown symmetry 'q7'"),
        ({"defocus_range": (2.0, 1.0)}, "lower defocus first"),
        ({"defocus_range": (1.0, 20.0)}, "-1 to 10 .µm"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, molecule, options, said) -> None:
    with pytest.raises(ParameterError, match=said):
        run("simulate_particles", model=molecule, **options)


def test_atomic_model_without_pixel_size_is_refused(run, model) -> None:
    with pytest.raises(ParameterError, match="--pixel-size is needed"):
        run("simulate_particles", model=model)


def test_aberrations_are_in_the_truth_and_not_in_the_particles(run, molecule) -> None:
    matrix = (1.02, 0.005, 0.005, 0.99)
    found = run(
        "simulate_particles", model=molecule, count=6, beam_tilt=(3.0, -2.0), trefoil=(400.0, 0.0),
        magnification=matrix,
    )  # fmt: skip
    blind, truth = (read_particles(found.outputs[name]) for name in ("particles", "truth"))
    assert truth.optics[0].beam_tilt_xy_mrad == (3.0, -2.0)
    assert truth.optics[0].odd_zernike == (0, 0, 0, 0, 0, 400.0)
    assert truth.optics[0].magnification == matrix
    assert blind.optics[0].beam_tilt_xy_mrad == (0.0, 0.0)
    assert blind.optics[0].odd_zernike == ()
    # what a fit to the rings would find: stretched along x by 1.02, the mean form is not the same
    assert np.all(blind.views.defocus_u_angstrom > 1.02 * truth.views.defocus_v_angstrom)


def test_what_is_simulated_is_undone_on_loading(run, model, tmp_path) -> None:
    """Images with all aberrations, reconstructed with them, give the molecule; without them they do not."""
    found = run(
        "simulate_particles", model=model, pixel_size=2.5, box=40, count=100, snr=30, beam_tilt=(4.0, -3.0),
        trefoil=(150.0, 80.0), magnification=(1.03, 0.0, 0.0, 0.97), defocus_range=(0.5, 1.0),
        output=tmp_path / "aberrated",
    )  # fmt: skip
    made = run("reconstruct", input=found.outputs["truth"], halves=False, output=tmp_path / "with")
    truth = read_volume(found.outputs["reference"]).data
    good = fsc(read_volume(made.outputs["map"]).data, truth)[1:17]
    text = found.outputs["truth"].read_text(encoding="utf-8")
    particles = read_particles(found.outputs["truth"])
    assert "rlnBeamTiltX" in text
    assert "rlnMagMat00" in text
    bare = replace(
        particles.optics[0], beam_tilt_xy_mrad=(0.0, 0.0), odd_zernike=(), magnification=(1.0, 0.0, 0.0, 1.0)
    )
    write_particles(tmp_path / "bare.star", replace(particles, optics=(bare,)))
    without = run("reconstruct", input=tmp_path / "bare.star", halves=False, output=tmp_path / "without")
    bad = fsc(read_volume(without.outputs["map"]).data, truth)[1:17]
    assert good.min() > 0.9
    assert bad.mean() < good.mean() - 0.05


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beam_tilt": (60.0, 0.0)}, "--beam-tilt"),
        ({"trefoil": (0.0, 1e6)}, "--trefoil"),
        ({"magnification": (2.0, 0.0, 0.0, 1.0)}, "--magnification"),
        ({"magnification": (0.5, 0.0, 0.0, 1.0)}, "least stretch"),
    ],
)
def test_impossible_aberrations_are_refused(run, molecule, options, said) -> None:
    with pytest.raises(ParameterError, match=said):
        run("simulate_particles", model=molecule, **options)
