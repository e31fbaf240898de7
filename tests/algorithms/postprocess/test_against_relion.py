"""Post-processing against RELION 3.1.3's relion_postprocess on the same half maps and mask.

``tests/golden/postprocess/relion_3_1_3.json`` holds RELION's figures for the half maps below, from
``relion_postprocess --i half1_class001_unfil.mrc --mask mask.mrc --o out/post --angpix 3 --auto_bfac
--autob_lowres 16 --autob_highres 9``. Where RELION is installed it is run again.
"""

import json
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from parhelion.algorithms.postprocess.half_maps import postprocess
from parhelion.fourier.filters import apply_bfactor
from parhelion.images.masks import spherical_mask
from parhelion.model.volume import Volume

GOLDEN = Path(__file__).parents[2] / "golden" / "postprocess" / "relion_3_1_3.json"
BOX, PIXEL = 64, 3.0
LABELS = {
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
    "corrected": "rlnFourierShellCorrelationCorrected",
}


def half_maps():
    """Two noisy copies of 400 point atoms in a ball, damped by a B-factor of 500 Å², and a mask."""
    rng = np.random.default_rng(20)
    points = rng.normal(size=(400, 3))
    points *= (50 * rng.uniform(0, 1, (400, 1)) ** (1 / 3)) / np.linalg.norm(points, axis=1, keepdims=True)
    truth = np.zeros((BOX,) * 3, np.float32)
    np.add.at(truth, tuple((np.rint(points / PIXEL).astype(int) + BOX // 2).T), 10.0)
    truth = apply_bfactor(Volume(data=truth, pixel_size_angstrom=PIXEL), 500.0).data
    noise = rng.normal(0, 0.3, (2, BOX, BOX, BOX))
    mask = spherical_mask(BOX, PIXEL, 60.0, 15.0)
    return [Volume(data=d.astype(np.float32), pixel_size_angstrom=PIXEL) for d in (*(truth + noise), mask)]


def run_relion(folder):
    half1, half2, mask = half_maps()
    for name, volume in (("half1_class001_unfil", half1), ("half2_class001_unfil", half2), ("mask", mask)):
        with mrcfile.new(folder / f"{name}.mrc", volume.data) as file:
            file.voxel_size = PIXEL
    command = (
        "relion_postprocess --i half1_class001_unfil.mrc --mask mask.mrc --o out/post --angpix 3 --auto_bfac "
        "--autob_lowres 16 --autob_highres 9"
    )
    (folder / "out").mkdir()
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    blocks = starfile.read(folder / "out" / "post.star", always_dict=True)
    general, table = blocks["general"], blocks["fsc"]
    return {
        "resolution": float(general["rlnFinalResolution"]),
        "bfactor": float(general["rlnBfactorUsedForSharpening"]),
        "randomise_from": float(general["rlnRandomiseFrom"]),
        **{kind: [float(v) for v in table[label]] for kind, label in LABELS.items()},
    }


@pytest.fixture(scope="module")
def ours():
    return postprocess(*half_maps(), fit_from_angstrom=16.0, fit_to_angstrom=9.0)


@pytest.fixture(scope="module", params=["recorded", "live"])
def relion(request, tmp_path_factory):
    if request.param == "recorded":
        return json.loads(GOLDEN.read_text())
    if shutil.which("relion_postprocess") is None:
        pytest.skip("relion_postprocess is not installed")
    return run_relion(tmp_path_factory.mktemp("relion"))


def test_unmasked_and_masked_fsc_agree(ours, relion):
    for kind in ("unmasked", "masked"):
        np.testing.assert_allclose(getattr(ours.curves, kind), relion[kind], atol=0.012)


def test_randomised_and_corrected_fsc_agree_within_the_randomness(ours, relion):
    extent = BOX * PIXEL
    assert extent / ours.curves.randomised_from_shell == pytest.approx(relion["randomise_from"], rel=1e-3)
    difference = ours.curves.corrected - np.array(relion["corrected"])
    assert np.abs(difference).max() < 0.1
    assert abs(difference.mean()) < 0.01
    beyond = slice(ours.curves.randomised_from_shell + 2, None)
    spread = np.abs(ours.curves.randomised[beyond] - np.array(relion["randomised"])[beyond])
    assert spread.max() < 0.25
    assert spread.mean() < 0.05


def test_resolution_agrees_within_a_shell(ours, relion):
    """RELION names the last shell above 0.143, parhelion interpolates to the crossing."""
    extent = BOX * PIXEL
    assert 0 <= extent / ours.resolution_angstrom - extent / relion["resolution"] <= 1


def test_bfactor_agrees(ours, relion):
    """The random phases reach the fit through the FSC weights: 7 % here; the amplitudes themselves agree."""
    assert ours.bfactor_angstrom2 == pytest.approx(relion["bfactor"], rel=0.1)
