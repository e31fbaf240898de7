"""Every option of an ab-initio search changes what it should, on few particles and rounds."""

import numpy as np
import pytest

from parhelion.algorithms.ab_initio import AbInitioSettings, ab_initio
from parhelion.algorithms.ab_initio_start import on_axes
from parhelion.algorithms.map_alignment import align_maps
from parhelion.algorithms.map_comparison import Pose, moved_volume
from parhelion.algorithms.simulate.demo_molecule import demo_molecule
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.algorithms.symmetry_search import symmetry_as_it_lies
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.errors import InputError
from parhelion.fourier.shells import fsc
from parhelion.geometry.rotations import angle_between, from_relion, random_rotations
from parhelion.geometry.symmetry import symmetry_group
from parhelion.images.masks import radius_grid
from parhelion.model.volume import Volume

BOX, PIXEL, COUNT = 32, 6.0, 120


class Never:
    def check(self) -> None:
        pass


class Rounds(SilentObserver):
    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.notes: list[str] = []

    def notice(self, message: str) -> None:
        self.notes.append(message)

    def record(self, table: str, **values) -> None:
        self.rows.append(values)


class Images:
    box = BOX

    def __init__(self, simulated) -> None:
        self.all = simulated.images(np.arange(COUNT))

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.all[views]


@pytest.fixture(scope="module")
def case():
    truth = demo_molecule(BOX, PIXEL, symmetry=symmetry_group("C2"), diameter_angstrom=130.0)
    simulated = simulate_particles(truth, COUNT, snr=1.0, shift_angstrom=4.0, seed=3)
    return truth, simulated, Images(simulated)


def search(case, references=(), **options):
    """A result and the rows of its rounds."""
    _, simulated, images = case
    observer = Rounds()
    settings = AbInitioSettings(
        **{
            "diameter_angstrom": 140.0,
            "starts": 1,
            "rounds": 2,
            "final_resolution_angstrom": 20.0,
            **options,
        }
    )
    kept = []
    found = ab_initio(
        simulated.particles,
        images,
        settings,
        executor=SerialExecutor(),
        observer=observer,
        cancel=Never(),
        references=references,
        round_done=lambda start, number, volumes: kept.append((start, number, volumes)),
    )
    return found, observer.rows, kept


def nothing_but_noise() -> Volume:
    """A map that no symmetry explains."""
    data = np.random.default_rng(3).normal(size=(BOX,) * 3).astype(np.float32)
    return Volume(data=data, pixel_size_angstrom=PIXEL)


def shell_share(volume: Volume, low: float, high: float) -> float:
    """Share of the map's power between two radii in Å."""
    radius = radius_grid(volume.data.shape) * volume.pixel_size_angstrom
    power = volume.data.astype(float) ** 2
    return float(power[(radius >= low) & (radius < high)].sum() / power.sum())


def test_a_start_goes_on_from_the_previous(case):
    again, _, kept = search(case, starts=2, start_from="previous")
    apart, _, other = search(case, starts=2)
    assert [(start, number) for start, number, _ in kept] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    np.testing.assert_array_equal(kept[1][2][0].data, other[1][2][0].data)

    def like_the_last(maps) -> float:
        return float(np.mean(fsc(maps[1][2][0].data, maps[2][2][0].data)[2:6]))

    assert like_the_last(kept) > like_the_last(other) + 0.1
    assert len(again.starts) == len(apart.starts) == 2


def test_poses_go_on_from_a_reference(case):
    """From the truth two rounds place the particles; their poses are refined beyond the grid's 15°."""
    truth, simulated, _ = case
    found, _, _ = search(case, references=[truth], symmetry="C1", rounds=4)
    right = simulated.particles.rotation
    operators = symmetry_group("C2").operators
    wrong = np.min(
        [angle_between(found.particles.rotation, right @ operator) for operator in operators], axis=0
    )
    assert np.median(wrong) < 8
    columns = found.particles.extra
    probability = np.asarray(columns["rlnMaxValueProbDistribution"], float)
    assert ((probability > 0) & (probability <= 1)).all()
    assert np.asarray(columns["parhelionOccupancy1"], float) == pytest.approx(100.0)


def test_a_reference_without_density_is_refused(case):
    empty = Volume(data=np.zeros((BOX,) * 3, np.float32), pixel_size_angstrom=PIXEL)
    with pytest.raises(InputError, match="no finite density"):
        search(case, references=[empty])


def test_symmetry_from_the_first_round_or_found_later(case):
    def twofold(kept) -> float:
        """How much the last round's map is like itself after half a turn about z."""
        data = kept[-1][2][0].data
        turned = np.roll(data[:, ::-1, ::-1], (1, 1), axis=(1, 2))
        return float(np.mean(fsc(data, turned)[3:9]))

    always, _, first = search(case, symmetry="C2", impose="always")
    later, _, last = search(case, symmetry="C2", impose="later")
    assert always.symmetry_correlation is None
    assert later.symmetry_correlation is not None
    assert twofold(first) > max(0.8, twofold(last) + 0.2)


def test_references_are_brought_to_the_axes_before_symmetry_is_imposed(case):
    truth, _, _ = case
    group, said = symmetry_group("C2"), Rounds()
    assert on_axes([truth], group, said)[0] is truth
    assert said.notes == []
    turn = from_relion(np.array([30.0]), np.array([50.0]), np.array([20.0]))[0]
    pose = Pose(rotation=turn, flipped=False, shift=np.array([0.05, -0.04, 0.03]), score=0.0)
    lying = Volume(data=moved_volume(truth.data, pose), pixel_size_angstrom=PIXEL)
    assert symmetry_as_it_lies(lying, group) < 0.6
    (laid,) = on_axes([lying], group, said)
    assert symmetry_as_it_lies(laid, group) > 0.9
    assert "reference 1 does not lie on the axes of C2" in said.notes[0]
    on_axes([nothing_but_noise()], symmetry_group("D3"), said)
    assert "the symmetry or the map may be wrong" in said.notes[-1]


def test_a_reference_that_lies_anyhow_is_no_worse_where_symmetry_is_imposed(case):
    truth, _, _ = case
    pose = Pose(
        rotation=random_rotations(1, np.random.default_rng(1))[0], flipped=False, shift=np.zeros(3), score=0.0
    )
    lying = Volume(data=moved_volume(truth.data, pose), pixel_size_angstrom=PIXEL)
    for reference in (truth, lying):
        found, _, _ = search(case, references=[reference], symmetry="C2", impose="always")
        laid = align_maps(found.volume, truth, symmetry=symmetry_group("C2")).aligned
        assert np.mean(fsc(laid.data, truth.data)[1:9]) > 0.8


def test_masks_say_where_density_may_be(case):
    plain, _, _ = search(case)
    small, _, _ = search(case, mask_radius_angstrom=30.0)
    hollow, _, _ = search(case, inner_radius_angstrom=30.0)
    assert shell_share(small.volume, 60, 1e3) < 0.2 * shell_share(plain.volume, 60, 1e3)
    assert shell_share(hollow.volume, 0, 12) < 0.2 * shell_share(plain.volume, 0, 12)


def test_the_automatic_mask_empties_the_solvent(case):
    masked, _, _ = search(case, rounds=4)
    open_, _, _ = search(case, rounds=4, automatic_mask=False)
    assert not np.allclose(masked.volume.data, open_.volume.data, atol=1e-3)
    inside = radius_grid((BOX,) * 3) * PIXEL < 70
    quiet = [
        np.mean(np.abs(one.volume.data[inside]) < 1e-3 * one.volume.data.max()) for one in (masked, open_)
    ]
    assert quiet[0] > quiet[1]


def test_a_blurred_posterior_knows_less(case):
    plain, smooth, hard = (
        search(case, **options)[1][0] for options in ({}, {"smoothing": 0.3}, {"blurring": False})
    )
    assert smooth["information_nats"] < plain["information_nats"] < hard["information_nats"]
    assert hard["top_probability"] == pytest.approx(1.0)


def test_particles_of_a_round(case):
    rows = search(case, percent=(25.0, 100.0))[1]
    assert [row["particles"] for row in rows] == [24, 96]
    rows = search(case, asymmetric_units=(40.0, 80.0))[1]
    assert [row["particles"] for row in rows] == [40, 80]
    best, every = (search(case, percent=(50.0, 50.0), best_percent=share)[1] for share in (50.0, 100.0))
    assert [row["particles"] for row in best] == [48, 48]
    assert best[0]["evidence"] > every[0]["evidence"]


def test_resets_of_the_resolution_limit(case):
    rows = search(case, rounds=20, schedule="resets", percent=(10.0, 10.0))[1]
    first = rows[0]["limit_angstrom"]
    back = [row["round"] - 1 for row in rows if row["limit_angstrom"] == pytest.approx(first)]
    assert back == [done for done in range(14) if done % 2 <= 1]
    assert rows[-1]["limit_angstrom"] < first


def test_the_shift_range_and_the_angular_step_widen_the_search(case):
    """More poses spread a posterior over more of them: it knows more than a uniform one."""
    narrow, wide = (search(case, shift_range_angstrom=reach)[0] for reach in (3.0, 30.0))
    reach = [np.abs(one.particles.shift_xyz_angstrom).max() for one in (narrow, wide)]
    assert reach[0] < reach[1]
    coarse, fine = (search(case, angular_step_deg=step)[1][0] for step in (30.0, 12.0))
    assert coarse["information_nats"] != pytest.approx(fine["information_nats"], rel=1e-3)


def test_only_what_the_last_limit_needs_is_kept_of_the_images():
    """cisTEM bins the stack; here transforms end a margin beyond the last limit."""
    from parhelion.algorithms.ab_initio_plan import kept_shell

    assert kept_shell(256, 1.0, 256 / 20) == 15
    assert kept_shell(256, 1.0, 127) == 127
