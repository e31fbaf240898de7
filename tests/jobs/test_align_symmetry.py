"""align-symmetry: axes to the standard setting, other maps and particles with them."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from parhelion.algorithms.frame_change import volume_in_frame
from parhelion.algorithms.symmetry_search import euler_frames
from parhelion.errors import InputError, ParameterError
from parhelion.geometry.symmetry import symmetry_group
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.particles import read_particles
from parhelion.model.volume import Volume

BOX, PIXEL = 32, 4.0
TURN = Rotation.from_rotvec([12, -20, 9], degrees=True).as_matrix()
SHIFT = np.array([5.0, -3.0, 4.0])


def symmetric(name: str = "D3") -> Volume:
    """A molecule with exact symmetry about the axes through voxel n // 2."""
    group = symmetry_group(name)
    points = 28 * np.array([0.4, 0.3, 0.85]) + np.random.default_rng(3).normal(0, 7, (6, 3))
    points = (points @ group.operators.transpose(0, 2, 1)).reshape(-1, 3)
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    z, y, x = (np.exp(-((axis[None] - points[:, i, None]) ** 2) / (2 * 6.0**2)) for i in (2, 1, 0))
    return Volume(data=np.einsum("pz,py,px->zyx", z, y, x).astype(np.float32), pixel_size_angstrom=PIXEL)


def likeness(a: Volume, b: Volume) -> float:
    return float(np.corrcoef(a.data.ravel(), b.data.ravel())[0, 1])


@pytest.fixture
def moved(tmp_path):
    """``moved.mrc``: the molecule away from its standard setting."""
    path = tmp_path / "moved.mrc"
    write_volume(path, volume_in_frame(symmetric(), TURN, SHIFT))
    return path


def test_axes_come_back(run, moved) -> None:
    result = run("align_symmetry", input=moved, symmetry="D3")
    aligned, imposed = (read_volume(result.outputs[name]) for name in ("map", "symmetrised"))
    assert result.figures["symmetry_correlation"] > 0.9
    assert not any("does not have" in note for note in result.notices)
    # a frame is known up to the operators, and up to the turn by 180/3 degrees that swaps D3's axes
    choices = [np.eye(3), Rotation.from_euler("z", 60, degrees=True).as_matrix()]
    assert max(likeness(volume_in_frame(aligned, c, np.zeros(3)), symmetric()) for c in choices) > 0.97
    assert likeness(aligned, imposed) > 0.97
    assert likeness(read_volume(moved), symmetric()) < 0.8


def test_maps_and_particles_follow(run, moved, tmp_path) -> None:
    """Particles of the moved map, put into the new frame, are projections of the aligned map."""
    made = run("simulate_particles", model=moved, count=30, snr=20.0, output=tmp_path / "made")
    # simulate puts the molecule into the middle: its own reference is the map of these particles
    reference = made.outputs["reference"]
    options = {"follow": [moved], "particles": made.outputs["truth"]}
    result = run("align_symmetry", input=reference, symmetry="D3", **options)
    aligned = read_volume(result.outputs["map"])
    (followed,) = result.outputs["followed"]
    assert followed.name == "moved_aligned.mrc"
    turned = read_particles(result.outputs["particles"])
    assert len(turned) == 30
    rebuilt = run("reconstruct", input=result.outputs["particles"], output=tmp_path / "rebuilt")
    before = run("reconstruct", input=made.outputs["truth"], output=tmp_path / "before")
    after = likeness(read_volume(rebuilt.outputs["map"]), aligned)
    assert after > likeness(read_volume(before.outputs["map"]), aligned) + 0.1
    assert after == pytest.approx(
        likeness(read_volume(before.outputs["map"]), read_volume(reference)), abs=0.03
    )


def test_search_in_a_range_only(run, moved, tmp_path) -> None:
    """Within 5 degrees the axes, 24 degrees away, are not found; within 40 they are."""
    near = run("align_symmetry", input=moved, symmetry="C3", within=2.0, output=tmp_path / "near")
    far = run("align_symmetry", input=moved, symmetry="C3", within=40.0, output=tmp_path / "far")
    assert far.figures["symmetry_correlation"] > 0.9
    assert 20 < far.figures["rotation_deg"] < 30
    assert near.figures["rotation_deg"] < far.figures["rotation_deg"]


def test_a_map_without_the_symmetry_is_told_by_its_correlation(run, molecule) -> None:
    result = run("align_symmetry", input=molecule, symmetry="C7", resolution=12.0)
    assert any("it does not have this symmetry" in note for note in result.notices)
    assert result.figures["symmetry_correlation"] < 0.6
    coarse = run(
        "align_symmetry", input=molecule, symmetry="C7", resolution=60.0, output=molecule.parent / "c"
    )
    assert coarse.figures["symmetry_correlation"] != result.figures["symmetry_correlation"]


def test_names_must_differ(run, moved, tmp_path) -> None:
    copy = tmp_path / "sub" / "moved.mrc"
    copy.parent.mkdir()
    copy.write_bytes(moved.read_bytes())
    with pytest.raises(InputError, match="a map that follows is called moved"):
        run("align_symmetry", input=moved, symmetry="C2", follow=[moved, copy])


def test_angles_in_a_range_and_their_step(run, moved, tmp_path) -> None:
    """The axes are 24 degrees away: frames from 0 on do not see them, from -45 on they do."""

    def turned(name: str, **options) -> float:
        found = run("align_symmetry", input=moved, symmetry="C3", output=tmp_path / name, **options)
        return found.figures["symmetry_correlation"]

    right = turned("right", angles=(-45, 45), angle_step=9)
    assert right > 0.9
    away = turned("away", angles=(60, 70), angle_step=10)
    assert away < right - 0.1
    with pytest.raises(ParameterError, match="--angle-step needs --angles"):
        turned("step", angle_step=9)
    with pytest.raises(ParameterError, match="choose"):
        turned("both", angles=(-45, 45), within=20.0)
    with pytest.raises(ParameterError, match="coarser step"):
        turned("many", angles=(-180, 180), angle_step=1)


def test_frames_are_products_of_turns() -> None:
    frames = euler_frames(-90.0, 90.0, 90.0)
    assert frames.shape == (27, 3, 3)
    by_hand = Rotation.from_euler("z", 90, degrees=True) * Rotation.from_euler("x", -90, degrees=True)
    assert np.abs(frames - by_hand.as_matrix()).max(axis=(1, 2)).min() < 1e-12


def test_what_cannot_follow_is_found_before_the_search(run, moved, tmp_path) -> None:
    volume = read_volume(moved)
    write_volume(tmp_path / "other.mrc", Volume(data=volume.data, pixel_size_angstrom=5.0))
    write_volume(tmp_path / "small.mrc", Volume(data=volume.data[:20, :20, :20], pixel_size_angstrom=PIXEL))
    for name, said in (("other", r"other\.mrc has 5 Å per pixel"), ("small", r"has 20 x 20 x 20 voxels")):
        with pytest.raises(InputError, match=said):
            run("align_symmetry", input=moved, symmetry="C2", follow=[tmp_path / f"{name}.mrc"], dry_run=True)
    made = run("simulate_particles", model=moved, count=4, output=tmp_path / "made").outputs
    with pytest.raises(InputError, match=r"particles\.star has no poses"):
        run("align_symmetry", input=moved, symmetry="C2", particles=made["particles"], dry_run=True)
