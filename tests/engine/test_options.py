"""What a round does on request: blind to coarse detail, cropped search, blurring, shares, centring."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parhelion.engine.blurring import insertion_poses
from parhelion.engine.candidates import Candidates
from parhelion.engine.centre import moved_poses, offset_voxels, rolled
from parhelion.engine.halves import crossing_shell
from parhelion.engine.loop import run_round
from parhelion.engine.points import FourierPoints
from parhelion.engine.score_weights import score_of
from parhelion.engine.search_view import cropped_box, search_view, without_low
from parhelion.engine.solvent import Solvent
from parhelion.engine.state import best_poses
from parhelion.fourier.filters import lowpass
from parhelion.fourier.shells import fsc
from parhelion.geometry.rotations import align_poses
from parhelion.geometry.symmetry import symmetry_group
from parhelion.model.volume import Volume

WIDE = 48


@pytest.fixture(scope="module")
def start(kit, noisy):
    """A problem and its state before the first round."""
    particles, images, molecule = noisy
    loader = kit.loader_of(particles, images)
    problem = kit.problem_of(loader)
    scaled = kit.on_scale_of(loader, molecule)
    map_ = lowpass(Volume(data=scaled, pixel_size_angstrom=kit.PIXEL), 20.0).data
    return problem, kit.state_of(problem, map_), particles


def test_coarse_points_are_left_out(kit, start) -> None:
    problem, _, _ = start
    points = problem.loader.points
    batch = problem.loader.batch(np.arange(3), len(points))
    blind = without_low(batch, points, 3.0)
    low = torch.from_numpy(points.radius < 3.0)
    assert (blind.data[..., low] == 0).all()
    assert (blind.ctf[..., low] == 0).all()
    assert torch.equal(blind.data[..., ~low], batch.data[..., ~low])
    assert batch.data[..., low].abs().min() > 0
    assert without_low(batch, points, 0.5) is batch


def test_a_coarse_disturbance_does_not_count_below_the_limit(kit, noisy, start) -> None:
    """One strong wave of a quarter of the box across every image spoils the poses, unless it is left out."""
    _, state, particles = start
    images = noisy[1]
    x = np.arange(kit.BOX) - kit.BOX // 2
    rng = np.random.default_rng(0)
    waves = [
        np.cos(2 * np.pi * (x[:, None] * a + x * b) / kit.BOX)
        for a, b in rng.choice([-2, -1, 1, 2], (len(particles), 2))
    ]
    disturbed = kit.Images(images.data + 0.8 * images.data.std() * np.array(waves, np.float32))
    loader = kit.loader_of(particles, disturbed)
    found = []
    for low in (0.0, 3.5):
        one = replace(kit.problem_of(loader), low_shell=low)
        after = run_round(one, state)
        rotation = best_poses(after.kept, len(particles))[0]
        found.append(np.median(align_poses(rotation, particles.rotation).error_deg))
    assert found[1] < 0.7 * found[0], found


def test_a_cropped_search_finds_what_the_whole_one_finds(kit) -> None:
    particles, images, molecule = kit.single_particles(60, 1.0)
    pad = (WIDE - kit.BOX) // 2
    wide = np.pad(images.data, ((0, 0), (pad, pad), (pad, pad)))
    edge = images.data.std()
    wide += np.random.default_rng(1).normal(size=wide.shape).astype(np.float32) * edge * 0.3
    source = kit.Images(wide.astype(np.float32))
    loader = kit.loader_of(particles, source)
    problem = kit.problem_of(loader)
    scaled = kit.on_scale_of(loader, np.pad(molecule, pad))
    state = kit.state_of(problem, lowpass(Volume(data=scaled, pixel_size_angstrom=kit.PIXEL), 20.0).data)
    view = search_view(
        particles,
        source,
        usual_diameter_angstrom=loader.diameter_angstrom,
        diameter_angstrom=loader.diameter_angstrom,
        crop=True,
        search_angstrom=10.0,
        cache_bytes=2**30,
        device=torch.device("cpu"),
    )
    assert view is not None
    assert view.loader.box < WIDE
    errors = []
    for one in (problem, replace(problem, view=view)):
        after = run_round(one, state)
        errors.append(align_poses(best_poses(after.kept, 60)[0], particles.rotation).error_deg)
    assert np.median(errors[1]) < np.median(errors[0]) + 0.3
    assert (errors[1] < 12).mean() >= (errors[0] < 12).mean() - 0.05


def test_cropping_only_where_it_saves_something() -> None:
    assert cropped_box(64, 30.0) == 38
    assert cropped_box(63, 30.0) == 39
    assert cropped_box(64, 52.0) == 64


def test_a_narrower_search_mask_is_a_view_of_its_own(kit, start) -> None:
    problem, state, particles = start
    loader = problem.loader
    given = {
        "usual_diameter_angstrom": loader.diameter_angstrom,
        "crop": False,
        "search_angstrom": 10.0,
        "cache_bytes": 2**30,
        "device": torch.device("cpu"),
    }
    same = search_view(particles, loader.source, diameter_angstrom=loader.diameter_angstrom, **given)
    assert same is None
    view = search_view(particles, loader.source, diameter_angstrom=60.0, **given)
    assert view.ratio == 1
    assert view.loader.mask.sum() < 0.7 * loader.mask.sum()
    # the first points of a shorter list are those of the longer one
    points = FourierPoints(kit.BOX, view.loader.points.max_shell)
    assert torch.equal(points.kx, loader.points.kx[: len(points)])
    after = run_round(replace(problem, view=view), state)
    error = align_poses(best_poses(after.kept, len(particles))[0], particles.rotation).error_deg
    assert np.median(error) < 8


def candidates() -> Candidates:
    return Candidates(
        particle=torch.tensor([0, 0, 1]),
        rotation=torch.eye(3, dtype=torch.float64).expand(3, 3, 3),
        shift=torch.zeros((3, 3), dtype=torch.float64),
        chi2=torch.tensor([4.0, 5.0, 2.0], dtype=torch.float64),
        hessian=torch.eye(6, dtype=torch.float64).expand(3, 6, 6),
        weight=torch.tensor([0.73, 0.27, 1.0], dtype=torch.float64),
    )


def test_blurring_off_inserts_the_best_alone() -> None:
    alone = insertion_poses(candidates(), False, 1.0)
    assert alone.particle.tolist() == [0, 1]
    assert alone.chi2.tolist() == [4.0, 2.0]
    assert alone.weight.tolist() == [1.0, 1.0]


def test_smoothing_is_a_power_of_the_likelihood() -> None:
    flat = insertion_poses(candidates(), True, 0.5)
    assert float(flat.weight[0] / flat.weight[1]) == pytest.approx(np.exp(0.5))
    same = candidates()
    assert insertion_poses(same, True, 1.0) is same


def test_a_part_of_the_particles(start) -> None:
    problem, state, particles = start
    count = len(particles)
    some = run_round(problem, replace(state, plan=replace(state.plan, share=0.4)))
    seen = np.unique(some.kept.particle.numpy())
    assert len(seen) == pytest.approx(0.4 * count, abs=2)
    assert some.history[-1]["used_share"] == pytest.approx(0.4)
    # the next round searches for those that were left out, and leaves others as they are
    plan = replace(some.plan, search=True, share=1.0, searched="new")
    rest = run_round(problem, replace(some, plan=plan))
    assert len(np.unique(rest.kept.particle.numpy())) == count
    assert not np.isnan(rest.log_likelihood).any()


def test_what_a_round_leaves_out_keeps_its_pose(start) -> None:
    problem, state, particles = start
    first = run_round(problem, state)
    second = run_round(problem, replace(first, plan=replace(first.plan, share=0.5)))
    before, after = (best_poses(s.kept, len(particles))[0] for s in (first, second))
    same = (before == after).all(axis=(1, 2))
    assert 0.4 < same.mean() < 0.6
    np.testing.assert_array_equal(first.log_likelihood[same], second.log_likelihood[same])


def test_only_the_best_go_into_the_map(kit, noisy) -> None:
    """A third of the images holds nothing: left out of the map, they no longer add noise to it."""
    particles, images, molecule = noisy
    data = images.data.copy()
    rng = np.random.default_rng(3)
    junk = rng.permutation(len(particles))[: len(particles) // 3]
    data[junk] = rng.normal(size=data[junk].shape) * data.std()
    loader = kit.loader_of(particles, kit.Images(data))
    problem = kit.problem_of(loader)
    map_ = lowpass(Volume(data=kit.on_scale_of(loader, molecule), pixel_size_angstrom=kit.PIXEL), 20.0).data
    state = kit.state_of(problem, map_)
    sums = []
    for best in (1.0, 0.6):
        after = run_round(problem, replace(state, plan=replace(state.plan, best=best)))
        a, b = (u.numpy() for u in after.unfiltered)
        noise, signal = ((a - b) / 2).std(), np.corrcoef((a + b).ravel(), molecule.ravel())[0, 1]
        sums.append((noise, signal))
        assert len(np.unique(after.kept.particle.numpy())) == len(particles)
    assert sums[1][1] > sums[0][1]
    assert after.history[-1]["used_share"] == pytest.approx(0.6)


def test_scores_are_correlations() -> None:
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(size=4000), rng.normal(size=4000)
    image = 0.6 * signal + noise
    gain = (image**2).sum() - ((image - 0.6 * signal) ** 2).sum()
    expected = 100 * np.corrcoef(image, signal)[0, 1]
    assert score_of(np.array([gain]), np.array([(image**2).sum()]))[0] == pytest.approx(expected, rel=0.05)


def test_fine_detail_of_particles_that_fit_badly_counts_less(kit, noisy) -> None:
    """A third of the images has noise of twice the strength that nobody tells the program of."""
    particles, images, molecule = noisy
    rng = np.random.default_rng(3)
    worse = rng.permutation(len(particles))[: len(particles) // 3]
    data = images.data.copy()
    data[worse] += 2 * rng.normal(size=data[worse].shape) * data.std()
    loader = kit.loader_of(particles, kit.Images(data))
    problem = kit.problem_of(loader)
    map_ = lowpass(Volume(data=kit.on_scale_of(loader, molecule), pixel_size_angstrom=kit.PIXEL), 20.0).data
    state = kit.state_of(problem, map_)
    fine, flat = [], []
    for weight in (0.0, 1e-6, 10.0):
        after = run_round(problem, replace(state, plan=replace(state.plan, score_weight=weight)))
        a, b = (u.numpy() for u in after.unfiltered)
        fine.append(fsc(a + b, molecule)[6:9].mean())
        flat.append(a)
    # inserted at once, or after all scores are known: the same sums but for the order of adding
    np.testing.assert_allclose(flat[0], flat[1], atol=2e-4 * flat[0].max())
    assert fine[2] > fine[0]


def test_one_map_for_both_halves(start) -> None:
    problem, state, _ = start
    together = replace(problem, schedule=replace(problem.schedule, scheme="cistem"))
    after = run_round(together, state)
    assert torch.equal(*after.maps)
    assert not torch.equal(*after.unfiltered)
    assert after.plan.refine_shell <= max(state.plan.refine_shell, after.history[-1]["resolution_angstrom"])
    apart = run_round(problem, state)
    assert not torch.equal(*apart.maps)


def test_rounds_search_for_some_by_chance_and_make_coarser_maps(start) -> None:
    problem, state, particles = start
    count = len(particles)
    problem = replace(problem, schedule=replace(problem.schedule, scheme="cistem"))
    first = run_round(problem, state)
    assert first.history[-1]["searched_share"] == 1
    assert first.searches.number.tolist() == [1] * count
    plan = replace(state.plan, round=1, searched="chance", map_shell=state.plan.refine_shell + 2)
    # just searched for: no chance, nor slices to search with
    second = run_round(problem, replace(first, plan=plan))
    assert second.history[-1]["searched_share"] == 0
    assert second.history[-1]["search"] == 0
    assert second.searches.since.tolist() == [1] * count
    finer = replace(plan, round=2, refine_shell=plan.refine_shell * 1.1)
    third = run_round(problem, replace(second, plan=finer))
    assert 0 < third.history[-1]["searched_share"] < 1
    assert np.mean(third.searches.number == 2) == third.history[-1]["searched_share"]
    # nothing was inserted beyond the limit of the maps
    cut = int(plan.map_shell)
    assert second.fsc[1 : cut + 1].min() > 0 and not second.fsc[cut + 1 :].any()
    power = [np.abs(np.fft.rfftn(s.unfiltered[0].numpy()))[0, 0] ** 2 for s in (first, second)]
    assert power[1][cut + 3 : 14].sum() < 1e-2 * power[0][cut + 3 : 14].sum()
    assert second.history[-1]["resolution_angstrom"] >= problem.schedule.extent_angstrom / cut


def test_centring_moves_map_and_poses_alike(kit, start) -> None:
    problem, state, particles = start
    moved = replace(state, maps=tuple(torch.roll(m, (0, 2, -1), dims=(0, 1, 2)) for m in state.maps))
    plain = run_round(problem, moved)
    after = run_round(replace(problem, centre=True), moved)
    offset = offset_voxels((plain.maps[0] + plain.maps[1]).numpy(), kit.PIXEL, np.eye(3)[None])
    assert np.abs(offset).max() >= 1
    left = offset_voxels((after.maps[0] + after.maps[1]).numpy(), kit.PIXEL, np.eye(3)[None])
    assert np.abs(left).max() == 0
    for name in ("unfiltered", "maps"):
        torch.testing.assert_close(getattr(after, name)[0], rolled(getattr(plain, name)[0], offset))
    # shifts of centred poses: the particles' true ones but for what the molecule itself is off centre
    rotation, shift, _ = best_poses(after.kept, len(particles))
    change = shift - best_poses(plain.kept, len(particles))[1]
    expected = -(rotation @ (offset / kit.BOX))
    np.testing.assert_allclose(change[:, :2], expected[:, :2], atol=1e-9)
    assert (change[:, 2] == 0).all()


def test_centring_keeps_to_what_the_symmetry_leaves_free() -> None:
    z, y, x = np.indices((24,) * 3) - 12
    blob = np.exp(-((z - 3) ** 2 + (y + 2) ** 2 + (x - 1) ** 2) / 8).astype(np.float32)
    assert offset_voxels(blob, 4.0, np.eye(3)[None]).tolist() == [1, -2, 3]
    assert offset_voxels(blob, 4.0, symmetry_group("C3").operators).tolist() == [0, 0, 3]
    assert offset_voxels(blob, 4.0, symmetry_group("D2").operators).tolist() == [0, 0, 0]
    assert offset_voxels(np.zeros_like(blob), 4.0, np.eye(3)[None]).tolist() == [0, 0, 0]
    centred = rolled(torch.from_numpy(blob), np.array([1, -2, 3])).numpy()
    assert np.unravel_index(centred.argmax(), centred.shape) == (12, 12, 12)


def test_tilted_views_move_in_three_dimensions() -> None:
    turned = replace(candidates(), rotation=torch.diag(torch.tensor([-1.0, -1, 1]).double()).expand(3, 3, 3))
    offset = np.array([1, 2, 3])
    assert moved_poses(turned, offset, 10, True).shift[0].tolist() == pytest.approx([0.1, 0.2, -0.3])
    assert moved_poses(turned, offset, 10, False).shift[0].tolist() == pytest.approx([0.1, 0.2, 0.0])


def test_a_hollow_sphere_and_its_edge(kit) -> None:
    distance = np.sqrt(sum((np.indices((kit.BOX,) * 3) - kit.BOX // 2) ** 2)) * kit.PIXEL
    hollow = Solvent.within(
        kit.BOX,
        kit.PIXEL,
        100.0,
        automatic=False,
        outer_radius_angstrom=40.0,
        inner_radius_angstrom=20.0,
        edge_angstrom=8.0,
    )
    assert hollow.sphere[distance < 12].max() == 0
    assert hollow.sphere[(distance > 20) & (distance < 40)].min() == 1
    assert hollow.sphere[distance > 48].max() == 0
    wide = Solvent.within(kit.BOX, kit.PIXEL, 100.0)
    assert wide.sphere[distance < 55].min() == 1


def test_the_edge_of_a_mask_that_follows_the_map(kit) -> None:
    molecule = torch.from_numpy(kit.blobs())
    narrow, wide = (
        Solvent.within(kit.BOX, kit.PIXEL, kit.DIAMETER, edge_angstrom=e).mask(molecule, molecule).numpy()
        for e in (4.0, 24.0)
    )
    soft = [((m > 0.01) & (m < 0.99)).sum() for m in (narrow, wide)]
    assert soft[1] > 2 * soft[0]


def test_what_lies_outside_the_mask(kit) -> None:
    given = np.zeros((kit.BOX,) * 3, np.float32)
    given[:, :, : kit.BOX // 2] = 1
    rng = np.random.default_rng(0)
    map_ = torch.from_numpy(rng.normal(size=given.shape).astype(np.float32))
    made = [
        Solvent.within(kit.BOX, kit.PIXEL, 100.0, given=given, outside_weight=w, outside_lowpass_angstrom=low)
        for w, low in ((0.0, None), (0.5, None), (0.5, 40.0))
    ]
    mask = made[0].mask(map_, map_)
    none, half, filtered = (s.applied(map_, mask) for s in made)
    outside = (made[0].sphere == 1) & (given == 0)
    assert (none[outside] == 0).all()
    torch.testing.assert_close(half[outside], 0.5 * map_[outside])
    assert filtered[outside].std() < 0.3 * half[outside].std()
    for one in (none, half, filtered):
        torch.testing.assert_close(one[mask == 1], map_[mask == 1])


def test_where_a_curve_crosses() -> None:
    curve = np.array([1, 1, 0.9, 0.7, 0.3, 0.1])
    assert crossing_shell(curve, 0.5) == pytest.approx(3.5)
    assert crossing_shell(np.ones(6), 0.5) == 5
