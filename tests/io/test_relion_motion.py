"""Motion metadata: RELION's own file is read, ours comes back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parhelion.algorithms.motion.polynomial import LocalMotion
from parhelion.errors import FormatError
from parhelion.io.relion_motion import MotionMetadata, read_motion, write_motion
from parhelion.io.star import read_star


def test_relions_file_is_read_and_its_model_fits_its_patches(test_data: Path) -> None:
    path = test_data / "formats" / "relion" / "motioncorr_local_motion.star"
    found = read_motion(path)
    assert (found.shape, found.count, found.voltage_kv) == ((3838, 3710), 24, 200.0)
    np.testing.assert_allclose(found.shift_px[23], (11.273892, -11.52884))
    assert found.local_px is not None
    patches = read_star(path)["local_shift"]
    x = patches["rlnCoordinateX"] / 3710 - 0.5
    y = patches["rlnCoordinateY"] / 3838 - 0.5
    model = LocalMotion(coefficients=found.local_px).shift_px(patches["rlnMicrographFrameNumber"] - 1.0, x, y)
    measured = np.stack([patches["rlnMicrographShiftX"], patches["rlnMicrographShiftY"]], axis=1)
    # the noise of single patches is about half of what they show
    assert ((measured - model) ** 2).mean() < 0.6 * (measured**2).mean()


def test_file_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    motion = MotionMetadata(
        movie="a folder/movie.tif",
        shape=(100, 120),
        count=5,
        shift_px=rng.normal(0, 9, (5, 2)),
        local_px=rng.normal(0, 1e-3, (2, 18)),
        gain="gain.mrc",
        binning=2.0,
        pixel_size_angstrom=0.7,
        dose_per_frame=1.2,
        pre_exposure=0.5,
        voltage_kv=200.0,
    )
    write_motion(tmp_path / "m.star", motion)
    found = read_motion(tmp_path / "m.star")
    np.testing.assert_allclose(found.shift_px, motion.shift_px, atol=1e-6)
    assert found.local_px is not None and motion.local_px is not None
    np.testing.assert_allclose(found.local_px, motion.local_px, rtol=1e-8)
    blank = {"shift_px": None, "local_px": None}
    assert replace(found, **blank) == replace(motion, **blank)


def test_another_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.star"
    path.write_text("data_general\n\n_rlnImageSizeX 5\n")
    with pytest.raises(FormatError, match="no motion metadata"):
        read_motion(path)
    path.write_text("data_general\n\n_rlnImageSizeX 5\n\ndata_global_shift\n\nloop_\n_rlnX #1\n1\n")
    with pytest.raises(FormatError, match="incomplete"):
        read_motion(path)


def test_how_an_eer_movie_was_read_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    given = MotionMetadata(
        movie="a.eer", shape=(8, 9), count=2, shift_px=np.zeros((2, 2)), eer_upsampling=2, eer_grouping=31
    )
    write_motion(path, given)
    assert "_rlnEERUpsampling" in path.read_text() and "_rlnEERGrouping" in path.read_text()
    found = read_motion(path)
    assert (found.eer_upsampling, found.eer_grouping) == (2, 31)
    write_motion(path, replace(given, eer_upsampling=None, eer_grouping=None))
    assert "EER" not in path.read_text()
