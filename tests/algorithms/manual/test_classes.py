"""Several classes by hand: each with its own poses, occupancies from likelihoods, focus, resumed runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from manual_data import BOX, PIXEL, Data, Images, Never, mixed, molecule, refined
from parhelion.algorithms.manual.cycle import compared
from parhelion.algorithms.manual.maps import joined_low
from parhelion.algorithms.manual.problem import make_problem
from parhelion.algorithms.manual.settings import Focus, ManualSettings
from parhelion.algorithms.manual.start import start_state
from parhelion.algorithms.preparation import with_noise_groups
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.errors import Cancelled, InputError, ParameterError
from parhelion.model.occupancy import occupancies, with_occupancies
from parhelion.model.volume import Volume

TWO = {"symmetry": ("C1", "C1")}
MAPS = (molecule(1.5), molecule(0.0))


def accuracy(found, label: np.ndarray) -> float:
    return float((found.particles.class_number - 1 == label[found.rows]).mean())


def column(particles, name: str) -> np.ndarray:
    return np.asarray(particles.extra[f"cisTEM{name}"], float)


@pytest.fixture(scope="module")
def sorted_out(mixture):
    data, _ = mixture
    return refined(data.images, data.near(3.0, 1.0), MAPS, **TWO)


def test_particles_find_their_class_and_tables_agree(mixture, sorted_out) -> None:
    assert accuracy(sorted_out, mixture[1]) > 0.9
    percent = occupancies(sorted_out.particles)
    assert np.allclose(percent.sum(1), 100)
    tables = [one.particles for one in sorted_out.classes]
    assert np.allclose(np.stack([column(t, "Occupancy") for t in tables], 1), percent)
    best = sorted_out.particles.class_number - 1
    for name in ("LogP", "Score", "Sigma", "ScoreChange", "Occupancy"):
        mine = np.stack([column(t, name) for t in tables])[best, np.arange(len(best))]
        assert np.allclose(column(sorted_out.particles, name), mine)
    # one sigma for each particle, whatever the class
    assert np.allclose(column(tables[0], "Sigma"), column(tables[1], "Sigma"))
    assert [t.class_number.tolist() for t in tables] == [[1] * len(best), [2] * len(best)]
    assert not np.allclose(tables[0].rotation, tables[1].rotation)
    assert sum(one.share for one in sorted_out.classes) == pytest.approx(1)


def test_occupancies_follow_log_p_with_the_shares_as_priors(mixture) -> None:
    data, _ = mixture
    start = with_occupancies(data.near(3.0, 1.0), np.tile([80.0, 20.0], (len(data.particles), 1)))
    found = refined(data.images, start, MAPS, **TWO)
    log_p = np.stack([column(one.particles, "LogP") for one in found.classes])
    weight = np.array([[0.8], [0.2]]) * np.exp(log_p - log_p.max(0))
    weight[log_p.max(0) - log_p >= 10] = 0
    assert np.allclose(occupancies(found.particles), 100 * (weight / weight.sum(0)).T)


def test_classification_limit_changes_likelihoods_not_poses(mixture, sorted_out) -> None:
    data, _ = mixture
    found = refined(data.images, data.near(3.0, 1.0), MAPS, class_limit_angstrom=24.0, **TWO)
    for mine, other in zip(found.classes, sorted_out.classes):
        assert np.allclose(mine.particles.rotation, other.particles.rotation)
        assert not np.allclose(column(mine.particles, "LogP"), column(other.particles, "LogP"))


def test_focus_tells_classes_apart_where_it_lies(mixture) -> None:
    data, label = mixture
    near = data.near(3.0, 1.0)
    there, elsewhere = (
        refined(data.images, near, MAPS, focus=Focus(centre_xyz_angstrom=c, radius_angstrom=18.0), **TWO)
        for c in ((24.0, 0.0, 0.0), (-30.0, 0.0, 0.0))
    )
    assert accuracy(there, label) > 0.85 > accuracy(elsewhere, label)


def test_classes_made_from_occupancies_come_apart(mixture) -> None:
    data, label = mixture
    # three quarters are right at the start
    rng = np.random.default_rng(4)
    guess = np.where(rng.random(len(label)) < 0.75, label, 1 - label)
    start = with_occupancies(data.near(2.0, 1.0), 100.0 * (guess[:, None] == np.arange(2)))
    found = refined(data.images, start, (), cycles=4, half_sets="cistem", **TWO)
    assert accuracy(found, label) > 0.85
    shares = [(row["share_1"], row["share_2"]) for row in found.history]
    assert all(a + b == pytest.approx(1) for a, b in shares)
    assert found.history[0]["occupancy_change_percent"] > found.history[-1]["occupancy_change_percent"]


def test_class_numbers_are_a_start_too_and_chance_where_there_are_none(mixture) -> None:
    data, label = mixture
    numbered = replace(data.particles, class_number=label + 1)
    known = refined(data.images, numbered, (), parameters=(), **TWO)
    assert accuracy(known, label) > 0.9
    unknown = refined(data.images, data.particles, (), parameters=(), **TWO)
    assert 0.3 < unknown.classes[0].share < 0.7


def test_each_class_goes_on_from_its_own_poses(mixture, sorted_out) -> None:
    data, _ = mixture
    tables = tuple(one.particles for one in sorted_out.classes)
    keywords = {"class_poses": tables}
    found = refined(data.images, data.near(3.0, 1.0), MAPS, keywords, parameters=(), **TWO)
    for mine, table in zip(found.classes, tables):
        assert np.allclose(mine.particles.rotation, table.rotation)
    # scores of the tables are what they changed from
    assert np.abs(column(found.classes[0].particles, "ScoreChange")).max() > 0
    with pytest.raises(ParameterError, match="1 tables of poses for 2 classes"):
        refined(data.images, data.near(), MAPS, {"class_poses": tables[:1]}, **TWO)


def test_each_class_has_its_symmetry(mixture) -> None:
    data, _ = mixture
    found = refined(data.images, data.near(), (), parameters=(), symmetry=("C1", "C2"))
    turned = [np.roll(one.map.data[:, ::-1, ::-1], (1, 1), (1, 2)) for one in found.classes]
    inside = (slice(None), slice(1, None), slice(1, None))
    unlike = [
        np.abs(one.map.data[inside] - t[inside]).max() / one.map.data.max()
        for one, t in zip(found.classes, turned)
    ]
    assert unlike[1] < 0.05 < unlike[0]


class StopsAfter:
    """Stops a run at the first check after so many cycles."""

    def __init__(self, folder: Path, cycles: int) -> None:
        self.folder, self.cycles = folder, cycles

    def check(self) -> None:
        if len(list(self.folder.glob("cycle_*.npz"))) >= self.cycles:
            raise Cancelled("stopped")


class Hears(SilentObserver):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)


def test_a_stopped_run_goes_on_to_the_same_result(mixture, tmp_path) -> None:
    data, _ = mixture
    near = data.near(3.0, 1.0)
    whole = refined(data.images, near, MAPS, cycles=2, **TWO)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with pytest.raises(Cancelled):
        refined(
            data.images, near, MAPS, {"checkpoints": folder, "cancel": StopsAfter(folder, 1)}, cycles=2, **TWO
        )
    heard = Hears()
    found = refined(
        data.images, near, MAPS, {"checkpoints": folder, "resume": True, "observer": heard}, cycles=2, **TWO
    )
    assert "going on after cycle 1" in heard.notices
    assert np.array_equal(found.particles.rotation, whole.particles.rotation)
    assert np.array_equal(found.classes[1].map.data, whole.classes[1].map.data)
    assert found.history == whole.history
    with pytest.raises(ParameterError, match="other particles, other references or other parameters"):
        refined(
            data.images,
            near,
            MAPS,
            {"checkpoints": folder, "resume": True},
            cycles=2,
            percent_used=50.0,
            **TWO,
        )


def test_damaged_checkpoints_are_passed_over_and_cycles_added(mixture, tmp_path) -> None:
    data, _ = mixture
    near = data.near(3.0, 1.0)
    keywords = {"checkpoints": tmp_path}
    refined(data.images, near, MAPS, keywords, cycles=2, **TWO)
    last = sorted(tmp_path.glob("cycle_*.npz"))[-1]
    last.write_bytes(last.read_bytes()[:3000])
    heard = Hears()
    found = refined(data.images, near, MAPS, {**keywords, "resume": True, "observer": heard}, cycles=3, **TWO)
    assert any("is damaged" in n for n in heard.notices) and "going on after cycle 1" in heard.notices
    assert len(found.history) == 3


@pytest.mark.parametrize("half_sets", ["gold", "cistem"])
def test_classes_come_apart_from_random_occupancies(half_sets: str) -> None:
    data, label = mixed(0.3, each=120)
    settings = {"cycles": 12, "parameters": (), "class_limit_angstrom": 20.0, "seed": 3, **TWO}
    found = refined(data.images, data.near(2.0, 1.0), (), half_sets=half_sets, **settings)
    right = accuracy(found, label)
    # which class is called the first is chance, but it must be the same one in both half sets
    assert max(right, 1 - right) > 0.9


def test_a_class_that_loses_all_its_particles_keeps_its_map(mixture) -> None:
    data, label = mixture
    ours = Data(
        data.particles.take(np.flatnonzero(label == 0)), Images(data.images.data[label == 0]), data.truth
    )
    junk = Volume(
        data=np.random.default_rng(1).normal(0, 1, (BOX,) * 3).astype(np.float32), pixel_size_angstrom=PIXEL
    )
    with pytest.raises(InputError, match="class has lost its particles"):
        settings = {"parameters": (), "normalise_reference": False, **TWO}
        refined(ours.images, ours.particles, (MAPS[0], junk), **settings)
    start = with_occupancies(ours.particles, np.tile([99.0, 1.0], (len(ours.particles), 1)))
    heard = Hears()
    found = refined(
        ours.images, start, (), {"observer": heard}, cycles=2, parameters=(), score_threshold=99.9, **TWO
    )
    assert any("keeps its maps" in notice for notice in heard.notices) and len(found.classes) == 2


def test_classes_and_chunks_without_particles_are_no_obstacle(data) -> None:
    """A class that is nobody's likeliest, images that cannot be used for longer than a chunk."""
    images = data.images.data.copy()
    images[:70] = np.nan
    count: list[int] = []
    focus = Focus(centre_xyz_angstrom=(0.0, 0.0, 0.0), radius_angstrom=30.0)
    for settings in ({"focus": focus}, {"signed_limit_angstrom": 30.0}, {"parameters": ("theta", "x")}):
        found = refined(
            Images(images),
            with_occupancies(data.near(), np.tile([90.0, 10.0], (len(images), 1))),
            (data.truth, data.truth),
            {"projections": lambda first, made, total: count.append(len(made))},
            **settings,
            **TWO,
        )
        assert found.rows.tolist() == list(range(70, len(images)))
    assert sum(count) == 3 * (len(images) - 70)


def test_halves_of_several_classes_share_coarse_detail_only() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn((2, 16, 16, 16), generator=generator)
    a, b = (torch.fft.rfftn(m) for m in joined_low([first, second], 4.0))
    assert torch.allclose(a[3, 0, 0], b[3, 0, 0]) and torch.allclose(a[0, 0, 4], b[0, 0, 4])
    assert torch.allclose(
        a[0, 0, 3], (torch.fft.rfftn(first) + torch.fft.rfftn(second))[0, 0, 3] / 2, atol=1e-3
    )
    assert torch.allclose(a[5, 0, 0], torch.fft.rfftn(first)[5, 0, 0], atol=1e-3)


@pytest.mark.parametrize(("mode", "times"), [("local", 1), ("global", 3)])
def test_all_classes_see_images_that_are_read_once(mixture, mode, times) -> None:
    """Without memory to keep them in; the tables of slices of a search are one class's at a time."""
    data, _ = mixture

    class Counting(Images):
        read = 0

        def images(self, views: np.ndarray) -> np.ndarray:
            Counting.read += len(views)
            return super().images(views)

    particles = with_noise_groups(data.near())
    usual = {"outer_radius_angstrom": 52.0, "global_radius_angstrom": 52.0, "high_limit_angstrom": 16.0}
    problem = make_problem(
        particles,
        Counting(data.images.data),
        ManualSettings(**usual, symmetry=("C1",) * 3, mode=mode, angular_step_deg=45.0, top=2),
        None,
        executor=SerialExecutor(),
        observer=SilentObserver(),
        cancel=Never(),
        device=torch.device("cpu"),
        available_bytes=1,
    )
    state = start_state(problem, particles, (molecule(0.0),) * 3, ())
    Counting.read = 0
    rows, rng = np.arange(len(particles)), np.random.default_rng(1)
    every = compared(problem, state, rows, rng)
    looks = 1 if mode == "local" else 2  # at what is searched, and at what is refined
    assert Counting.read == times * looks * len(rows)
    for mine in every:
        assert np.array_equal(np.sort(np.concatenate([one.rows for one in mine])), rows)
