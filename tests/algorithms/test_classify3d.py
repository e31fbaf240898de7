"""Two structures that differ in one domain, at known poses and near them: who belongs where, how surely."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from parhelion.algorithms.class_setup import set_up_classes
from parhelion.algorithms.classify3d import ClassifySettings, classify3d, resolution_limit
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.model.occupancy import occupancies
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

BOX, PIXEL, COUNT = 28, 4.0, 240


class Never:
    def check(self) -> None:
        pass


class Images:
    def __init__(self, data: np.ndarray) -> None:
        self.data, self.box = data, data.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.data[views]


def molecule(domain: bool) -> Volume:
    """Gaussian blobs; the domain is a large one at (x, y, z) = (24, 0, 0) Å."""
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    rng = np.random.default_rng(5)
    data = np.zeros((BOX,) * 3)
    for cz, cy, cx in rng.uniform(-5, 5, (8, 3)):
        data += np.exp(-((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) / (2 * 1.5**2))
    if domain:
        data += 1.5 * np.exp(-(z**2 + y**2 + (x - 6) ** 2) / (2 * 2.0**2))
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=PIXEL)


def mixed(snr: float, with_domain: float = 2 / 3) -> tuple[ParticleSet, Images, np.ndarray]:
    """Two thirds with the domain, the others without, in random order, and which is which (0 is with)."""
    shares = (round(with_domain * COUNT), COUNT - round(with_domain * COUNT))
    made = [
        simulate_particles(molecule(domain), count, snr=snr, shift_angstrom=4.0, seed=seed)
        for domain, count, seed in zip((True, False), shares, (1, 2))
    ]
    images = np.concatenate([m.images(np.arange(len(m.particles))) for m in made])
    views = [m.particles.views for m in made]
    joined = {
        name: np.concatenate([getattr(v, name) for v in views])
        for name in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg", "phase_shift_deg")
    }
    rest = {
        name: np.resize(getattr(views[0], name), COUNT)
        for name in ("path_id", "optics_group", "ctf_bfactor_angstrom2", "ctf_scale", "noise_group")
    }
    particles = ParticleSet(
        optics=made[0].particles.optics,
        views=replace(views[0], image_index=np.arange(COUNT), particle=np.arange(COUNT), **joined, **rest),
        count=COUNT,
        rotation=np.concatenate([m.particles.rotation for m in made]),
        shift_xyz_angstrom=np.concatenate([m.particles.shift_xyz_angstrom for m in made]),
    )
    order = np.random.default_rng(3).permutation(COUNT)
    label = np.repeat([0, 1], shares)[order]
    return particles.take(order), Images(images[order]), label


@pytest.fixture(scope="module")
def mixture() -> tuple[ParticleSet, Images, np.ndarray]:
    """So noisy that not every particle can be told."""
    return mixed(0.05)


def classified(mixture, observer=None, checkpoints=None, resume=False, references=None, **settings):
    particles, images, _ = mixture
    defaults = {"diameter_angstrom": 80.0, "classes": 2, "rounds": 14, "resolution_limit_angstrom": 10.0}
    return classify3d(
        particles,
        images,
        ClassifySettings(**{**defaults, **settings}),
        executor=SerialExecutor(),
        observer=observer or SilentObserver(),
        cancel=Never(),
        checkpoints=checkpoints,
        resume=resume,
        references=references,
    )


def accuracy(found, label: np.ndarray) -> float:
    right = float((found.particles.class_number - 1 == label).mean())
    return max(right, 1 - right)


def test_a_missing_domain_is_told_and_confidence_is_honest(mixture) -> None:
    found = classified(mixture)
    right = accuracy(found, mixture[2])
    assert right > 0.9
    stated = found.particles.extra["rlnMaxValueProbDistribution"].mean()
    assert abs(stated - right) < 0.08
    assert found.classes[0].share == pytest.approx(2 / 3, abs=0.1)
    domain = [one.map.data[BOX // 2, BOX // 2, BOX // 2 + 6] for one in found.classes]
    assert domain[0] > 1.5 * domain[1]


class Notices(SilentObserver):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, message: str) -> None:
        self.told.append(message)


def test_one_structure_is_not_taken_for_two(mixture) -> None:
    made = simulate_particles(molecule(True), COUNT, snr=0.05, shift_angstrom=4.0, seed=11)
    alike = (made.particles, Images(made.images(np.arange(COUNT))), np.zeros(COUNT))
    told = Notices()
    found = classified(alike, observer=told)
    assert found.pairs[0].alike and found.pairs[0].known < 0.05
    assert any("classes 1 and 2 are alike" in message for message in told.told)
    # nobody is surer of a class than its share allows
    stated = found.particles.extra["rlnMaxValueProbDistribution"]
    assert stated.mean() < found.classes[0].share + 0.03
    told = Notices()
    differ = classified(mixture, observer=told).pairs[0]
    assert not differ.alike and differ.known > 0.5
    assert differ.same_angstrom > found.pairs[0].same_angstrom
    assert not any("alike" in message for message in told.told)


def test_poses_are_searched_everywhere_on_request() -> None:
    particles, images, label = mixed(0.4)
    some = np.arange(100)
    random = Rotation.random(len(some), random_state=6).as_matrix()
    lost = particles.take(some).with_poses(random, np.zeros((len(some), 3)))
    maps = [molecule(True), molecule(False)]
    given = {"references": maps, "rounds": 4, "resolution_limit_angstrom": 12.0}
    found = classified((lost, images, label[some]), align="global", **given)
    assert accuracy(found, label[some]) > 0.85
    apart = Rotation.from_matrix(
        np.swapaxes(particles.rotation[some], 1, 2) @ found.particles.rotation
    ).magnitude()
    assert np.median(np.degrees(apart)) < 12
    kept = classified((lost, images, label[some]), align="none", **given)
    assert accuracy(kept, label[some]) < 0.8


def test_a_focus_away_from_the_domain_does_not_tell_them_apart(mixture) -> None:
    there = classified(mixture, focus=(24.0, 0.0, 0.0, 16.0))
    assert accuracy(there, mixture[2]) > 0.9
    elsewhere = classified(mixture, focus=(-24.0, 0.0, 0.0, 8.0))
    assert accuracy(elsewhere, mixture[2]) < 0.75


def test_a_focus_finds_a_domain_that_one_in_ten_have() -> None:
    rare = mixed(0.05, with_domain=0.1)
    found = classified(rare, focus=(24.0, 0.0, 0.0, 16.0))
    has = rare[2] == 0
    small = found.particles.class_number == 2
    assert small[has].mean() > 0.85 and small[~has].mean() < 0.08
    domain = [one.map.data[BOX // 2, BOX // 2, BOX // 2 + 6] for one in found.classes]
    assert domain[1] > 1.5 * domain[0]
    without = classified(rare).particles.class_number == 2
    assert without[has].mean() < small[has].mean()


def test_random_parts_come_apart_too(mixture) -> None:
    assert accuracy(classified(mixture, start="random"), mixture[2]) > 0.85


def test_occupancies_add_up_and_decide_the_class(mixture) -> None:
    found = classified(mixture, rounds=4)
    percent = occupancies(found.particles)
    np.testing.assert_allclose(percent.sum(1), 100.0)
    np.testing.assert_array_equal(found.particles.class_number, percent.argmax(1) + 1)
    np.testing.assert_allclose(
        percent.max(1) / 100, found.particles.extra["rlnMaxValueProbDistribution"], atol=1e-6
    )


def test_classes_start_from_given_maps(mixture) -> None:
    maps = [replace(m, data=7.0 * m.data) for m in (molecule(True), molecule(False))]
    found = classified(mixture, references=maps, rounds=4)
    assert accuracy(found, mixture[2]) > 0.9
    with pytest.raises(ParameterError, match="one for each"):
        classified(mixture, references=maps, classes=3)
    with pytest.raises(InputError, match="resample"):
        classified(mixture, references=[replace(m, pixel_size_angstrom=3.0) for m in maps])
    with pytest.raises(InputError, match="reference 1 is constant"):
        classified(mixture, references=[replace(m, data=0 * m.data) for m in maps])


def test_classes_of_the_input_are_carried_over(mixture) -> None:
    particles, images, label = mixture
    wrong = np.random.default_rng(8).random(COUNT) < 0.2
    number = np.where(wrong, 1 - label, label) + 1
    carried = replace(particles, class_number=number)
    found = classified((carried, images, label), start="input", rounds=4)
    assert accuracy(found, label) > 0.9
    merged = set_up_classes(found.particles, "1+2,new", seed=2)
    assert len(classified((merged, images, label), start="input", rounds=4).classes) == 2
    with pytest.raises(ParameterError, match="carry 2 classes and 3 are asked for"):
        classified((carried, images, label), start="input", classes=3)
    with pytest.raises(ParameterError, match="no particle"):
        empty = replace(particles, class_number=np.full(COUNT, 2))
        classified((empty, images, label), start="input")


class Interrupts(SilentObserver):
    """Stops the run after so many rounds, as a kill would."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds

    def record(self, table: str, **values: float | int | str) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_killed_run_goes_on_to_the_same_result(mixture, tmp_path) -> None:
    whole = classified(mixture, rounds=4)
    with pytest.raises(KeyboardInterrupt):
        classified(mixture, rounds=4, observer=Interrupts(3), checkpoints=tmp_path)
    resumed = classified(mixture, rounds=4, checkpoints=tmp_path, resume=True)
    assert len(resumed.history) == len(whole.history)
    np.testing.assert_array_equal(resumed.particles.class_number, whole.particles.class_number)
    np.testing.assert_allclose(resumed.classes[0].map.data, whole.classes[0].map.data, atol=1e-6)
    with pytest.raises(ParameterError, match="other parameters"):
        classified(mixture, rounds=5, checkpoints=tmp_path, resume=True)


def test_poses_that_are_off_are_refined_on_request() -> None:
    particles, images, label = mixed(0.4)
    off = Rotation.from_rotvec(np.random.default_rng(4).normal(0, np.radians(5), (COUNT, 3))).as_matrix()
    moved = particles.with_poses(off @ particles.rotation, particles.shift_xyz_angstrom)
    found = classified((moved, images, label), align="local")
    assert accuracy(found, label) > 0.85
    before, after = (
        np.degrees(Rotation.from_matrix(np.swapaxes(particles.rotation, 1, 2) @ r).magnitude())
        for r in (moved.rotation, found.particles.rotation)
    )
    assert np.median(after) < 0.7 * np.median(before)


def test_the_same_seed_gives_the_same_classes(mixture) -> None:
    first, second = (classified(mixture, rounds=4) for _ in range(2))
    np.testing.assert_array_equal(first.particles.class_number, second.particles.class_number)


def test_what_makes_no_sense_is_refused(mixture) -> None:
    with pytest.raises(ParameterError, match="at least 2"):
        ClassifySettings(diameter_angstrom=80.0, classes=1)
    with pytest.raises(ParameterError, match="one for all or one for each"):
        ClassifySettings(diameter_angstrom=80.0, classes=3, symmetry=("C1", "D2"))
    with pytest.raises(ParameterError, match=r"leaves nothing .* give 27 Å or finer"):
        ClassifySettings(diameter_angstrom=80.0, resolution_limit_angstrom=40.0)
    with pytest.raises(ParameterError, match="different symmetry"):
        ClassifySettings(diameter_angstrom=80.0, classes=2, symmetry=("C1", "D2"), start="split")
    with pytest.raises(ParameterError, match="none of split, random, input"):
        ClassifySettings(diameter_angstrom=80.0, start="guess")
    with pytest.raises(ParameterError, match="outside the box"):
        classified(mixture, focus=(200.0, 0.0, 0.0, 10.0))
    with pytest.raises(ParameterError, match="holds the whole particle"):
        classified(mixture, focus=(0.0, 0.0, 0.0, 500.0))
    particles, images, label = mixture
    with pytest.raises(MetadataError, match="refine them first"):
        classified((replace(particles, rotation=None, shift_xyz_angstrom=None), images, label))


def test_the_limit_follows_the_particle_and_stays_above_nyquist() -> None:
    assert resolution_limit(ClassifySettings(diameter_angstrom=280.0), 1.0) == pytest.approx(20.0)
    assert resolution_limit(ClassifySettings(diameter_angstrom=80.0), 4.0) == pytest.approx(8.4)
