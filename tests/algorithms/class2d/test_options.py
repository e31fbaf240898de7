"""Every option shows in the result; a resumed run gives the same bytes."""

import numpy as np
import pytest
import torch

from parhelion.algorithms.class2d.maximisation import centres_of, moved, refilled
from parhelion.errors import ParameterError
from parhelion.run.cancel import CancelFlag
from parhelion.run.executor import ThreadExecutor

QUICK = {"classes": 3, "cycles": 2, "initial_resolution_angstrom": 20.0, "final_resolution_angstrom": 16.0}


@pytest.fixture
def case(class2d):
    """A few images and a function that classifies them."""
    mixed = class2d.mixture(per_view=20, noise=0, snr=1.0)

    def run(listener=None, **options):
        return class2d.classified(mixed, listener, **{**QUICK, **options})

    return run


def rows_of(run, class2d, **options) -> list[dict]:
    heard = class2d.Listener()
    run(heard, **options)
    return heard.rows


def power(images: np.ndarray, low: float, high: float, extent: float = 128.0) -> float:
    """Mean power of images between two resolutions in Å."""
    transform = np.abs(np.fft.fft2(images)) ** 2
    frequency = np.fft.fftfreq(images.shape[-1], 1 / images.shape[-1]) / extent
    radius = np.hypot(frequency[:, None], frequency)
    return float(transform[:, (radius > 1 / low) & (radius < 1 / high)].mean())


def test_resolution_limits_bound_the_averages(case) -> None:
    coarse = case(initial_resolution_angstrom=32.0, final_resolution_angstrom=30.0)
    fine = case(final_resolution_angstrom=12.0)
    assert power(coarse.averages, 22, 14) < 0.1 * power(fine.averages, 22, 14)
    without_low = case(low_resolution_angstrom=45.0)
    assert power(without_low.averages, 130, 60) < 0.1 * power(coarse.averages, 130, 60)


def test_cycles_percent_and_classes(case, class2d) -> None:
    rows = rows_of(case, class2d, cycles=3, percent=50.0)
    assert [row["cycle"] for row in rows] == [1, 2, 3]
    assert {row["particles"] for row in rows} == {30}
    assert case(classes=5).averages.shape[0] == 5


def test_the_shift_range_bounds_shifts(case) -> None:
    wide, narrow = case(shift_range_angstrom=12.0), case(shift_range_angstrom=0.0, centre=False)
    assert np.abs(narrow.shift_angstrom).max() == 0
    assert np.hypot(*wide.shift_angstrom.T).max() > 2


def test_a_finer_angular_step_recovers_finer_angles(case) -> None:
    coarse, fine = (case(angular_step_deg=step, cycles=1) for step in (45.0, 5.0))
    assert fine.evidence.mean() > coarse.evidence.mean() + 0.5


def test_smoothing_spreads_particles_over_classes(case, class2d) -> None:
    sharp, smooth = (rows_of(case, class2d, smoothing=s)[-1] for s in (1.0, 0.1))
    assert smooth["top_probability"] < sharp["top_probability"] - 0.1


def test_the_mask_radius_and_the_automatic_mask_blank_the_outside(case) -> None:
    radius = np.hypot(*(np.indices((32, 32)) - 16)) * 4.0
    plain, tight = case(), case(mask_radius_angstrom=32.0)
    outside = (radius > 50) & (radius < 60)
    assert np.abs(tight.averages[:, outside]).max() == 0 < np.abs(plain.averages[:, outside]).max()
    followed = case(automatic_mask=True)
    assert (followed.averages == 0).sum() > 1.2 * (plain.averages == 0).sum()


def test_centring_moves_averages_and_particles_together(case) -> None:
    moved_, left = case(cycles=4), case(cycles=4, centre=False)
    inside = np.hypot(*centres_of(torch.from_numpy(moved_.averages)).T).mean()
    outside = np.hypot(*centres_of(torch.from_numpy(left.averages)).T).mean()
    assert inside < outside


def test_an_image_moved_by_its_centre_of_mass_is_centred() -> None:
    y, x = np.indices((32, 32)) - 16
    image = np.exp(-((x - 3.4) ** 2 + (y + 2.2) ** 2) / 10)
    images = torch.from_numpy(image[None].astype(np.float32))
    centre = centres_of(images)
    np.testing.assert_allclose(centre, [[3.4, -2.2]], atol=0.1)
    np.testing.assert_allclose(centres_of(moved(images, centre)), [[0, 0]], atol=0.1)


def test_start_averages_differ_more_the_fewer_particles_they_have(case) -> None:
    few, many = (case(start_average=n).start for n in (3, 30))
    spread = [start.std(axis=0).mean() / np.abs(start.mean(axis=0)).mean() for start in (few, many)]
    assert spread[0] > 1.5 * spread[1]


def test_references_are_the_start(case, class2d) -> None:
    first = case(cycles=4)
    heard = class2d.Listener()
    again = case(heard, references=first.averages, classes=None, cycles=1)
    assert again.averages.shape == first.averages.shape
    shown = first.share > 0.1
    for mine, given in zip(again.start[shown], first.averages[shown]):
        assert np.corrcoef(mine.ravel(), given.ravel())[0, 1] > 0.99
    assert again.evidence.mean() > case(cycles=1).evidence.mean() + 1


def test_the_seed_decides(case) -> None:
    a, b, c = case(seed=3), case(seed=3), case(seed=4)
    np.testing.assert_array_equal(a.averages, b.averages)
    assert not np.allclose(a.averages, c.averages, atol=1e-3)


def test_noisy_images_count_less_and_weak_ones_are_scaled(class2d) -> None:
    """Images with twice the noise show half the signal once normalised; others are dirty inside the mask."""
    mixed = class2d.mixture(per_view=40, noise=0, snr=1.0)
    rng = np.random.default_rng(3)
    kind = rng.integers(0, 3, 120)  # plain, weak, dirty
    noise = rng.normal(size=mixed.images.data.shape)
    inside = np.hypot(*(np.indices((32, 32)) - 16)) < 9
    noise[kind == 1] *= np.sqrt(3)
    noise[kind == 2] *= np.where(inside, 1.2, 0)
    noise[kind == 0] = 0
    mixed.images.data[:] += noise
    settings = {"classes": 3, "cycles": 6, "final_resolution_angstrom": 12.0}
    own = class2d.classified(mixed, **settings)
    plain, weak, dirty = ((own.sigma[kind == k].mean(), own.scale[kind == k].mean()) for k in range(3))
    assert weak[1] < 0.75 * plain[1]
    assert dirty[0] > 1.08 * max(plain[0], weak[0])
    assert np.mean(own.sigma**2) == pytest.approx(1, abs=0.05)
    off = class2d.classified(mixed, own_sigma=False, own_scale=False, **settings)
    assert set(off.sigma) == {1.0} == set(off.scale)


def test_an_empty_class_gets_half_of_the_largest() -> None:
    averages = torch.arange(3.0)[:, None, None].expand(3, 4, 4)
    halves = (averages + 10, averages + 20)
    made, size, pairs = refilled(averages, halves, np.array([60.0, 0.5, 30.0]))
    assert pairs == [(1, 0)]
    assert made[:, 0, 0].tolist() == [10, 20, 2]
    np.testing.assert_array_equal(size, [30, 30, 30])
    assert refilled(averages, halves, np.array([30.0, 25, 30]))[2] == []


class Stop(Exception):
    """Ends a run after a cycle, as a kill would."""


def test_a_resumed_run_gives_the_same_bytes(case, class2d, tmp_path, monkeypatch) -> None:
    whole = case(cycles=4)
    from parhelion.algorithms.class2d import checkpoint

    save = checkpoint.save

    def save_and_stop(folder, state, mark):
        save(folder, state, mark)
        if state.cycle == 2:
            raise Stop

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(Stop):
        case(cycles=4, checkpoints=tmp_path)
    monkeypatch.setattr(checkpoint, "save", save)
    heard = class2d.Listener()
    resumed = case(heard, cycles=4, checkpoints=tmp_path, resume=True)
    assert "going on after cycle 2" in heard.notices
    for name in ("averages", "start", "frc", "category", "psi_deg", "shift_angstrom", "probability"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    assert len(list(tmp_path.glob("cycle_*.npz"))) == 2
    (tmp_path / "cycle_004.npz").write_bytes(b"damaged")
    again = case(heard, cycles=4, checkpoints=tmp_path, resume=True)
    assert any("damaged" in note for note in heard.notices)
    np.testing.assert_array_equal(again.averages, whole.averages)
    with pytest.raises(ParameterError, match="other parameters"):
        case(cycles=5, checkpoints=tmp_path, resume=True)


def test_results_do_not_depend_on_the_number_of_workers(class2d) -> None:
    mixed = class2d.mixture(per_view=50, noise=0, snr=1.0)
    pool = ThreadExecutor(2, CancelFlag())
    many = class2d.classified(mixed, executor=pool, **QUICK)
    pool.close()
    np.testing.assert_array_equal(many.averages, class2d.classified(mixed, **QUICK).averages)
