"""Every setting of a manual refinement does what it says, on small synthetic particles."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from manual_data import BOX, COUNT, PIXEL, molecule, refined, simulated
from parhelion.algorithms.manual.alignment import make_class_reference
from parhelion.algorithms.manual.cycle import used_rows
from parhelion.algorithms.manual.maps import insertion_weights
from parhelion.algorithms.manual.problem import make_problem, memory_plan
from parhelion.algorithms.manual.settings import ManualSettings
from parhelion.algorithms.manual.start import start_state
from parhelion.algorithms.particle_images import PreparedImages
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.errors import MetadataError, ParameterError
from parhelion.fourier.shells import fsc
from parhelion.geometry.rotations import angle_between, to_relion
from parhelion.images.masks import spherical_mask
from parhelion.model.volume import Volume


class Never:
    def check(self) -> None:
        pass


def errors(found, data) -> np.ndarray:
    return angle_between(found.particles.rotation, data.particles.rotation[found.rows])


def score(found, column: str = "Score") -> np.ndarray:
    return np.asarray(found.particles.extra[f"cisTEM{column}"], float)


def problem_of(data, **settings):
    usual = {"outer_radius_angstrom": 52.0, "high_limit_angstrom": 12.0, "low_limit_angstrom": 150.0}
    return make_problem(
        data.particles,
        data.images,
        ManualSettings(**{**usual, **settings}),
        None,
        executor=SerialExecutor(),
        observer=SilentObserver(),
        cancel=Never(),
        device=torch.device("cpu"),
        available_bytes=None,
    )


def test_local_cycles_bring_poses_to_the_truth(data, plain) -> None:
    before = angle_between(data.near().rotation, data.particles.rotation)
    assert np.median(errors(plain, data)) < 0.5 * np.median(before)
    shift = plain.particles.shift_xyz_angstrom - data.particles.shift_xyz_angstrom
    assert np.median(np.linalg.norm(shift, axis=1)) < 1.0
    assert plain.classes[0].resolution_angstrom < 14
    assert (score(plain) > 20).all() and (score(plain) <= 100).all()
    assert (score(plain, "Occupancy") == 100).all()
    assert np.array_equal(plain.particles.rotation, plain.classes[0].particles.rotation)


def test_more_cycles_go_on_and_say_how_the_score_changed(data, again) -> None:
    twice = again(cycles=2)
    assert [row["cycle"] for row in twice.history] == [1, 2]
    assert twice.history[1]["moved_deg"] < twice.history[0]["moved_deg"]
    assert np.abs(score(twice, "ScoreChange")).max() > 0
    once = again()
    assert np.allclose(score(twice, "ScoreChange"), score(twice) - score(once))
    assert (score(once, "ScoreChange") == 0).all()


@pytest.mark.parametrize("held", ["psi", "theta", "phi"])
def test_an_angle_that_is_not_named_stays(data, again, held: str) -> None:
    found = again(parameters=tuple(n for n in ("psi", "theta", "phi", "x", "y") if n != held))
    column = ("phi", "theta", "psi").index(held)
    before, after = (to_relion(p.rotation) for p in (data.near(), found.particles))
    apart = np.abs((after - before + 180) % 360 - 180)
    # a theta that passes the pole is written as a positive one, with phi and psi half a turn away
    apart = np.minimum(apart, 180 - apart)
    assert np.allclose(apart[:, column], 0, atol=1e-6)
    others = [c for c in range(3) if c != column]
    assert np.median(apart[:, others]) > 0.5


@pytest.mark.parametrize("held", ["x", "y"])
def test_a_shift_that_is_not_named_stays(data, again, held: str) -> None:
    found = again(parameters=tuple(n for n in ("psi", "theta", "phi", "x", "y") if n != held))
    moved = np.abs(found.particles.shift_xyz_angstrom - data.near().shift_xyz_angstrom)
    column = ("x", "y").index(held)
    assert np.allclose(moved[:, column], 0, atol=1e-9) and np.median(moved[:, 1 - column]) > 0.5


def test_without_alignment_poses_stay_and_are_scored(data, again) -> None:
    found = again(parameters=())
    assert np.allclose(found.particles.rotation, data.near().rotation)
    assert (score(found) > 0).mean() > 0.9


def test_a_finer_limit_finds_better_poses(data, plain, again) -> None:
    assert np.median(errors(again(high_limit_angstrom=25.0), data)) > np.median(errors(plain, data))


def test_low_resolution_limit_takes_coarse_shells_out_of_score_and_likelihood(plain, again) -> None:
    found = again(low_limit_angstrom=25.0)
    assert score(found).mean() < score(plain).mean()
    assert (score(found, "LogP") > score(plain, "LogP")).mean() > 0.9  # fewer residuals are summed


def test_radii_make_images_round_and_references_hollow(data, plain, again) -> None:
    hollow = again(inner_radius_angstrom=20.0)
    middle = slice(BOX // 2 - 1, BOX // 2 + 2)
    assert plain.classes[0].mask.data[middle, middle, middle].min() > 0.9
    assert hollow.classes[0].mask.data[middle, middle, middle].max() < 0.3
    narrow = problem_of(data, outer_radius_angstrom=36.0)
    assert narrow.loader.mask.sum() < problem_of(data).loader.mask.sum()
    assert narrow.solvent.sphere.sum() < problem_of(data).solvent.sphere.sum()


def test_signed_limit_changes_what_is_maximised(plain, again) -> None:
    found = again(signed_limit_angstrom=20.0)
    assert not np.allclose(found.particles.rotation, plain.particles.rotation)
    # at the same poses a sum of absolute values is never smaller
    signed, unsigned = again(parameters=()), again(parameters=(), signed_limit_angstrom=20.0)
    assert (score(unsigned) >= score(signed) - 1e-9).all() and (score(unsigned) > score(signed) + 1e-3).any()


def test_percent_used_draws_another_part_each_cycle(data, again) -> None:
    found = again(percent_used=50.0)
    kept = np.all(np.isclose(found.particles.rotation, data.near().rotation), axis=(1, 2))
    assert kept.sum() == COUNT // 2
    assert found.history[0]["particles"] == COUNT // 2
    problem = problem_of(data)
    state = start_state(problem, data.near(), (data.truth,), ())
    first, second = (used_rows(state, 50.0, np.random.default_rng((1, c))) for c in (1, 2))
    assert not np.array_equal(first, second)
    assert np.bincount(state.half[first]).tolist()[1:] == [COUNT // 4, COUNT // 4]


def bare(data):
    return replace(data.particles, rotation=None, shift_xyz_angstrom=None, half=None)


def test_global_search_finds_poses_from_nothing(data) -> None:
    found = refined(data.images, bare(data), (data.truth,), mode="global")
    assert np.median(errors(found, data)) < 8 and (errors(found, data) < 15).mean() > 0.8
    assert (score(found, "ScoreChange") == 0).all()


def test_particles_that_no_cycle_drew_are_left_out_of_the_table(data) -> None:
    found = refined(
        data.images, bare(data), (data.truth,), mode="global", percent_used=50.0, angular_step_deg=30.0
    )
    assert len(found.particles) == len(found.rows) == COUNT // 2 == len(found.left_out)
    assert not np.intersect1d(found.rows, found.left_out).size


def test_search_grid_follows_step_range_and_limit(data) -> None:
    def reference(**settings):
        problem = problem_of(data, mode="global", **settings)
        state = start_state(problem, data.near(), (data.truth,), ())
        return problem, make_class_reference(problem, state, 0, 1, np.random.default_rng(1))

    problem, usual = reference()
    assert len(reference(angular_step_deg=30.0)[1].bank.rotations) < len(usual.bank.rotations)
    assert ManualSettings(outer_radius_angstrom=200.0).angular_step == pytest.approx(15.0)
    expected = 360 * 20 / (np.pi * 200)
    assert ManualSettings(
        outer_radius_angstrom=200.0, high_limit_angstrom=10.0
    ).angular_step == pytest.approx(expected)
    wide = reference(shift_range_xy_angstrom=(30.0, 10.0))[1].shifts * problem.loader.extent_angstrom
    assert 20 < float(wide[:, 0].max()) <= 30 and float(wide[:, 1].max()) <= 10
    assert reference(search_limit_angstrom=40.0)[0].search_shell < problem.search_shell
    assert reference(top=3)[1].search.top == 3
    held = reference(parameters=("psi", "theta", "phi", "x"))[1].shifts
    assert float(held[:, 1].abs().max()) == 0 and float(held[:, 0].abs().max()) > 0


def test_more_results_are_refined_to_better_poses(data) -> None:
    one, many = (
        refined(data.images, bare(data), (data.truth,), mode="global", top=top, angular_step_deg=30.0)
        for top in (1, 20)
    )
    assert score(many).mean() > score(one).mean()


def test_input_poses_are_refined_beside_those_of_the_search_or_not(data) -> None:
    coarse = {"mode": "global", "top": 1, "angular_step_deg": 60.0}
    with_them, without = (
        refined(data.images, data.near(), (data.truth,), refine_input=keep, **coarse)
        for keep in (True, False)
    )
    assert np.median(errors(with_them, data)) < 4 < np.median(errors(without, data))


def test_global_mask_radius_is_that_of_the_search_alone(data) -> None:
    problem = problem_of(data, mode="global", outer_radius_angstrom=36.0, global_radius_angstrom=50.0)
    assert problem.wide.mask.sum() > problem.loader.mask.sum()
    local = problem_of(data, outer_radius_angstrom=36.0, global_radius_angstrom=50.0)
    assert local.wide is local.loader


def test_search_keeps_a_shift_that_is_not_named(data) -> None:
    names = ("psi", "theta", "phi", "y")
    found = refined(
        data.images, data.particles, (data.truth,), mode="global", parameters=names, refine_input=False
    )
    moved = np.abs(found.particles.shift_xyz_angstrom - data.particles.shift_xyz_angstrom)
    assert np.allclose(moved[:, 0], 0, atol=1e-9) and np.median(moved[:, 1]) > 0.05


def test_defocus_is_found_with_its_range_and_step(data) -> None:
    views = data.particles.views
    rng = np.random.default_rng(8)
    wrong = rng.choice([-800.0, 800.0], COUNT)
    off = replace(
        data.particles,
        views=replace(
            views,
            defocus_u_angstrom=views.defocus_u_angstrom + wrong,
            defocus_v_angstrom=views.defocus_v_angstrom + wrong,
        ),
    )
    settings = {"refine_defocus": True, "high_limit_angstrom": 8.5, "parameters": ()}
    found = refined(
        data.images,
        off,
        (data.truth,),
        defocus_range_angstrom=1200.0,
        defocus_step_angstrom=200.0,
        **settings,
    )
    left = found.particles.views.defocus_u_angstrom - views.defocus_u_angstrom
    assert np.abs(left).mean() < 500
    change = np.asarray(found.particles.extra["parhelionDefocusChangeAngstrom"], float)
    assert np.allclose(change % 200.0, 0) and np.abs(change).max() <= 1200
    astigmatism = found.particles.views.defocus_u_angstrom - found.particles.views.defocus_v_angstrom
    assert np.allclose(astigmatism, views.defocus_u_angstrom - views.defocus_v_angstrom)
    narrow = refined(
        data.images, off, (data.truth,), defocus_range_angstrom=200.0, defocus_step_angstrom=100.0, **settings
    )
    assert np.abs(narrow.particles.extra["parhelionDefocusChangeAngstrom"]).max() <= 200
    # the map, too, is made with the defoci that were found
    assert not np.allclose(narrow.classes[0].map.data, found.classes[0].map.data)


def weights(data, **settings):
    """Insertion weights of particles whose score grows with defocus, and by chance."""
    problem = problem_of(data, **settings)
    state = start_state(problem, data.near(), (data.truth,), ())
    rng = np.random.default_rng(3)
    views = data.particles.views
    defocus = 0.5 * (views.defocus_u_angstrom + views.defocus_v_angstrom)
    made = 20 + 0.001 * (defocus - defocus.mean()) + rng.normal(0, 1, COUNT)
    state = replace(state, scores=replace(state.scores, score=made[None]))
    rows = np.arange(COUNT)
    return insertion_weights(problem, state, 0, rows, scored=True), made, defocus


def test_weights_follow_cistems_formula(data) -> None:
    plain, made, _ = weights(data, score_constant_angstrom2=4.0, adjust_for_defocus=False)
    inside = np.abs(made - made.mean()) < 2.5 * made.std()
    assert np.allclose(plain.bfactor_angstrom2[inside], (made - made.mean())[inside] * 4 * 0.25)
    assert not weights(data, score_constant_angstrom2=0.0)[0].bfactor_angstrom2.any()


def test_scores_are_freed_of_defocus(data) -> None:
    adjusted, _, defocus = weights(data, adjust_for_defocus=True)
    plain = weights(data, adjust_for_defocus=False)[0]
    assert abs(np.corrcoef(adjusted.bfactor_angstrom2, defocus)[0, 1]) < 0.05
    assert np.corrcoef(plain.bfactor_angstrom2, defocus)[0, 1] > 0.5


def test_threshold_leaves_particles_out_of_the_map(data) -> None:
    assert weights(data, score_threshold=0.25)[0].factor.sum() == COUNT // 4
    low = weights(data, score_threshold=20.0, adjust_for_defocus=False)
    assert np.array_equal(low[0].factor > 0, low[1] >= 20.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"score_constant_angstrom2": 10.0},
        {"score_threshold": 0.5},
        {"filter_constant": 20.0},
        {"blurring": True},
        {"automatic_mask": False},
        {"outside_weight": 0.5},
    ],
    ids=lambda s: next(iter(s)),
)
def test_what_goes_into_maps_changes_them_but_no_pose_of_the_cycle(plain, again, settings) -> None:
    found = again(**settings)
    assert np.allclose(found.particles.rotation, plain.particles.rotation)
    first, second = found.references[0].data, plain.references[0].data
    assert np.abs(first - second).max() > 1e-5 * np.abs(second).max()


def test_filter_constant_filters_more(plain, again) -> None:
    assert again(filter_constant=20.0).references[0].data.std() < plain.references[0].data.std()


def test_a_particle_that_fills_little_of_its_mask_is_filtered_less(plain, again) -> None:
    # what is solvent in the mask lowered the correlation
    assert again(mass_kda=20.0).references[0].data.std() > plain.references[0].data.std()


def test_blurring_lowers_detail_the_more_the_smaller_the_smoothing(plain, again) -> None:
    def fine(found) -> float:
        power = np.abs(np.fft.fftn(found.classes[0].half_maps[0].data)) ** 2
        f = np.fft.fftfreq(BOX) * BOX
        radius = np.sqrt(f[:, None, None] ** 2 + f[None, :, None] ** 2 + f**2)
        return float(power[(radius > 6) & (radius < 10)].sum())

    little, much = again(blurring=True), again(blurring=True, smoothing=0.1)
    assert fine(much) < 0.98 * min(fine(plain), fine(little))
    assert not np.allclose(little.references[0].data, plain.references[0].data, atol=1e-4)


def test_map_limit_ends_the_map(plain, again) -> None:
    coarse = again(map_limit_angstrom=12.0)
    spectrum = np.abs(np.fft.fftn(coarse.classes[0].half_maps[0].data))
    whole = np.abs(np.fft.fftn(plain.classes[0].half_maps[0].data))
    f = np.fft.fftfreq(BOX) * BOX
    radius = np.sqrt(f[:, None, None] ** 2 + f[None, :, None] ** 2 + f**2)
    assert spectrum[radius > 13].max() < 0.1 * whole[radius > 13].max()


def test_outside_density_is_weighted_and_low_passed(plain, again) -> None:
    given = spherical_mask(BOX, PIXEL, 20.0, 8.0)
    mask = Volume(data=given.astype(np.float32), pixel_size_angstrom=PIXEL)
    alone, weighted, smooth = (
        again(keywords={"mask": mask}, **settings)
        for settings in (
            {},
            {"outside_weight": 1.0},
            {"outside_weight": 1.0, "outside_lowpass_angstrom": 40.0},
        )
    )
    outside = given == 0
    assert np.abs(alone.references[0].data[outside]).max() < 1e-6
    assert np.abs(weighted.references[0].data[outside]).max() > 0
    assert smooth.references[0].data[outside].std() < weighted.references[0].data[outside].std()
    assert not np.allclose(plain.classes[0].mask.data, alone.classes[0].mask.data)


def test_gold_halves_have_two_references_and_cistem_one(data) -> None:
    for kind, same in (("gold", False), ("cistem", True)):
        problem = problem_of(data, half_sets=kind)
        state = start_state(problem, data.near(), (), ())
        first, second = state.references[0]
        assert torch.equal(first, second) == same


def test_references_are_made_from_poses_and_symmetry(data) -> None:
    found = refined(data.images, data.particles, (), parameters=())
    curve = fsc(torch.from_numpy(found.classes[0].map.data), torch.from_numpy(data.truth.data))
    assert curve[2:8].min() > 0.8
    twofold = refined(data.images, data.particles, (), parameters=(), symmetry=("C2",)).classes[0].map.data
    turned = np.roll(twofold[:, ::-1, ::-1], (1, 1), (1, 2))
    inside = slice(1, None)
    assert np.allclose(twofold[:, inside, inside], turned[:, inside, inside], atol=0.05 * twofold.max())


def test_random_poses_start_from_nothing(data) -> None:
    found = refined(data.images, data.particles, (), random_poses=True, parameters=(), seed=5)
    assert np.median(errors(found, data)) > 60


def test_starting_maps_are_scaled_thresholded_and_weighted(data) -> None:
    def start(reference, **settings):
        problem = problem_of(data, **settings)
        return start_state(problem, data.near(), (reference,), ()).references[0][0].numpy()

    double = replace(data.truth, data=2 * data.truth.data)
    assert np.allclose(start(data.truth), start(double), rtol=1e-3, atol=1e-4)
    as_it_is = start(double, normalise_reference=False)
    assert np.allclose(as_it_is, 2 * start(data.truth, normalise_reference=False), rtol=1e-4, atol=1e-5)
    holes = replace(data.truth, data=data.truth.data - 3 * np.roll(data.truth.data, 6, 0))
    given = {"normalise_reference": False, "parameters": ()}  # nothing is refined against such a map
    lowest = start(holes, threshold_reference=True, **given)
    assert lowest.min() == pytest.approx(-0.3 * holes.data.max(), rel=0.02)
    assert lowest.min() > start(holes, **given).min()
    coarse = start(data.truth, normalise_reference=False, fom=((100.0, 30.0, 20.0), (1.0, 1.0, 0.0)))
    power = np.abs(np.fft.rfftn(coarse))
    assert (
        power[12, 0, 0] < 0.05 * np.abs(np.fft.rfftn(start(data.truth, normalise_reference=False)))[12, 0, 0]
    )


def test_images_keep_their_scale_where_they_are_not_normalised(data) -> None:
    assert (
        problem_of(data).loader.scale_images
        and not problem_of(data, normalise_images=False).loader.scale_images
    )


def test_padding_samples_references_more_finely(data) -> None:
    for padding in (1.0, 2.0, 3.0):
        problem = problem_of(data, padding=padding)
        state = start_state(problem, data.near(), (data.truth,), ())
        reference = make_class_reference(problem, state, 0, 1, np.random.default_rng(1))
        assert reference.volume.padding == padding


def test_cropped_images_give_the_same_structure_in_the_whole_box() -> None:
    box = 48
    big = np.zeros((box,) * 3, np.float32)
    big[8:40, 8:40, 8:40] = molecule().data
    data = simulated(Volume(data=big, pixel_size_angstrom=PIXEL))
    settings = {"outer_radius_angstrom": 50.0}
    whole = refined(data.images, data.near(), (data.truth,), **settings)
    small = PreparedImages(data.images, 36)
    found = refined(small, data.near(), (data.truth,), {"box": box}, **settings)
    assert found.classes[0].map.box == box == found.classes[0].half_maps[0].box
    assert found.classes[0].curves_like.box == 36
    curve = fsc(*(torch.from_numpy(r.classes[0].map.data) for r in (whole, found)))
    assert curve[2:10].min() > 0.9


def test_matching_projections_look_like_their_particles(data) -> None:
    made = np.zeros((COUNT, BOX, BOX), np.float32)

    def keep(first: int, images: np.ndarray, count: int) -> None:
        assert count == COUNT
        made[first : first + len(images)] = images

    refined(data.images, data.near(), (data.truth,), {"projections": keep})
    like = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(made, data.images.data)]
    other = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(made, np.roll(data.images.data, 1, 0))]
    assert np.median(like) > 0.3 and np.median(like) > np.median(other) + 0.1


def test_a_finished_run_that_is_resumed_projects_with_the_defocus_it_found(data, tmp_path) -> None:
    made: list[np.ndarray] = []

    def keep(first: int, images: np.ndarray, count: int) -> None:
        made.append(images.copy())

    for resume in (False, True):
        refined(
            data.images,
            data.particles,
            (data.truth,),
            {"projections": keep, "checkpoints": tmp_path, "resume": resume},
            parameters=(),
            refine_defocus=True,
            defocus_range_angstrom=4000.0,
            defocus_step_angstrom=1000.0,
        )
    half = len(made) // 2
    assert np.array_equal(np.concatenate(made[:half]), np.concatenate(made[half:]))


def test_classes_share_the_prior_of_shifts_that_compares_them(data) -> None:
    problem = problem_of(data, symmetry=("C1", "C1"))
    near = data.near()
    wide = replace(near, shift_xyz_angstrom=3 * near.shift_xyz_angstrom)
    state = start_state(problem, near, (data.truth, data.truth), (near, wide))
    first, second = (
        make_class_reference(problem, state, k, 1, np.random.default_rng(1)).freedom.shift_precision
        for k in (0, 1)
    )
    assert first == second


def test_occupancies_that_are_no_numbers_are_refused(data) -> None:
    problem = problem_of(data, symmetry=("C1", "C1"))
    percent = np.full(COUNT, 50.0)
    percent[3] = np.nan
    table = replace(data.near(), extra=data.near().extra.with_columns({"cisTEMOccupancy": percent}))
    with pytest.raises(MetadataError, match="1 particles is negative or no number, the first in row 4"):
        start_state(problem, data.near(), (data.truth, data.truth), (table, table))


def test_settings_that_contradict_each_other_are_refused() -> None:
    for wrong, message in (
        ({"class_limit_angstrom": 150.0, "low_limit_angstrom": 120.0}, "the classification limit .* finer"),
        (
            {"mode": "global", "high_limit_angstrom": 10.0, "low_limit_angstrom": 18.0},
            "the limit of the search .* finer",
        ),
        (
            {"mode": "global", "signed_limit_angstrom": 150.0, "low_limit_angstrom": 120.0},
            "the limit of the signed correlation",
        ),
        ({"low_limit_angstrom": 20.0}, "must be coarser"),
        ({"class_limit_angstrom": 20.0}, "cannot be finer"),
        ({"map_limit_angstrom": 40.0}, "the next cycle would lack"),
        ({"inner_radius_angstrom": 60.0}, "smaller than the outer"),
        ({"mode": "global", "parameters": ("psi",)}, "cannot keep theta, phi"),
        ({"mode": "wide"}, "none of local, global"),
        ({"parameters": ("rot",)}, "none of psi"),
        ({"half_sets": "one"}, "none of gold, cistem"),
        ({"refine_defocus": True, "defocus_step_angstrom": 900.0}, "must lie between"),
    ):
        with pytest.raises(ParameterError, match=message):
            ManualSettings(outer_radius_angstrom=50.0, **wrong)


def test_what_is_missing_or_too_many_is_told(data) -> None:
    with pytest.raises(MetadataError, match="local refinement starts"):
        refined(data.images, bare(data), (data.truth,))
    with pytest.raises(MetadataError, match="references are made"):
        refined(data.images, bare(data), (), mode="global")
    with pytest.raises(ParameterError, match="2 references for 1 classes"):
        refined(data.images, data.near(), (data.truth, data.truth))
    with pytest.raises(ParameterError, match=r"leaves 1\.3 shells"):
        refined(data.images, data.near(), (data.truth,), high_limit_angstrom=100.0)


def test_memory_grows_with_classes_and_finer_searches() -> None:
    def plan(**settings) -> int:
        made = ManualSettings(outer_radius_angstrom=100.0, high_limit_angstrom=10.0, **settings)
        return memory_plan(1000, 64, 3.0, made, None).fixed_bytes

    assert plan() < plan(symmetry=("C1", "C1")) and plan(mode="global") < plan(
        mode="global", angular_step_deg=5.0
    )
