"""Known truth: views and noise separated, poses recovered, confidence calibrated."""

from dataclasses import replace

import numpy as np
import pytest

from parhelion.algorithms.class2d import classify
from parhelion.algorithms.class2d.expectation import expect
from parhelion.algorithms.class2d.problem import make_problem
from parhelion.algorithms.class2d.selection import class_quality, good_classes, judge
from parhelion.algorithms.class2d.settings import Class2dSettings
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.errors import InputError, MetadataError, ParameterError


def purity(category: np.ndarray, view: np.ndarray) -> float:
    """Share of particles that lie in a class of mostly their own view."""
    table = np.zeros((category.max() + 1, view.max() + 2))
    np.add.at(table, (category, view + 1), 1)
    return float(table.max(axis=1).sum() / len(view))


def quality_of(found, diameter):
    return class_quality(found.averages, found.frc, found.extent_angstrom, diameter, 10.0)


def test_views_are_told_apart_and_noise_from_views(found, mixed) -> None:
    assert purity(found.category, mixed.view[found.rows]) > 0.97
    members = np.bincount(found.category)
    assert (np.diff(members) <= 0).all()  # the largest class comes first
    assert found.share.sum() == pytest.approx(1)


def test_classes_of_views_are_good_and_those_of_noise_are_not(found, mixed, class2d) -> None:
    quality = quality_of(found, class2d.DIAMETER)
    good = good_classes(quality.score)
    view = mixed.view[found.rows]
    for number in range(len(good)):
        mine = view[found.category == number]
        if len(mine):
            assert good[number] == (np.mean(mine >= 0) > 0.5)
    selected = good[found.category]
    assert (view[selected] >= 0).mean() > 0.97
    assert selected[view >= 0].mean() > 0.97
    assert (quality.resolution_angstrom[good] < 20).all()


def test_particles_of_good_classes_are_chosen_but_for_strange_ones(found, mixed, class2d) -> None:
    settings = Class2dSettings(diameter_angstrom=class2d.DIAMETER, final_resolution_angstrom=10.0)
    judged = judge(found, settings)
    inside = judged.good[found.category]
    np.testing.assert_array_equal(judged.members, np.bincount(found.category, minlength=6))
    assert judged.chosen[mixed.view[found.rows] >= 0].mean() > 0.95
    assert (found.evidence[judged.chosen] > 0).all() and not judged.chosen[~inside].any()
    evidence, sigma = found.evidence.copy(), found.sigma.copy()
    noise, dirty = np.flatnonzero(judged.chosen)[:7], np.flatnonzero(judged.chosen)[7:12]
    evidence[noise], sigma[dirty] = -1.0, 0.6
    again = judge(replace(found, evidence=evidence, sigma=sigma), settings, judged.threshold)
    assert not again.chosen[noise].any() and not again.chosen[dirty].any()
    assert again.unexplained == judged.unexplained + 7
    assert again.unexplained + again.disturbed == inside.sum() - again.chosen.sum()
    assert judge(found, settings, 1.0).chosen.sum() == 0


def test_angles_and_shifts_are_recovered(found, mixed, class2d) -> None:
    """Up to one angle and one shift per class, which no image shows."""
    errors, offsets = [], []
    view = mixed.view[found.rows]
    for number in range(found.category.max() + 1):
        members = (found.category == number) & (view >= 0)
        if members.sum() < 10:
            continue
        mine = members & (view == np.bincount(view[members]).argmax())
        rows = found.rows[mine]
        difference = np.exp(1j * np.radians(found.psi_deg[mine] - mixed.psi_deg[rows]))
        errors.append(np.degrees(np.angle(difference / (difference.mean() / abs(difference.mean())))))
        psi = np.radians(found.psi_deg[mine])
        design = np.zeros((2 * len(rows), 2))
        design[0::2] = np.stack([np.cos(psi), np.sin(psi)], 1)
        design[1::2] = np.stack([-np.sin(psi), np.cos(psi)], 1)
        moved = (found.shift_angstrom[mine] - mixed.shift_angstrom[rows]).ravel()
        offsets.append(moved - design @ np.linalg.lstsq(design, moved, rcond=None)[0])
    assert np.median(np.abs(np.concatenate(errors))) < 2.5
    assert np.concatenate(offsets).std() < 0.25 * class2d.PIXEL


def test_averages_look_like_the_views_at_their_scale(found, mixed) -> None:
    for number in range(2):
        members = found.category == number
        rows = found.rows[members]
        view = int(np.bincount(mixed.view[rows][mixed.view[rows] >= 0]).argmax())
        turn = np.exp(1j * np.radians(mixed.psi_deg[rows] - found.psi_deg[members])).mean()
        truth = mixed.clean(view, float(np.degrees(np.angle(turn))))
        average = found.averages[number]
        data = np.fft.rfft2(average - average.mean()), np.fft.rfft2(truth - truth.mean())
        product = np.fft.irfft2(data[0] * data[1].conj(), s=truth.shape)  # over all shifts
        scale = product.max() / (truth - truth.mean()).var() / truth.size
        assert product.max() / np.sqrt(average.var() * truth.var()) / truth.size > 0.85
        assert 0.7 < scale < 1.1


@pytest.mark.parametrize("cycle", [0, 1])
def test_stated_probability_is_the_accuracy(class2d, cycle) -> None:
    """With the true views as references, as many choices are right as their probabilities say.

    The first cycle has the whole posterior on one grid, the second one the coarse and the fine grid.
    """
    mixed = class2d.mixture(per_view=150, noise=0, snr=0.01, seed=3)
    settings = Class2dSettings(
        diameter_angstrom=class2d.DIAMETER,
        angular_step_deg=8.0,
        shift_range_angstrom=8.5,
        cycles=1,
        final_resolution_angstrom=12.0,
    )
    problem = make_problem(
        mixed.particles,
        mixed.images,
        settings,
        3,
        executor=SerialExecutor(),
        observer=SilentObserver(),
        cancel=class2d.Never(),
        device="cpu",
        cache_bytes=2**28,
    )
    clean = np.stack([mixed.clean(view) for view in range(3)]).astype(np.float32)
    state = replace(classify.first_state(problem, clean), averages=clean, cycle=cycle)
    found = expect(problem, state, 12.0, problem.rows, 0.3)
    right = float((found.category == mixed.view).mean())
    assert 0.6 < right < 0.95
    assert found.probability.mean() == pytest.approx(right, abs=0.05)


def test_blank_and_broken_images_are_left_out_and_named(class2d) -> None:
    mixed = class2d.mixture(per_view=12, noise=0, snr=1.0)
    mixed.images.data[3] = 0
    mixed.images.data[5, 2, 2] = np.nan
    mixed.images.data[7, :3] = 0.25
    heard = class2d.Listener()
    found = class2d.classified(mixed, heard, classes=2, cycles=2)
    assert set(range(36)) - set(found.rows) == {3, 5}
    assert any("2 images are not finite or constant" in note for note in heard.notices)
    found = class2d.classified(mixed, heard, classes=2, cycles=2, exclude_edges=True)
    assert set(range(36)) - set(found.rows) == {3, 5, 7}
    assert any("1 images with a blank edge" in note and "000008@" in note for note in heard.notices)
    mixed.images.data[:] = 1
    with pytest.raises(InputError, match="none of the 36 images"):
        class2d.classified(mixed, classes=2, cycles=2)


def test_what_cannot_be_classified_is_refused(class2d) -> None:
    mixed = class2d.mixture(per_view=4, noise=0, snr=1.0)
    with pytest.raises(ParameterError, match="12 particles are too few for 20 classes"):
        class2d.classified(mixed, classes=20)
    with pytest.raises(ParameterError, match="does not fit into the box"):
        class2d.classified(mixed, classes=2, diameter_angstrom=500.0)
    with pytest.raises(ParameterError, match="less than 4 pixels"):
        class2d.classified(mixed, classes=2, mask_radius_angstrom=9.0)
    with pytest.raises(ParameterError, match="at least 3 are needed"):
        class2d.classified(mixed, classes=2, initial_resolution_angstrom=100.0)
    with pytest.raises(InputError, match="all 2 references are blank"):
        class2d.classified(mixed, references=np.zeros((2, 32, 32)))
    series = replace(mixed, particles=replace(mixed.particles, count=6))
    with pytest.raises(MetadataError, match="tilt series"):
        class2d.classified(series, classes=2)
