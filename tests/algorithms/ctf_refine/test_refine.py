"""What was simulated is found, with errors that are as large as stated."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parhelion.algorithms.ctf_refine import picture, refine, search
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.model.table import Table
from parhelion.model.volume import Volume
from parhelion.optics.astigmatism import defoci, quadratic_form, seen_through

from .conftest import COUNT, Case, atoms, case, mean_defocus


@pytest.fixture(scope="module")
def odd_result(odd_case: Case):
    return odd_case.refine()


def test_defocus_of_each_particle_is_found_with_its_error(odd_case, odd_result) -> None:
    found, _ = odd_result
    left = mean_defocus(found.particles) - mean_defocus(odd_case.truth)
    change, error = found.level("defocus")
    assert np.sqrt((odd_case.defocus_error**2).mean()) > 200
    assert np.sqrt((left**2).mean()) < 60
    # stated errors are true: their scatter in units of them is 1
    assert 0.75 < np.sqrt(((left / error) ** 2).mean()) < 1.3
    np.testing.assert_allclose(change, mean_defocus(found.particles) - mean_defocus(odd_case.start))
    # astigmatism is kept to the digit
    for name in ("defocus_angle_deg",):
        assert np.array_equal(getattr(found.particles.views, name), getattr(odd_case.truth.views, name))
    difference = found.particles.views.defocus_u_angstrom - found.particles.views.defocus_v_angstrom
    truth = odd_case.truth.views
    np.testing.assert_allclose(difference, truth.defocus_u_angstrom - truth.defocus_v_angstrom, atol=1e-6)


def test_beam_tilt_and_trefoil_are_found_within_their_errors(odd_result) -> None:
    found, notices = odd_result
    blocks = {block.block: block for block in found.blocks}
    tilt, trefoil = blocks["beam_tilt"], blocks["trefoil"]
    np.testing.assert_allclose(tilt.change, (1.0, -0.5), atol=0.05)
    assert np.all(np.abs(tilt.change - (1.0, -0.5)) < 4 * tilt.error)
    assert np.all(np.abs(trefoil.change - (0.0, 25.0)) < 4 * trefoil.error)
    assert tilt.kept
    assert trefoil.kept
    assert found.particles.optics[0].beam_tilt_xy_mrad == tuple(tilt.change)
    assert found.particles.optics[0].odd_zernike[2] == pytest.approx(25, abs=3)
    assert found.gain.mean() > 5
    assert not any("not significant" in notice for notice in notices)
    observed, fitted = found.pictures[0].odd
    assert np.abs(fitted).max() > 1
    assert np.corrcoef(observed.ravel(), fitted.ravel())[0, 1] > 0.9
    np.testing.assert_allclose(fitted, -fitted[::-1, ::-1], atol=1e-9)


def test_what_is_corrected_already_takes_its_best_value(odd_case, odd_result) -> None:
    again, notices = replace(odd_case, start=odd_result[0].particles).refine(defocus="no")
    tilt = next(block for block in again.blocks if block.block == "beam_tilt")
    assert tilt.p_value > 0.01
    assert tilt.kept
    assert again.particles.optics[0].beam_tilt_xy_mrad != odd_result[0].particles.optics[0].beam_tilt_xy_mrad
    np.testing.assert_allclose(again.particles.optics[0].beam_tilt_xy_mrad, (1.0, -0.5), atol=0.05)
    assert not any("not significant" in notice for notice in notices)


def test_correlation_with_the_reference_grows(odd_result) -> None:
    found, _ = odd_result
    fine = slice(found.references.highest_shell - 8, found.references.highest_shell)
    assert found.after.correlation()[fine].mean() > 2 * found.before.correlation()[fine].mean()


def test_nothing_to_find_is_told_and_left(tmp_path) -> None:
    clean = case()
    found, notices = clean.refine(defocus="no", tetrafoil=True, spherical_aberration=True)
    assert found.particles.optics == clean.start.optics
    np.testing.assert_allclose(mean_defocus(found.particles), mean_defocus(clean.start))
    np.testing.assert_allclose(found.particles.shift_xyz_angstrom, clean.start.shift_xyz_angstrom)
    assert sum("not significant" in notice for notice in notices) >= 3
    assert not any(block.kept for block in found.blocks if block.p_value > 0.01)


def test_magnification_of_one_percent_within_a_tenth() -> None:
    matrix = (1.007, 0.003, 0.003, 0.997)
    stretched = case(magnification=matrix)
    # what a fit to the rings of the stretched images would have given
    views = stretched.truth.views
    form = quadratic_form(views.defocus_u_angstrom, views.defocus_v_angstrom, views.defocus_angle_deg)
    u, v, angle = defoci(seen_through(form, matrix))
    seen = replace(views, defocus_u_angstrom=u, defocus_v_angstrom=v, defocus_angle_deg=angle)
    found, _ = stretched.refine(
        start=replace(stretched.start, views=seen), magnification=True, trefoil=False, beam_tilt=False
    )
    np.testing.assert_allclose(found.particles.optics[0].magnification, matrix, atol=5e-4)
    # defoci follow into the frame of the undistorted particle
    left = mean_defocus(found.particles) - mean_defocus(stretched.truth)
    assert abs(left.mean()) < 15
    # a refinement that starts from the answer stays there
    again, _ = stretched.refine(
        start=found.particles, magnification=True, defocus="no", beam_tilt=False, trefoil=False
    )
    np.testing.assert_allclose(
        again.particles.optics[0].magnification, found.particles.optics[0].magnification, atol=3e-4
    )


def test_even_aberrations_of_a_group() -> None:
    truth = case(snr=1.0)
    wrong = replace(truth.start.optics[0], spherical_aberration_mm=2.6)
    with_terms = (0.0, 0.0, 0.0, 0.0, 60.0, 0.0, 0.0, 0.0, -40.0)
    start = replace(truth.start, optics=(replace(wrong, even_zernike=with_terms),))
    found, _ = truth.refine(
        start=start, defocus="no", beam_tilt=False, trefoil=False, tetrafoil=True, spherical_aberration=True
    )
    blocks = {block.block: block for block in found.blocks}
    assert found.particles.optics[0].spherical_aberration_mm == pytest.approx(2.7, abs=0.03)
    error = blocks["tetrafoil"].error
    assert abs(found.particles.optics[0].even_zernike[4]) < 4 * error[1]
    assert abs(found.particles.optics[0].even_zernike[8]) < 4 * error[0]


@pytest.mark.parametrize("level", ["micrograph", "group"])
def test_astigmatism_is_found(level: str) -> None:
    truth = case()
    views = truth.truth.views
    form = quadratic_form(views.defocus_u_angstrom, views.defocus_v_angstrom, views.defocus_angle_deg)
    shared = np.array([150.0, -100.0])
    micrograph = np.arange(COUNT) // 20
    wrong = shared * np.where(micrograph % 2, 1, -1)[:, None] if level == "micrograph" else shared
    u, v, angle = defoci(form + np.concatenate([np.full((COUNT, 1), 120.0), wrong * np.ones((COUNT, 1))], 1))
    start = replace(
        truth.start,
        views=replace(views, defocus_u_angstrom=u, defocus_v_angstrom=v, defocus_angle_deg=angle),
    )
    found, _ = truth.refine(
        start=start, defocus="micrograph", astigmatism=level, beam_tilt=False, trefoil=False
    )
    new = found.particles.views
    left = quadratic_form(new.defocus_u_angstrom, new.defocus_v_angstrom, new.defocus_angle_deg) - form
    assert np.abs(left).max() < 60
    assert np.abs(left[:, 1:]).mean() < 25
    change, _ = found.level("defocus")
    assert len(change) == COUNT // 20
    np.testing.assert_allclose(change, -120, atol=40)


def test_a_wider_range_finds_what_a_narrow_one_cannot(odd_case: Case) -> None:
    views = odd_case.start.views
    far = replace(
        views,
        defocus_u_angstrom=views.defocus_u_angstrom + 1500,
        defocus_v_angstrom=views.defocus_v_angstrom + 1500,
    )
    start = replace(odd_case.start, views=far)
    narrow, _ = odd_case.refine(start=start, defocus_range_angstrom=200.0, beam_tilt=False, trefoil=False)
    wide, _ = odd_case.refine(start=start, defocus_range_angstrom=2500.0, beam_tilt=False, trefoil=False)
    truth = mean_defocus(odd_case.truth)
    assert np.abs(narrow.level("defocus")[0]).max() <= 200
    assert np.median(np.abs(mean_defocus(wide.particles) - truth)) < 100


def test_range_and_step_make_the_grid_of_the_search(odd_case: Case, monkeypatch) -> None:
    grids = []

    def best(grid: np.ndarray, scores: np.ndarray) -> np.ndarray:
        grids.append(grid)
        assert scores.shape[1] == len(grid)
        return grid[scores.argmax(axis=1)]

    monkeypatch.setattr(search, "_best", best)
    odd_case.refine(
        defocus_range_angstrom=300.0, defocus_step_angstrom=75.0, beam_tilt=False, trefoil=False,
        resolution_limit_angstrom=5.0,
    )  # fmt: skip
    for grid in grids:
        np.testing.assert_allclose(grid, np.arange(-4, 5) * 75.0)
    assert grids


def test_each_half_meets_the_map_of_the_other(odd_case: Case) -> None:
    half = np.where(np.arange(COUNT) % 2, 1, 2).astype(np.int8)
    start = replace(odd_case.start, half=half)
    rng = np.random.default_rng(3)
    spread = 0.2 * float(odd_case.volume.data.std())
    maps = tuple(
        Volume(
            data=odd_case.volume.data + rng.normal(0, spread, odd_case.volume.data.shape).astype(np.float32),
            pixel_size_angstrom=odd_case.volume.pixel_size_angstrom,
        )
        for _ in range(2)
    )
    found, _ = odd_case.refine(maps=maps, start=start, resolution_limit_angstrom=None)
    assert np.array_equal(found.references.of_particle, np.where(half == 1, 1, 0))
    assert found.references.fsc is not None
    assert np.sqrt(((mean_defocus(found.particles) - mean_defocus(odd_case.truth)) ** 2).mean()) < 80
    with pytest.raises(MetadataError, match="no half set"):
        odd_case.refine(maps=maps)


def test_a_reference_that_does_not_belong_to_the_poses_is_refused(odd_case: Case) -> None:
    mirrored = Volume(data=odd_case.volume.data[::-1].copy(), pixel_size_angstrom=1.5)
    noise = np.random.default_rng(4).normal(size=odd_case.volume.data.shape).astype(np.float32)
    for wrong in (noise, noise * (mirrored.data > 0.1)):
        with pytest.raises(InputError, match="do not agree"):
            odd_case.refine(maps=(Volume(data=wrong, pixel_size_angstrom=1.5),))
    black = replace(odd_case.volume, data=-odd_case.volume.data)
    mask = Volume(data=np.ones_like(odd_case.volume.data), pixel_size_angstrom=1.5)
    with pytest.raises(InputError, match="opposite contrast"):
        odd_case.refine(maps=(black,), mask=mask)


def test_broken_images_are_named_and_stay(odd_case: Case) -> None:
    broken = case(400.0, broken=(3, 17), beam_tilt_xy_mrad=(1.0, -0.5))
    found, notices = broken.refine(trefoil=False)
    assert found.used.sum() == COUNT - 2
    assert any("000004@particles.mrcs" in n and "000018@particles.mrcs" in n for n in notices)
    for row in (3, 17):
        assert mean_defocus(found.particles)[row] == mean_defocus(broken.start)[row]
    assert np.abs(found.level("defocus")[0][[0, 1, 2]]).min() > 0


def test_a_small_optics_group_keeps_its_aberrations(odd_case: Case) -> None:
    group = (np.arange(COUNT) >= COUNT - 8).astype(np.int64)
    second = replace(odd_case.start.optics[0], name="small", beam_tilt_xy_mrad=(0.1, 0.2))
    start = replace(
        odd_case.start,
        optics=(odd_case.start.optics[0], second),
        views=replace(odd_case.start.views, optics_group=group),
    )
    found, notices = odd_case.refine(start=start)
    assert found.particles.optics[1] == second
    assert found.particles.optics[0].beam_tilt_xy_mrad[0] == pytest.approx(1.0, abs=0.05)
    assert any("group small has 8 usable particles" in notice for notice in notices)
    assert [b.why for b in found.blocks if b.group == 1] == ["8 particles are too few"] * 2


def test_a_small_micrograph_stays(odd_case: Case) -> None:
    names = odd_case.start.extra["rlnMicrographName"].copy()
    names[:2] = "lonely.mrc"
    start = replace(odd_case.start, extra=Table({"rlnMicrographName": names}))
    found, notices = odd_case.refine(
        start=start, defocus="micrograph", astigmatism="micrograph", beam_tilt=False, trefoil=False
    )
    left = found.particles.views.defocus_u_angstrom - start.views.defocus_u_angstrom
    assert np.all(left[:2] == 0)
    assert np.all(left[2:] != 0)
    assert any("1 of 9 micrographs have fewer than 3 usable particles" in notice for notice in notices)


def test_without_spherical_aberration_a_beam_tilt_has_no_effect(odd_case: Case) -> None:
    start = replace(odd_case.start, optics=(replace(odd_case.start.optics[0], spherical_aberration_mm=0.0),))
    found, notices = odd_case.refine(start=start, defocus="no")
    assert any("a beam tilt has no effect" in notice for notice in notices)
    assert found.particles.optics[0].beam_tilt_xy_mrad == (0.0, 0.0)


def test_reference_of_another_grid_is_resampled(odd_case: Case) -> None:
    found, notices = odd_case.refine(maps=(atoms(96, 1.2),))
    assert any("the reference (96 x 96 x 96 voxels of 1.2 Å) was resampled" in n for n in notices)
    assert found.particles.optics[0].beam_tilt_xy_mrad[0] == pytest.approx(1.0, abs=0.06)


def test_what_cannot_be_is_refused(odd_case: Case) -> None:
    bare = replace(odd_case.start, rotation=None, shift_xyz_angstrom=None)
    with pytest.raises(MetadataError, match="no poses"):
        odd_case.refine(start=bare)
    nameless = replace(odd_case.start, extra=Table({}))
    with pytest.raises(MetadataError, match="rlnMicrographName"):
        odd_case.refine(start=nameless, astigmatism="micrograph")
    with pytest.raises(ParameterError, match="nothing is left"):
        odd_case.refine(defocus="no", beam_tilt=False, trefoil=False)
    with pytest.raises(ParameterError, match="step"):
        odd_case.refine(defocus_step_angstrom=900.0)
    flat = Volume(data=np.ones((64, 64, 64), np.float32), pixel_size_angstrom=1.5)
    with pytest.raises(InputError, match="constant"):
        odd_case.refine(maps=(flat,))
    with pytest.raises(ParameterError, match="more than 1000 steps"):
        odd_case.refine(defocus_step_angstrom=0.4)
    multiplied = replace(odd_case.start.optics[0], ctf_premultiplied=True)
    with pytest.raises(MetadataError, match="multiplied by their CTF"):
        odd_case.refine(start=replace(odd_case.start, optics=(multiplied,)))
    blank = case(400.0, broken=tuple(range(COUNT)))
    with pytest.raises(InputError, match="none of the particles has a usable image"):
        blank.refine()


def test_a_few_shells_are_enough_to_run(odd_case: Case) -> None:
    """The first stages have no more shells than the last."""
    found, _ = odd_case.refine(resolution_limit_angstrom=15.0, beam_tilt=False, trefoil=False)
    assert found.references.highest_shell < 8
    assert found.resolution_used_angstrom > 14
    assert np.abs(found.level("defocus")[0]).max() <= 500


def test_many_optics_groups_give_what_one_gives(odd_case: Case) -> None:
    """Models of groups are made anew when they are needed; defocus alone does not know groups."""
    settings = {"beam_tilt": False, "trefoil": False, "resolution_limit_angstrom": 5.0}
    one, _ = odd_case.refine(**settings)
    group = np.arange(COUNT) % 12
    optics = tuple(replace(odd_case.start.optics[0], name=f"g{i}") for i in range(12))
    views = replace(odd_case.start.views, optics_group=group)
    many, _ = odd_case.refine(start=replace(odd_case.start, optics=optics, views=views), **settings)
    np.testing.assert_allclose(many.level("defocus")[0], one.level("defocus")[0], atol=0.5)


def test_a_micrographs_defocus_stays_within_the_range(odd_case: Case) -> None:
    views = odd_case.start.views
    far = replace(
        views,
        defocus_u_angstrom=views.defocus_u_angstrom + 900,
        defocus_v_angstrom=views.defocus_v_angstrom + 900,
    )
    found, _ = odd_case.refine(
        start=replace(odd_case.start, views=far), defocus="micrograph", defocus_range_angstrom=150.0,
        beam_tilt=False, trefoil=False, resolution_limit_angstrom=6.0,
    )  # fmt: skip
    assert np.abs(found.level("defocus")[0]).max() <= 150


def test_slices_on_a_gpu_leave_half_of_its_memory(monkeypatch) -> None:
    monkeypatch.setattr(refine.torch.cuda, "mem_get_info", lambda _device: (6_000, 10_000))
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    assert refine._room_for_slices(gpu, 5_000) == 3_000
    assert refine._room_for_slices(gpu, 2_000) == 2_000
    assert refine._room_for_slices(cpu, 5_000) == 5_000


def test_of_many_groups_the_largest_are_pictured_and_few_told(odd_case: Case, monkeypatch) -> None:
    monkeypatch.setattr(picture, "MOST_PICTURES", 2)
    monkeypatch.setattr(refine, "MOST_NOTICES", 3)
    group = np.concatenate([np.arange(70) % 7, np.full(40, 7), np.full(COUNT - 110, 8)])
    optics = tuple(replace(odd_case.start.optics[0], name=f"g{i}") for i in range(9))
    views = replace(odd_case.start.views, optics_group=group)
    found, notices = odd_case.refine(
        start=replace(odd_case.start, optics=optics, views=views), resolution_limit_angstrom=5.0
    )
    assert list(found.pictures) == [7, 8]
    assert sum("has 10 usable particles" in notice for notice in notices) == 3
    assert "… and 4 more notices of this kind" in notices
    assert sum(block.why == "10 particles are too few" for block in found.blocks) == 14
