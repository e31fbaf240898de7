"""Options of the engine that several jobs have: one declaration for each."""

from typing import Any

from parhelion.registry import option


def blurring_option(group: str) -> Any:
    """``--blurring``."""
    return option(
        True, help="every pose goes into the maps with its likelihood; otherwise the best alone", group=group
    )


def smoothing_option(group: str) -> Any:
    """``--smoothing``."""
    return option(
        1.0,
        help="below 1, likelihoods blur more: they count to this power",
        unit="1",
        ge=0.05,
        le=1,
        group=group,
    )


def auto_mask_option(group: str) -> Any:
    """``--auto-mask``."""
    return option(
        True, help="follow the molecule by a generous mask; otherwise a sphere is used", group=group
    )


def outer_radius_option(group: str, *, of: str) -> Any:
    """``--outer-radius`` of the sphere outside which ``of``, such as maps, are empty."""
    return option(
        None,
        help=f"radius of the sphere outside which {of} are empty",
        unit="Å",
        gt=0,
        le=5000,
        default_text="0.55 of the diameter",
        group=group,
    )


def inner_radius_option(group: str) -> Any:
    """``--inner-radius`` of that sphere."""
    return option(0.0, help="radius inside which that sphere is hollow", unit="Å", ge=0, le=5000, group=group)
