"""Small files that the tests of readers and writers share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parhelion.io.mrc import StackWriter

HEAD_31 = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnMtfFileName #7
opticsGroup1 1 300.0 2.7 0.1 1.5 mtf.star

# version 30001

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnAngleRot #6
_rlnAngleTilt #7
_rlnAnglePsi #8
_rlnOriginXAngst #9
_rlnOriginYAngst #10
_rlnRandomSubset #11
_rlnMyColumn #12
"""


@pytest.fixture
def stack(tmp_path: Path) -> Callable[..., np.ndarray]:
    """Write ``count`` random images to ``name`` in the test's folder and return them."""

    def write(name: str, count: int = 5, box: int = 8, pixel: float = 1.5) -> np.ndarray:
        images = np.random.default_rng(count).normal(size=(count, box, box)).astype(np.float32)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with StackWriter(path, count, (box, box), pixel) as writer:
            writer.write(0, images)
        return images

    return write


@pytest.fixture
def star31(tmp_path: Path) -> Callable[..., Path]:
    """Write a RELION 3.1 table with these image names and return its path."""

    def write(names: list[str], name: str = "particles.star", head: str = HEAD_31) -> Path:
        rows = [
            f"{n} 1 {10000 + i} 9800 30 {10 * i} {5 * i} 40 1.5 -3 {1 + i % 2} keep{i}"
            for i, n in enumerate(names)
        ]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + "\n".join(rows) + "\n\n")
        return path

    return write
