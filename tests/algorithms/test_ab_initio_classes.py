"""Several classes from nothing: two molecules in one stack come apart, and the particles know theirs."""

from dataclasses import replace

import numpy as np
import pytest

from parhelion.algorithms.ab_initio import AbInitioSettings, ab_initio, reordered
from parhelion.algorithms.ab_initio_poses import shares_of
from parhelion.algorithms.map_alignment import align_maps
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.errors import ParameterError
from parhelion.model.occupancy import occupancies, with_occupancies
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

BOX, PIXEL = 32, 4.0
FIRST, SECOND = 240, 160
PER_VIEW = (
    "optics_group",
    "defocus_u_angstrom",
    "defocus_v_angstrom",
    "defocus_angle_deg",
    "phase_shift_deg",
    "ctf_bfactor_angstrom2",
    "ctf_scale",
    "noise_group",
)


class Never:
    def check(self) -> None:
        pass


class Images:
    def __init__(self, images: np.ndarray) -> None:
        self.all = images
        self.box = images.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.all[views]


class Rounds(SilentObserver):
    def __init__(self) -> None:
        self.rows: list[dict] = []

    def record(self, table: str, **values) -> None:
        self.rows.append(values)


# Å from the centre, x y z: a bent rod, and a compact cluster with one arm.
ROD = ((-40, -8, 0), (-28, 0, 2), (-14, 5, 0), (0, 7, -3), (14, 5, 0), (28, -2, 6), (38, -12, 12))
CLUSTER = ((-14, -12, -8), (12, -14, 4), (14, 12, -10), (-10, 14, 10), (2, 0, 16), (0, 4, -16), (4, 6, 30))


def blobs(centres: tuple[tuple[float, float, float], ...]) -> Volume:
    z, y, x = (np.indices((BOX,) * 3) - BOX // 2) * PIXEL
    data = np.zeros((BOX,) * 3)
    for a, b, c in centres:
        data += np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * 6.0**2))
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=PIXEL)


@pytest.fixture(scope="module")
def mixture():
    """Two molecules at 60:40 and who is who."""
    truths = [blobs(ROD), blobs(CLUSTER)]
    made = [
        simulate_particles(truth, count, snr=1.0, shift_angstrom=3.0, seed=seed)
        for seed, (truth, count) in enumerate(zip(truths, (FIRST, SECOND)), 3)
    ]
    count = FIRST + SECOND
    images = np.concatenate([one.images(np.arange(len(one.particles))) for one in made])
    tables = [one.particles.views for one in made]
    columns = {name: np.concatenate([getattr(t, name) for t in tables]) for name in PER_VIEW}
    views = replace(
        tables[0],
        **columns,
        particle=np.arange(count),
        path_id=np.zeros(count, int),
        image_index=np.arange(count),
    )
    particles = ParticleSet(optics=made[0].particles.optics, views=views, count=count)
    return truths, particles, Images(images), np.repeat([0, 1], (FIRST, SECOND))


def search(mixture, observer=None, references=(), **options):
    _, particles, images, _ = mixture
    settings = AbInitioSettings(
        **{
            "diameter_angstrom": 110.0,
            "classes": 2,
            "starts": 1,
            "final_resolution_angstrom": 16.0,
            **options,
        }
    )
    return ab_initio(
        particles,
        images,
        settings,
        executor=SerialExecutor(),
        observer=observer or SilentObserver(),
        cancel=Never(),
        references=references,
    )


def test_two_molecules_come_apart(mixture):
    truths, particles, _, true = mixture
    observer = Rounds()
    found = search(mixture, observer, rounds=15, seed=1)
    likeness = [[np.mean(align_maps(one, truth).fsc[1:8]) for truth in truths] for one in found.volumes]
    order = [0, 1] if likeness[0][0] > likeness[0][1] else [1, 0]
    for k in (0, 1):
        assert likeness[k][order[k]] > 0.6
        assert likeness[k][order[k]] > likeness[k][order[1 - k]] + 0.12
    assert len(found.particles) == len(particles)
    assigned = np.array(order)[found.particles.class_number - 1]
    assert (assigned == true).mean() > 0.9
    percent = occupancies(found.particles)
    np.testing.assert_allclose(percent.sum(1), 100, atol=0.01)
    assert found.shares[0] >= found.shares[1]
    assert found.shares[0] == pytest.approx(percent[:, 0].mean() / 100, abs=0.01)
    assert found.shares[0] == pytest.approx(FIRST / (FIRST + SECOND), abs=0.12)
    sigma = [row["sigma"] for row in observer.rows]
    assert sigma[-1] < 0.95 * sigma[0]
    assert observer.rows[-1]["share_1"] + observer.rows[-1]["share_2"] == pytest.approx(1.0)


def test_given_maps_are_where_a_start_begins(mixture):
    """Whatever their grid and grey scale: two rounds from the truth know what two from nothing do not."""
    truths, _, _, true = mixture
    given = [Volume(data=1e3 * truth.data, pixel_size_angstrom=PIXEL) for truth in truths]
    found = search(mixture, references=given, rounds=2)
    assigned = found.particles.class_number - 1
    right = max((assigned == true).mean(), (assigned != true).mean())
    assert right > 0.9
    with pytest.raises(ParameterError, match="one map is needed for each class"):
        search(mixture, references=given[:1], rounds=2)


def test_shares_and_posteriors_from_what_classes_explain():
    explained = np.log([[0.8, 0.1], [0.7, 0.2], [0.1, 0.6], [0.5, 0.5]])
    share, posterior = shares_of(explained)
    np.testing.assert_allclose(posterior.mean(0), share, atol=1e-3)
    expected = np.exp(explained) * share
    np.testing.assert_allclose(posterior, expected / expected.sum(1, keepdims=True), atol=1e-3)
    assert share[0] > 0.5


def test_classes_are_numbered_by_size(mixture):
    _, particles, _, _ = mixture
    percent = np.tile([10.0, 90.0], (len(particles), 1))
    swapped = reordered(with_occupancies(particles, percent), np.array([1, 0]))
    assert (swapped.class_number == 1).all()
    np.testing.assert_allclose(occupancies(swapped)[0], [90.0, 10.0])
