"""Maps from known poses: what went in comes out, with its scale, symmetry and half sets."""

from dataclasses import replace

import numpy as np
import pytest

from parhelion.algorithms.particle_weights import WeightSettings
from parhelion.algorithms.reconstruct import (
    ReconstructSettings,
    reconstruct,
    reconstruct_maps,
    sum_particles,
)
from parhelion.algorithms.reconstruct_solve import solve_maps
from parhelion.algorithms.reconstruct_sums import as_arrays, from_arrays, merged
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.fourier.shells import fsc
from parhelion.geometry.symmetry import symmetry_group
from parhelion.model.occupancy import with_occupancies
from parhelion.model.volume import Volume

BOX, PIXEL, COUNT = 32, 4.0, 200


class Images:
    def __init__(self, data: np.ndarray) -> None:
        self.data, self.box = data, data.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.data[views]


class Listening(SilentObserver):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def notice(self, message: str) -> None:
        self.heard.append(message)


class Never:
    def check(self) -> None:
        pass


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As the runner's executor: chunks do not compete with torch's own threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def molecule(box: int = BOX, symmetry: str = "C1") -> Volume:
    rng = np.random.default_rng(5)
    z, y, x = np.indices((box,) * 3) - box // 2
    data = np.zeros((box,) * 3)
    for centre in rng.uniform(-0.2 * box, 0.2 * box, (8, 3)):
        for operator in symmetry_group(symmetry).operators:
            cx, cy, cz = operator @ centre
            data += np.exp(-((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) / 4)
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=PIXEL)


def simulated(volume: Volume, snr: float = 1.0, count: int = COUNT):
    made = simulate_particles(volume, count, snr=snr, shift_angstrom=4.0, seed=1)
    return made.particles, made.images(np.arange(count))


@pytest.fixture(scope="module")
def particles():
    return (*simulated(molecule()), molecule())


def run(table, images, observer=None, mask=None, **settings):
    return reconstruct(
        table,
        Images(images),
        ReconstructSettings(**settings),
        executor=SerialExecutor(),
        observer=observer or SilentObserver(),
        cancel=Never(),
        mask=mask,
    )


def test_the_map_and_its_half_maps(particles) -> None:
    table, images, volume = particles
    found = run(table, images)
    assert fsc(found.map.data * found.mask.data, volume.data)[1:10].mean() > 0.95
    assert found.curves.resolution_angstrom < 14
    assert sorted(np.bincount(found.half)[1:]) == [COUNT // 2, COUNT // 2]
    for half in found.half_maps:
        assert 0.5 < fsc(half.data, volume.data)[2:8].mean() < 1
    assert not len(found.unusable)


@pytest.mark.parametrize("box", [32, 33])
def test_odd_and_even_boxes_keep_the_centre(box) -> None:
    """Half a pixel of error would leave 0.7 of the correlation at shell 8."""
    volume = molecule(box)
    found = run(*simulated(volume, snr=20.0), halves=False)
    assert fsc(found.map.data, volume.data)[1:9].min() > 0.98


def test_one_map_without_half_sets(particles) -> None:
    table, images, volume = particles
    found = run(table, images, halves=False)
    assert found.half_maps is None
    assert found.curves is None
    assert found.half is None
    assert fsc(found.map.data, volume.data)[1:9].mean() > 0.9


def test_symmetry_makes_the_most_of_few_particles() -> None:
    volume = molecule(symmetry="D2")
    table, images = simulated(volume, snr=0.3, count=60)
    alone = run(table, images).curves.unmasked
    found = run(table, images, symmetry="D2")
    assert found.curves.unmasked[2:10].mean() > alone[2:10].mean() + 0.1
    inner = found.map.data[1:, 1:, 1:]
    assert np.corrcoef(inner.ravel(), inner[:, ::-1, ::-1].ravel())[0, 1] > 0.999


def test_the_tables_half_sets_are_used(particles) -> None:
    table, images, _ = particles
    half = np.where(np.arange(COUNT) < 50, 1, 2)
    assert run(replace(table, half=half), images).half.tolist() == half.tolist()
    observer = Listening()
    mixed = half.copy()
    mixed[0] = 0
    run(replace(table, half=mixed), images, observer=observer)
    assert any("split anew" in note for note in observer.heard)


def test_a_wrong_sign_of_the_shift_would_show(particles) -> None:
    table, images, volume = particles
    wrong = table.with_poses(table.rotation, -table.shift_xyz_angstrom)
    right = fsc(run(table, images, halves=False).map.data, volume.data)[4:9].mean()
    assert fsc(run(wrong, images, halves=False).map.data, volume.data)[4:9].mean() < right - 0.2


def test_the_resolution_limit_is_kept(particles) -> None:
    table, images, _ = particles
    found = run(table, images, halves=False, resolution_limit_angstrom=20.0)
    power = np.abs(np.fft.fftn(found.map.data))
    k = np.fft.fftfreq(BOX, PIXEL)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)
    assert power[radius > 1 / 11].max() < 0.03 * power.max()


def test_bad_images_are_named_and_left_out(particles) -> None:
    table, images, volume = particles
    data = images.copy()
    data[:70] = np.nan
    observer = Listening()
    found = run(table, data, observer=observer)
    assert found.unusable.tolist() == list(range(70))
    assert "70 of 200" in observer.heard[-1]
    assert "and 65 more" in observer.heard[-1]
    assert np.isfinite(found.map.data).all()
    assert fsc(found.map.data * found.mask.data, volume.data)[1:8].mean() > 0.9


@pytest.mark.parametrize("halves", [True, False])
def test_nothing_but_bad_images_is_an_error(particles, halves) -> None:
    table, images, _ = particles
    with pytest.raises(InputError, match="not finite"):
        run(table, np.zeros_like(images), halves=halves)


def test_what_cannot_be_reconstructed_is_refused(particles) -> None:
    table, images, _ = particles
    with pytest.raises(MetadataError, match="no poses"):
        run(replace(table, rotation=None, shift_xyz_angstrom=None), images)
    with pytest.raises(ParameterError, match="does not fit into the box"):
        run(table, images, diameter_angstrom=400.0)
    with pytest.raises(MetadataError, match="2 particles are too few"):
        run(table.take(np.arange(2)), images)


def test_a_given_mask_serves_the_fsc(particles) -> None:
    from parhelion.images.masks import spherical_mask

    table, images, _ = particles
    mask = Volume(data=spherical_mask(BOX, PIXEL, 30.0, 8.0), pixel_size_angstrom=PIXEL)
    found = run(table, images, mask=mask)
    assert (found.mask.data <= mask.data + 1e-6).all()


def everything(table, images, reference=None, **settings):
    return reconstruct_maps(
        table,
        Images(images),
        ReconstructSettings(**settings),
        executor=SerialExecutor(),
        observer=SilentObserver(),
        cancel=Never(),
        reference=reference,
    )


def similar(a: Volume, b: Volume) -> float:
    return float(np.corrcoef(a.data.ravel(), b.data.ravel())[0, 1])


def extra(table, **columns):
    return replace(table, extra=table.extra.with_columns(columns))


@pytest.fixture(scope="module")
def mixture():
    """Two structures, 120 and 80 particles, with occupancies that are nearly right."""
    first, second = molecule(), Volume(data=molecule().data[::-1].copy(), pixel_size_angstrom=PIXEL)
    one, images = simulated(first, snr=2.0)
    images = images.copy()
    made = simulate_particles(second, COUNT, snr=2.0, shift_angstrom=4.0, seed=1)
    images[120:] = made.images(np.arange(COUNT))[120:]
    percent = np.where((np.arange(COUNT) < 120)[:, None], [90.0, 10.0], [5.0, 95.0])
    return with_occupancies(one, percent), images, first, second


def test_a_map_of_each_class_by_occupancy(mixture) -> None:
    table, images, first, second = mixture
    found = everything(table, images, weights=WeightSettings(classes=(1, 2)))
    assert [one.number for one in found] == [1, 2]
    assert [one.weight for one in found] == pytest.approx([112.0, 88.0])
    assert similar(found[0].map, first) > similar(found[0].map, second) + 0.3
    assert similar(found[1].map, second) > similar(found[1].map, first) + 0.3
    (alone,) = everything(table, images, weights=WeightSettings(classes=(2,)))
    np.testing.assert_allclose(alone.map.data, found[1].map.data, atol=2e-5 * alone.map.data.max())


def test_weights_by_score_keep_bad_particles_out_of_fine_detail(particles) -> None:
    """Half of the particles have poses wrong by 20 degrees, and low scores."""
    from parhelion.geometry.rotations import exp_so3

    table, images, volume = particles
    rng = np.random.default_rng(3)
    wrong = np.arange(COUNT) % 2 == 1
    turn = exp_so3(rng.normal(size=(COUNT, 3)) * np.where(wrong, 0.25, 0.0)[:, None])
    worse = table.with_poses(turn @ table.rotation, table.shift_xyz_angstrom)
    scored = extra(worse, cisTEMScore=np.where(wrong, 0.0, 200.0))

    def detail(**weights):
        (found,) = everything(scored, images, halves=False, weights=WeightSettings(**weights))
        return fsc(found.map.data, volume.data)[8:12].mean()

    plain = detail(score_constant_angstrom2=0.0)
    assert detail(score_constant_angstrom2=10.0) > plain + 0.03
    assert detail(score_threshold=0.5, score_constant_angstrom2=0.0) > plain + 0.03


def test_exposure_restores_what_it_took(particles) -> None:
    """Images damaged by 60 e/A2: the sums know how much signal is left, and give the amplitude back."""
    import torch

    from parhelion.optics.dose import signal_left

    volume = molecule()
    table, images = simulated(volume, snr=20.0)
    k = np.hypot(np.fft.fftfreq(BOX, PIXEL)[:, None], np.fft.rfftfreq(BOX, PIXEL)[None])
    left = signal_left(torch.from_numpy(np.maximum(k.ravel(), 1e-6)), torch.tensor([60.0]), 300.0)
    damaged = np.fft.irfft2(np.fft.rfft2(images) * left.numpy().reshape(k.shape), s=(BOX, BOX))
    seen = extra(table, cisTEMPreExposure=np.full(COUNT, 60.0), cisTEMTotalExposure=np.full(COUNT, 60.0))

    def power(**weights):
        (found,) = everything(seen, damaged, halves=False, weights=WeightSettings(**weights))
        spectrum = np.abs(np.fft.fftn(found.map.data)) ** 2
        f = np.fft.fftfreq(BOX) * BOX
        radius = np.rint(np.sqrt(f[:, None, None] ** 2 + f[None, :, None] ** 2 + f**2))
        return spectrum[radius == 9].mean() / spectrum[radius == 2].mean()

    frequency = torch.tensor([2.0, 9.0]) / (BOX * PIXEL)
    low, high = signal_left(frequency, torch.tensor([60.0]), 300.0)[0].tolist()
    assert power(exposure=True) / power() == pytest.approx((low / high) ** 2, rel=0.1)


def test_parts_add_up_to_the_whole(mixture) -> None:
    table, images, *_ = mixture
    choice = {"weights": WeightSettings(classes=(1, 2)), "symmetry": "C2", "diameter_angstrom": 90.0}

    def part(first, last, **more):
        return sum_particles(
            table,
            Images(images),
            ReconstructSettings(first=first, last=last, **(choice | more)),
            executor=SerialExecutor(),
            observer=SilentObserver(),
            cancel=Never(),
        )

    parts = [part(1, 61), part(62, 150), part(151, None)]
    again = [from_arrays(*as_arrays(p)) for p in parts]
    total = merged([again[2], again[0], again[1]])
    assert total.missing == 0
    assert total.inserted == COUNT
    settings = ReconstructSettings(**choice)
    whole = everything(table, images, **choice)
    solved = solve_maps(total, settings.solving, executor=SerialExecutor(), observer=SilentObserver())
    for one, other in zip(whole, solved, strict=True):
        top = np.abs(one.map.data).max()
        np.testing.assert_allclose(other.map.data, one.map.data, atol=3e-5 * top)
        for a, b in zip(one.half_maps, other.half_maps, strict=True):
            np.testing.assert_allclose(b.data, a.data, atol=3e-5 * np.abs(a.data).max())
        assert other.curves.resolution_angstrom == pytest.approx(one.curves.resolution_angstrom, abs=1e-4)
    with pytest.raises(InputError, match="particles 1 to 61 are in"):
        merged([parts[0], parts[0]])
    with pytest.raises(InputError, match="not of the same reconstruction"):
        merged([parts[0], part(62, 150, symmetry="C1")])
    assert merged(parts[:2]).missing == 50


def test_first_and_last_choose_particles(particles) -> None:
    table, images, _ = particles
    chosen = everything(table, images, halves=False, first=41, last=120)[0]
    assert chosen.weight == 80
    whole = everything(table, images, halves=False)[0]
    assert 0.5 < similar(chosen.map, whole.map) < 0.999
    with pytest.raises(ParameterError, match="beyond the last of 200"):
        everything(table, images, last=201)
    with pytest.raises(ParameterError, match="--first 201 is beyond the last of 200"):
        everything(table, images, first=201)


def test_even_and_odd_rows_are_half_sets(particles) -> None:
    table, images, _ = particles
    assigned = replace(table, half=np.where(np.arange(COUNT) < 100, 1, 2))
    assert everything(assigned, images, split="even-odd")[0].half.tolist() == [1, 2] * (COUNT // 2)
    random = everything(assigned, images, split="random")[0].half
    assert 20 < (random == assigned.half).sum() < 180


def test_cropped_images_give_nearly_the_same_map(particles) -> None:
    volume = molecule(64)
    table, images = simulated(volume, snr=5.0, count=150)
    plain = everything(table, images, diameter_angstrom=110.0)[0]
    cropped = everything(table, images, diameter_angstrom=110.0, crop=True)[0]
    assert cropped.map.box == 64
    assert cropped.curves.masked.shape == plain.curves.masked.shape
    assert similar(cropped.map, plain.map) > 0.97
    edge = cropped.map.data[:8]
    assert np.ptp(edge) == 0
    with pytest.raises(ParameterError, match="--autocrop needs --diameter"):
        everything(table, images, crop=True)


def test_the_molecule_is_brought_to_the_middle(particles) -> None:
    data = np.roll(molecule().data, (4, -3, 2), axis=(0, 1, 2))
    table, images = simulated(Volume(data=data, pixel_size_angstrom=PIXEL), snr=10.0)
    plain = everything(table, images)[0]
    found = everything(table, images, centre=True)[0]
    pixels = np.round(found.shift_xyz_angstrom / PIXEL)
    np.testing.assert_allclose(pixels, found.shift_xyz_angstrom / PIXEL)
    moved = np.roll(plain.map.data, pixels[::-1].astype(int), axis=(0, 1, 2))
    np.testing.assert_allclose(found.map.data, moved, atol=1e-5 * np.abs(moved).max())
    # of a C2 molecule only the height is free
    up = everything(table, images, centre=True, symmetry="C2")[0].shift_xyz_angstrom
    assert up[:2].tolist() == [0, 0]


def test_radii_mask_the_map(particles) -> None:
    table, images, _ = particles
    found = everything(table, images, outer_radius_angstrom=40.0, inner_radius_angstrom=12.0)[0]
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    assert np.ptp(found.map.data[radius > 62]) < 1e-5 * np.ptp(found.map.data)
    assert found.mask.data[radius < 2].max() < 0.3
    assert found.mask.data[(radius > 20) & (radius < 36)].min() > 0.9
    with pytest.raises(ParameterError, match="must be smaller"):
        everything(table, images, outer_radius_angstrom=40.0, inner_radius_angstrom=50.0)


def test_blank_edges_are_left_out(particles) -> None:
    table, images, _ = particles
    data = images.copy()
    data[:7, :, :6] = 0
    observer = Listening()
    found = run(table, data, observer=observer, exclude_edges=True)
    assert found.unusable.tolist() == list(range(7))
    assert "blank edge (7 of them)" in observer.heard[-1]
    assert not len(run(table, data).unusable)


def test_images_keep_their_scale_where_wanted(particles) -> None:
    """Some images ten times as bright: normalised they count as the others, otherwise they are the map."""
    table, images, _ = particles
    loud = images.copy()
    loud[:60] *= 10
    same = everything(table, loud, halves=False)[0].map
    np.testing.assert_allclose(same.data, everything(table, images, halves=False)[0].map.data, atol=1e-4)
    kept = everything(table, loud, halves=False, normalise=False)[0].map
    few = everything(table, images, halves=False, last=60)[0].map
    assert similar(kept, few) > similar(same, few) + 0.05


def test_padding_samples_the_sums_finer(particles) -> None:
    table, images = simulated(molecule(), snr=20.0)
    volume = molecule()
    coarse, fine = (
        fsc(everything(table, images, halves=False, padding=p)[0].map.data, volume.data)[1:9].mean()
        for p in (1.0, 2.0)
    )
    assert fine > coarse


def test_blurring_follows_the_likelihood() -> None:
    """Poses off by some degrees and pixels: blurring against the right map brings the detail back."""
    from parhelion.geometry.rotations import exp_so3

    volume = molecule()
    table, images = simulated(volume, snr=0.3)
    rng = np.random.default_rng(4)
    turn = exp_so3(np.array([0.0, 0.0, 1.0]) * rng.normal(0, 0.12, (COUNT, 1)))
    shift = table.shift_xyz_angstrom + np.c_[rng.normal(0, 3.5, (COUNT, 2)), np.zeros(COUNT)]
    worse = table.with_poses(turn @ table.rotation, shift)

    def detail(**options):
        found = everything(worse, images, halves=False, diameter_angstrom=100.0, **options)[0]
        return fsc(found.map.data, volume.data)[6:12].mean()

    plain, sharp = detail(), detail(reference=volume)
    assert sharp > plain + 0.15
    assert detail(reference=volume, smoothing=0.1) != sharp
    assert detail(reference=volume, blur_resolution_angstrom=30.0) != sharp
    with pytest.raises(InputError, match="do not correlate"):
        detail(reference=Volume(data=-volume.data, pixel_size_angstrom=PIXEL))
