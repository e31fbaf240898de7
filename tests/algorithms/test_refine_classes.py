"""Several structures from one stack, cisTEM's scheme, and options of the whole refinement."""

from dataclasses import replace

import numpy as np
import pytest

from parhelion.algorithms import refine_start
from parhelion.algorithms.class_schedule import settled
from parhelion.algorithms.refine3d import RefineSettings, refine3d
from parhelion.algorithms.refine_classes import ClassesSettings, _classify_settings, refine_classes
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.errors import Cancelled, ParameterError
from parhelion.fourier.shells import fsc
from parhelion.geometry.rotations import align_poses
from parhelion.model.occupancy import occupancies
from parhelion.model.volume import Volume

BOX, PIXEL, COUNT = 32, 4.0, 70
SETTINGS = RefineSettings(
    diameter_angstrom=90.0, initial_resolution_angstrom=20.0, top=4, seed=3, most_rounds=4
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As the runner's executor: chunks do not compete with torch's own threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Images:
    def __init__(self, data: np.ndarray) -> None:
        self.data, self.box = data, data.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.data[views]


class Listening(SilentObserver):
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.tables: set[str] = set()

    def notice(self, message: str) -> None:
        self.heard.append(message)

    def record(self, table: str, **values) -> None:
        self.tables.add(table)


class Never:
    def check(self) -> None:
        pass


def molecule(extra: bool) -> Volume:
    """Blobs; ``extra`` adds a domain at their side."""
    rng = np.random.default_rng(5)
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    centres = list(rng.uniform(-5.5, 5.5, (8, 3)))
    if extra:
        centres += [np.array([7.0, -6.0, 5.0]), np.array([9.0, -5.0, 3.0])]
    data = np.zeros((BOX,) * 3)
    for centre in centres:
        data += np.exp(-((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) / 5)
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=PIXEL)


def mixture(counts: tuple[int, int], snr: float = 0.5):
    """Particles of the molecule with and without the domain, their images, and which is which."""
    made = [
        simulate_particles(molecule(extra), count, snr=snr, shift_angstrom=4.0, seed=number)
        for number, (extra, count) in enumerate(zip((True, False), counts), 1)
    ]
    images = np.concatenate([m.images(np.arange(c)) for m, c in zip(made, counts)])
    whole = simulate_particles(molecule(True), sum(counts), snr=snr, shift_angstrom=4.0, seed=1).particles
    poses, shifts, ctfs = (
        [getattr(m.particles, n) for m in made] for n in ("rotation", "shift_xyz_angstrom", "views")
    )
    views = replace(
        whole.views,
        **{
            name: np.concatenate([getattr(v, name) for v in ctfs])
            for name in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg")
        },
    )
    table = replace(whole, views=views).with_poses(np.concatenate(poses), np.concatenate(shifts))
    return table, images, np.repeat([1, 2], counts)


def common(observer=None, cancel=None) -> dict:
    return {
        "executor": SerialExecutor(),
        "observer": observer or SilentObserver(),
        "cancel": cancel or Never(),
    }


def test_two_structures_are_told_apart_and_refined() -> None:
    table, images, true = mixture((90, 60))
    settings = ClassesSettings(refine=SETTINGS, classes=2, rounds=8, resolution_limit_angstrom=12.0)
    observer = Listening()
    told = []
    found = refine_classes(
        table,
        Images(images),
        molecule(False),
        settings,
        after_round=lambda part, made: told.append((part, made.number)),
        **common(observer),
    )
    number = found.particles.class_number
    right = max((number == true).mean(), (number == 3 - true).mean())
    assert right > 0.9
    assert [one.members for one in found.classes] == sorted(
        (one.members for one in found.classes), reverse=True
    )
    order = (True, False) if (number == true).mean() > 0.5 else (False, True)
    for one, extra in zip(found.classes, order):
        assert one.refined is not None
        curve = fsc(one.refined.map.data * one.refined.mask.data, molecule(extra).data)
        other = fsc(one.refined.map.data * one.refined.mask.data, molecule(not extra).data)
        assert curve[3:9].mean() > other[3:9].mean()
        assert curve[3:8].mean() > 0.8
        rows = number == one.number
        error = align_poses(found.particles.rotation[rows], table.rotation[rows]).error_deg
        assert np.median(error) < 6
    percent = occupancies(found.particles)
    assert percent.shape == (150, 2)
    np.testing.assert_allclose(percent.sum(1), 100, atol=1e-6)
    assert {part for part, _ in told} == {"together", "class_001", "class_002"}
    assert {"rounds, all together", "rounds, classes", "rounds, class 1"} <= observer.tables


def test_in_cistems_scheme_classes_have_nine_rounds_and_ten_angstroms() -> None:
    table, images, _ = mixture((60, 40))
    gold = ClassesSettings(
        refine=replace(SETTINGS, local=True, most_rounds=2), classes=2, rounds=11, align="none"
    )
    done = []
    for scheme in ("gold", "cistem"):
        settings = replace(gold, refine=replace(gold.refine, scheme=scheme))
        found = refine_classes(table, Images(images), molecule(False), settings, **common())
        done.append(sum(row["classes"] == 2 for row in found.classification.history))
    assert done[0] < 9 <= done[1]
    told = _classify_settings(settings, found.together)
    assert told.resolution_limit_angstrom == 10.0
    assert _classify_settings(gold, found.together).resolution_limit_angstrom is None
    chosen = replace(settings, resolution_limit_angstrom=14.0)
    assert _classify_settings(chosen, found.together).resolution_limit_angstrom == 14.0
    # one percent of the particles that change class are too many, after any number of rounds
    assert not settled(told, [{"changed_share": 0.01}], 20, annealed=False)


def test_a_class_of_too_few_is_told_and_keeps_its_map() -> None:
    table, images, _ = mixture((60, 20))
    quick = replace(SETTINGS, most_rounds=2)
    settings = ClassesSettings(refine=quick, classes=3, rounds=4, align="none", symmetry=("C1", "C1", "C2"))
    observer = Listening()
    found = refine_classes(table, Images(images), molecule(True), settings, **common(observer))
    few = [one for one in found.classes if one.refined is None]
    assert few
    assert any("too few to be refined by themselves" in note for note in observer.heard)
    assert all(one.members < 40 or one.refined is not None for one in found.classes)
    assert sorted(one.classified.symmetry for one in found.classes) == ["C1", "C1", "C2"]
    for one in found.classes:
        if one.refined is not None:
            assert one.refined.symmetry == one.classified.symmetry
    assert len(found.particles) == 80
    with pytest.raises(ParameterError, match="one for all or one for each"):
        ClassesSettings(refine=quick, classes=3, symmetry=("C1", "C2"))


def test_classes_go_on_where_they_were_stopped(tmp_path) -> None:
    class StopInSecondClass(Listening):
        def check(self) -> None:
            if "rounds, class 2" in self.tables:
                raise Cancelled("stopped")

    table, images, _ = mixture((50, 50))
    settings = ClassesSettings(refine=replace(SETTINGS, most_rounds=2), classes=2, rounds=4, align="none")
    given = (table, Images(images), molecule(False), settings)
    whole = refine_classes(*given, **common())
    stopping = StopInSecondClass()
    with pytest.raises(Cancelled):
        refine_classes(*given, checkpoints=tmp_path, **common(stopping, stopping))
    observer = Listening()
    again = refine_classes(*given, checkpoints=tmp_path, resume=True, **common(observer))
    assert "rounds, class 1" not in observer.tables
    assert "rounds, class 2" in observer.tables
    np.testing.assert_array_equal(whole.particles.rotation, again.particles.rotation)
    for one, other in zip(whole.classes, again.classes):
        np.testing.assert_array_equal(one.refined.map.data, other.refined.map.data)


@pytest.fixture(scope="module")
def particles():
    made = simulate_particles(molecule(True), COUNT, snr=0.5, shift_angstrom=4.0, seed=1)
    return made.particles, Images(made.images(np.arange(COUNT)))


def test_cistems_scheme_finds_the_structure(particles) -> None:
    table, source = particles
    settings = replace(SETTINGS, scheme="cistem", most_rounds=25)
    found = refine3d(table, source, molecule(True), settings, **common())
    assert np.median(align_poses(found.particles.rotation, table.rotation).error_deg) < 5
    assert found.reason == "Resolution is stable – Auto refine is stopping"
    assert found.scheme == "cistem"
    for row in found.history[1:]:
        assert row["refine_limit_angstrom"] > row["half_resolution_angstrom"]
    assert found.history[-1]["used_share"] == 1
    assert found.curves_of_rounds.shape == (len(found.history), BOX // 2 + 1)


def test_a_share_that_grows(particles, monkeypatch) -> None:
    table, source = particles
    monkeypatch.setattr(refine_start, "FEWEST_USED", 5)
    found = refine3d(
        table, source, molecule(True), replace(SETTINGS, percent=40.0, most_rounds=9), **common()
    )
    shares = [row["used_share"] for row in found.history]
    assert shares[0] == pytest.approx(0.4)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(found.particles) == COUNT
    assert np.median(align_poses(found.particles.rotation, table.rotation).error_deg) < 5


@pytest.mark.parametrize(
    "changed",
    [
        {"scheme": "cistem"},
        {"best_percent": 70.0, "smoothing": 0.5, "centre": True, "low_resolution_angstrom": 60.0},
    ],
)
def test_resuming_gives_the_same_bytes(particles, changed, tmp_path) -> None:
    class StopAfterOne(Listening):
        rounds = 0

        def record(self, table: str, **values) -> None:
            self.rounds += 1

        def check(self) -> None:
            if self.rounds:
                raise Cancelled("stopped")

    table, source = particles
    settings = replace(SETTINGS, most_rounds=2, **changed)
    whole = refine3d(table, source, molecule(True), settings, **common())
    stopping = StopAfterOne()
    with pytest.raises(Cancelled):
        refine3d(table, source, molecule(True), settings, checkpoints=tmp_path, **common(stopping, stopping))
    again = refine3d(table, source, molecule(True), settings, checkpoints=tmp_path, resume=True, **common())
    for one, other in zip((whole.map, *whole.half_maps), (again.map, *again.half_maps)):
        np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(whole.particles.rotation, again.particles.rotation)
    np.testing.assert_array_equal(whole.curves_of_rounds, again.curves_of_rounds)
    with pytest.raises(ParameterError, match="other parameters"):
        other = replace(settings, mask_edge_angstrom=20.0)
        refine3d(table, source, molecule(True), other, checkpoints=tmp_path, resume=True, **common())


def test_radii_bound_the_mask(particles) -> None:
    table, source = particles
    settings = replace(
        SETTINGS, most_rounds=1, automatic_mask=False, outer_radius_angstrom=32.0, inner_radius_angstrom=12.0,
        mask_edge_angstrom=6.0,
    )  # fmt: skip
    found = refine3d(table, source, molecule(True), settings, **common())
    distance = np.sqrt(sum((np.indices((BOX,) * 3) - BOX // 2) ** 2)) * PIXEL
    assert found.mask.data[distance > 39].max() == 0
    assert found.mask.data[distance < 5].max() == 0
    assert found.mask.data[(distance > 13) & (distance < 31)].min() == 1


def test_a_given_mask_gets_the_wanted_edge(particles) -> None:
    table, source = particles
    body = np.zeros((BOX,) * 3, np.float32)
    body[8:24, 8:24, 8:24] = 1
    mask = Volume(data=body, pixel_size_angstrom=PIXEL)
    quick = replace(SETTINGS, most_rounds=1, local=True)
    hard, soft = (
        refine3d(table, source, molecule(True), replace(quick, mask_edge_angstrom=e), mask=mask, **common())
        for e in (None, 16.0)
    )
    between = [((f.mask.data > 0.05) & (f.mask.data < 0.95) & (body == 0)).sum() for f in (hard, soft)]
    assert between[0] == 0
    assert between[1] > 500


def test_a_reference_beside_the_middle_is_centred(particles) -> None:
    table, source = particles
    beside = Volume(data=np.roll(molecule(True).data, (0, 3, -3), axis=(0, 1, 2)), pixel_size_angstrom=PIXEL)
    plain, centred = (
        refine3d(table, source, beside, replace(SETTINGS, most_rounds=2, centre=c), **common())
        for c in (False, True)
    )
    from parhelion.engine.centre import offset_voxels

    off = [offset_voxels(f.map.data * f.mask.data, PIXEL, np.eye(3)[None]) for f in (plain, centred)]
    assert np.abs(off[0]).max() >= 2
    assert np.abs(off[1]).max() <= 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"inner_radius_angstrom": 60.0}, "must be smaller than the outer"),
        ({"low_resolution_angstrom": 25.0}, "too little is left to compare"),
        ({"scheme": "silver"}, "is none of gold, cistem"),
        ({"best_percent": 0.0}, "best percent is 0"),
        ({"smoothing": 1.5}, "smoothing is 1.5"),
    ],
)
def test_settings_that_leave_nothing_are_refused(particles, changed, said) -> None:
    table, source = particles
    with pytest.raises(ParameterError, match=said):
        refine3d(table, source, molecule(True), replace(SETTINGS, **changed), **common())


def test_a_view_of_its_own_is_planned_in_memory() -> None:
    settings = RefineSettings(diameter_angstrom=100.0)
    plain, cropped, local = (
        refine_start.memory_plan(1000, 96, 3.0, replace(settings, **changed), None)
        for changed in ({}, {"autocrop": True}, {"local": True, "autocrop": True})
    )
    assert plain.cache_bytes < cropped.cache_bytes < 2 * plain.cache_bytes
    assert local.cache_bytes == plain.cache_bytes
    enough = plain.fixed_bytes + plain.per_thread_bytes + 20_000_000
    little = refine_start.memory_plan(1000, 96, 3.0, replace(settings, autocrop=True), enough)
    assert little.cache_bytes == 10_000_000
