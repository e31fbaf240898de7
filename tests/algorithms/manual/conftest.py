"""Particles near their true poses, refined once as other options are compared with."""

from collections.abc import Callable

import numpy as np
import pytest

from manual_data import Data, mixed, molecule, refined, simulated
from parhelion.algorithms.manual.refinement import ManualResult


@pytest.fixture(scope="session")
def data() -> Data:
    return simulated(molecule())


@pytest.fixture(scope="session")
def mixture() -> tuple[Data, np.ndarray]:
    return mixed(0.3)


@pytest.fixture(scope="session")
def plain(data: Data) -> ManualResult:
    """One local cycle from poses near the truth, against the true map: what options are compared with."""
    return refined(data.images, data.near(), (data.truth,))


@pytest.fixture(scope="session")
def again(data: Data) -> Callable[..., ManualResult]:
    """The same with other settings."""

    def call(**settings: object) -> ManualResult:
        keywords = settings.pop("keywords", None)
        return refined(data.images, data.near(), (data.truth,), keywords, **settings)

    return call
