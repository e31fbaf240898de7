"""Micrographs of which many pixels have the greatest value: the detector, or a conversion, cut them."""

import numpy as np

NOTICED_SHARE = 0.01
PILED_UP = 2.0
"""So many times more pixels at the greatest value than at the next below are no tail of a distribution."""


def saturation(image: np.ndarray) -> str | None:
    """What is to be said of an image ``(y, x)`` cut at its greatest value; None where nothing is."""
    high = image.max()
    count = np.count_nonzero(image == high)
    if count <= NOTICED_SHARE * image.size or count == image.size or not np.isfinite(high):
        return None
    below = image[image < high]
    if count <= PILED_UP * np.count_nonzero(below == below.max()):
        return None
    return (
        f"{count / image.size:.0%} of its pixels hold the highest value, {high:g}: saturated? "
        "What was brighter is lost"
    )
