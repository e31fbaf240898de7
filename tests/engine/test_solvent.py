"""Masks of references: given, automatic, or a sphere."""

import numpy as np
import torch

from parhelion.engine.solvent import Solvent


def halves(kit, noise: float, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    molecule = kit.blobs()
    first, second = (
        torch.from_numpy((molecule + noise * rng.normal(size=molecule.shape)).astype(np.float32))
        for _ in range(2)
    )
    return first, second, molecule


def test_the_automatic_mask_holds_the_molecule_and_little_else(kit) -> None:
    a, b, molecule = halves(kit, 0.2)
    solvent = Solvent.within(kit.BOX, kit.PIXEL, kit.DIAMETER)
    mask = solvent.mask(a, b).numpy()
    assert (molecule * mask).sum() > 0.97 * molecule.sum()
    assert mask.sum() < 0.8 * solvent.sphere.sum()
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert (mask <= solvent.sphere + 1e-6).all()


def test_a_given_mask_is_used_inside_the_sphere(kit) -> None:
    given = np.zeros((kit.BOX,) * 3, np.float32)
    given[10:20, 10:20, 10:20] = 1
    solvent = Solvent.within(kit.BOX, kit.PIXEL, kit.DIAMETER, given=given)
    a, b, _ = halves(kit, 0.2)
    np.testing.assert_array_equal(solvent.mask(a, b).numpy(), given * solvent.sphere)


def test_without_an_automatic_mask_the_sphere_is_used(kit) -> None:
    solvent = Solvent.within(kit.BOX, kit.PIXEL, kit.DIAMETER, automatic=False)
    a, b, _ = halves(kit, 0.2)
    np.testing.assert_array_equal(solvent.mask(a, b).numpy(), solvent.sphere)


def test_where_nothing_stands_out_the_sphere_is_used(kit) -> None:
    solvent = Solvent.within(kit.BOX, kit.PIXEL, kit.DIAMETER)
    flat = torch.zeros((kit.BOX,) * 3)
    np.testing.assert_array_equal(solvent.mask(flat, flat).numpy(), solvent.sphere)


def test_the_sphere_stays_in_the_box(kit) -> None:
    sphere = Solvent.within(kit.BOX, kit.PIXEL, 1000.0).sphere
    assert sphere[0, kit.BOX // 2, kit.BOX // 2] < 1
    assert sphere[kit.BOX // 2, kit.BOX // 2, kit.BOX // 2] == 1
