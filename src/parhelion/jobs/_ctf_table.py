"""Fits as columns of the table of micrographs, under RELION's labels where there are any."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from parhelion.model.micrographs import Micrographs

OPTIONAL = {
    "plane_x": "parhelionDefocusPlaneX",
    "plane_y": "parhelionDefocusPlaneY",
    "tilt_deg": "parhelionTiltAngle",
    "tilt_axis_deg": "parhelionTiltAxisAngle",
    "iciness": "parhelionIciness",
    "thickness_angstrom": "parhelionSampleThickness",
}
"""Values that not every run has; where only some rows have one, the others are 0."""


def with_fits(micrographs: "Micrographs", rows: Sequence[dict[str, Any]]) -> "Micrographs":
    """The micrographs ``(n)`` with what the ``n`` rows say."""
    import numpy as np

    from parhelion.model.micrographs import MicrographCtf

    def column(name: str) -> "np.ndarray":
        return np.array([0.0 if row.get(name) is None else row[name] for row in rows], dtype=np.float64)

    ctf = MicrographCtf(
        defocus_u_angstrom=column("defocus_u_angstrom"),
        defocus_v_angstrom=column("defocus_v_angstrom"),
        defocus_angle_deg=column("defocus_angle_deg"),
        phase_shift_deg=column("phase_shift_deg"),
        figure_of_merit=column("correlation"),
        max_resolution_angstrom=column("fit_resolution_angstrom"),
    )
    columns: dict[str, np.ndarray] = {
        "rlnCtfImage": np.array([f"{row['stem']}_ctf.mrc" for row in rows], dtype=object),
        "rlnCtfAstigmatism": column("defocus_u_angstrom") - column("defocus_v_angstrom"),
        "parhelionCtfSignificance": column("significance"),
        # 0: no aliasing up to the end of the spectrum
        "parhelionCtfAliasResolution": column("alias_resolution_angstrom"),
        "parhelionCtfConfident": np.array([int(row["confident"]) for row in rows]),
    }
    for name, label in OPTIONAL.items():
        if any(row.get(name) is not None for row in rows):
            columns[label] = column(name)
    return replace(micrographs, ctf=ctf, extra=micrographs.extra.with_columns(columns))
