"""How maps of classes are filtered before particles are compared with them."""

import numpy as np
import torch

from parhelion.engine.classes import _wiener, filtered_by_shell


def test_what_both_halves_agree_on_is_not_filtered_at_all() -> None:
    volume = torch.randn((16, 16, 16), generator=torch.Generator().manual_seed(1)) + 0.5
    # up to Nyquist, the coarsest and the finest shell too, which have one neighbour only
    factor = _wiener(volume, volume, 8)
    np.testing.assert_allclose(factor, 1.0, atol=1e-5)
    assert float((filtered_by_shell(volume[None], factor)[0].mean() - volume.mean()).abs()) < 1e-5
