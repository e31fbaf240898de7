"""Templates and their local correlation with a micrograph."""

import numpy as np
import pytest
import torch

from parhelion.algorithms.picking.background import find_background
from parhelion.algorithms.picking.correlation import _patches, template_score
from parhelion.algorithms.picking.matched import whitened
from parhelion.algorithms.picking.reduced import reduce_micrograph
from parhelion.algorithms.picking.templates import (
    Templates,
    template_box,
    templates_from_classes,
    templates_from_map,
)
from parhelion.errors import InputError, ParameterError
from parhelion.model.volume import Volume

PIXEL, RADIUS = 8.0, 64.0


@pytest.fixture(scope="module")
def molecule() -> Volume:
    """An asymmetric molecule of blobs, 40³ voxels of 4 Å."""
    rng = np.random.default_rng(7)
    z, y, x = np.indices((40, 40, 40)) - 20
    data = np.zeros((40, 40, 40))
    for centre in rng.uniform(-9, 9, (12, 3)):
        data += np.exp(-((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) / (2 * 2.5**2))
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=4.0)


def of_map(molecule, **options):
    return templates_from_map(
        molecule,
        **{"radius_angstrom": RADIUS, "pixel_angstrom": PIXEL, "step_deg": 60.0, "rotations": 8, **options},
    )


def correlation(a, b):
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_classes_turn_as_projections_do(molecule) -> None:
    """A projection turned as a picture is the projection at the turned pose."""
    fine = of_map(molecule, pixel_angstrom=4.0, rotations=1)
    turned = templates_from_classes(
        fine.images, 4.0, radius_angstrom=RADIUS, pixel_angstrom=PIXEL, rotations=8
    )
    direct = of_map(molecule)
    assert len(turned) == len(direct) == 8 * len(fine)
    assert np.array_equal(turned.psi_deg, direct.psi_deg)
    assert np.array_equal(turned.number, direct.number)
    for row in range(0, len(direct), 5):
        assert correlation(turned.images[row], direct.images[row]) > 0.98
    assert correlation(turned.images[1], direct.images[7]) < 0.95


def test_symmetry_and_radial_average_need_fewer(molecule) -> None:
    every = of_map(molecule)
    assert len(of_map(molecule, symmetry="D2")) < 0.4 * len(every)
    round_ones = of_map(molecule, radial_average=True)
    assert len(round_ones) == len(every) // 8
    image = round_ones.images[0]
    middle = image.shape[0] // 2
    assert np.allclose(image[middle, middle + 1 :], image[middle + 1 :, middle], atol=1e-4)
    assert np.isclose(image[middle, middle + 5], image[middle + 3, middle + 4], rtol=1e-3)


def test_unusable_templates_are_refused(molecule) -> None:
    sizes = {"radius_angstrom": RADIUS, "pixel_angstrom": PIXEL, "rotations": 4}
    with pytest.raises(InputError, match="constant"):
        templates_from_classes(np.zeros((3, 40, 40), np.float32), 4.0, **sizes)
    with pytest.raises(InputError, match="larger ones"):
        templates_from_classes(np.random.default_rng(0).normal(size=(1, 12, 12)), 4.0, **sizes)
    with pytest.raises(InputError, match="square"):
        templates_from_classes(np.ones((1, 12, 16), np.float32), 4.0, **sizes)
    with pytest.raises(ParameterError, match="angular step"):
        of_map(molecule, step_deg=3.0, rotations=360)
    one_empty = np.stack([np.zeros((40, 40)), np.random.default_rng(0).normal(size=(40, 40))])
    assert set(templates_from_classes(one_empty, 4.0, **sizes).number) == {1}


@pytest.fixture(scope="module")
def scene(molecule):
    """A micrograph with templates 3 and 21 of the map at known places, white noise."""
    made = of_map(molecule)
    box = template_box(RADIUS, PIXEL)
    image = np.random.default_rng(8).normal(size=(220, 240)).astype(np.float32)
    places = {(70, 60): 3, (160, 150): 21}
    for (x, y), row in places.items():
        patch = made.images[row] / np.linalg.norm(made.images[row])
        image[y - box // 2 : y - box // 2 + box, x - box // 2 : x - box // 2 + box] += 14 * patch
    micrograph = reduce_micrograph(
        image,
        PIXEL,
        highest_resolution_angstrom=2 * PIXEL,
        largest_radius_angstrom=RADIUS,
        white=True,
    )
    background = find_background(micrograph, radius_angstrom=RADIUS, count=60, choice="near-mode")
    return micrograph, background, made, places


def test_particles_are_found_with_their_view_and_turn(scene) -> None:
    micrograph, background, made, places = scene
    found = template_score(micrograph, background, made, None)
    for place, row in places.items():
        y, x = np.round(micrograph.from_micrograph(np.array([place], float))[0]).astype(int)
        near = found.score[y - 3 : y + 4, x - 3 : x + 4]
        at = np.unravel_index(np.argmax(near), near.shape)
        assert near.max() > 7
        assert abs(at[0] - 3) <= 1
        assert abs(at[1] - 3) <= 1
        best = int(found.best(np.array([y - 3 + at[0]]), np.array([x - 3 + at[1]]))[0])
        assert made.number[best] == made.number[row]
        turn = abs(made.psi_deg[best] - made.psi_deg[row])
        assert min(turn, 360 - turn) <= 45


def test_against_the_definition_pixel_by_pixel(scene) -> None:
    """The largest of all templates' local correlation coefficients, times the root of the mask's pixels."""
    micrograph, background, made, _ = scene
    few = Templates(
        images=made.images[[3, 21, 30]],
        number=made.number[[3, 21, 30]],
        psi_deg=made.psi_deg[[3, 21, 30]],
        pixel_angstrom=PIXEL,
        radius_angstrom=RADIUS,
    )
    found = template_score(micrograph, background, few, None)
    shape = micrograph.data.shape
    image = torch.fft.irfft2(whitened(micrograph, background), s=shape).numpy()
    box = few.images.shape[-1]
    axis = (np.arange(box) - box // 2) * PIXEL
    mask = np.hypot(axis[:, None], axis[None]) <= RADIUS
    patches = _patches(few, background, None, torch.from_numpy(mask)).numpy()
    for y, x in ((60, 70), (100, 40), (150, 160)):
        window = image[y - box // 2 : y - box // 2 + box, x - box // 2 : x - box // 2 + box][mask]
        window = (window - window.mean()) / np.linalg.norm(window - window.mean())
        expected = float((patches @ window).max()) * np.sqrt(mask.sum())
        assert np.isclose(found.score[y, x], expected, rtol=0.04, atol=0.06)


def test_a_template_without_contrast_is_named(scene) -> None:
    micrograph, background, made, _ = scene
    flat = Templates(
        images=np.zeros_like(made.images[:2]),
        number=made.number[:2],
        psi_deg=made.psi_deg[:2],
        pixel_angstrom=PIXEL,
        radius_angstrom=RADIUS,
    )
    with pytest.raises(InputError, match="no contrast"):
        template_score(micrograph, background, flat, None)
