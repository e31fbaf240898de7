"""The conventions that hold everywhere in parhelion, and where other programs differ.

This is the one place that states them; ``docs/conventions.md`` shows the same tables, and each row names the
test that holds it. Units are converted and axes flipped in ``io`` and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """What parhelion does about ``topic``; ``test`` is ``path::function`` below ``tests``."""

    topic: str
    rule: str
    test: str


@dataclass(frozen=True)
class Difference:
    """What ``package`` does otherwise, how parhelion meets it, and the test that holds the meeting."""

    topic: str
    package: str
    theirs: str
    ours: str
    test: str


def centre_pixel(size: int) -> int:
    """The pixel (0-based) that a particle's centre, or a map's origin, lies on in a box of ``size``."""
    return size // 2


CONVENTIONS = (
    Convention(
        "units",
        "Å, degrees, kV, mm (Cs), mrad (beam tilt), e⁻/Å² (dose); a physical scalar carries its unit in its "
        "name",
        "test_conventions.py::test_physical_scalars_carry_their_unit",
    ),
    Convention(
        "axes",
        "arrays are `z, y, x`; vectors and matrices are in the order x, y, z",
        "test_conventions.py::test_projections_of_relion_are_predicted",
    ),
    Convention(
        "centre",
        "pixel `n // 2`, in even and odd boxes",
        "test_conventions.py::test_a_point_at_the_centre_has_no_phase",
    ),
    Convention(
        "contrast",
        "protein is white: positive density, positive images",
        "test_conventions.py::test_projections_of_relion_are_predicted",
    ),
    Convention(
        "orientation",
        "a matrix `A` with `x_image = A x_volume`; RELION's angles: `A = (Rz(rot) Ry(tilt) Rz(psi))ᵀ`; the "
        "central slice at image frequency `(kx, ky)` is the volume's transform at `Aᵀ (kx, ky, 0)`",
        "test_conventions.py::test_projections_of_relion_are_predicted",
    ),
    Convention(
        "shift",
        "in Å, carries the particle to the centre of its box: the image shows the projection moved by minus "
        "the shift",
        "test_conventions.py::test_projections_of_relion_are_predicted",
    ),
    Convention(
        "CTF",
        "`√(1−w²) sin χ + w cos χ`, `χ = π λ Δf s² − ½ π Cs λ³ s⁴ + phase shift`; underfocus is positive, "
        "CTF(0) = +w",
        "optics/test_ctf.py::test_formula_at_hundreds_of_radians",
    ),
    Convention(
        "astigmatism",
        "`Δf = (U+V)/2 + (U−V)/2 cos 2(θ−α)`, the defocus angle α counts from +x towards +y",
        "optics/test_ctf.py::test_relion_applies_the_same_ctf",
    ),
    Convention(
        "B-factor",
        "amplitudes fall as `exp(−B s²/4)`",
        "optics/test_ctf.py::test_relion_applies_the_same_ctf",
    ),
    Convention(
        "FSC in tables",
        "`fsc.star` has every curve; `statistics*.txt` of every job the one that resolutions are read from, "
        "inside the mask and freed of what the mask adds (`fsc` without a mask: as it is), as its first line "
        "says",
        "jobs/test_reconstruct.py::test_statistics_in_cistems_columns",
    ),
    Convention(
        "even aberrations",
        "RELION's even Zernike terms are subtracted from χ",
        "optics/test_ctf.py::test_relion_applies_the_same_ctf",
    ),
    Convention(
        "odd aberrations",
        "an image's transform is multiplied by `exp(iφ)`; φ is RELION's odd Zernike sum plus "
        "`−2π Cs λ² s² (τ·k)` of the beam tilt τ",
        "optics/test_aberrations.py::test_relion_demodulates_the_same_phase",
    ),
    Convention(
        "magnification",
        "an image shows at `k` what an undistorted one shows at `M k`: slice, CTF and aberrations",
        "optics/test_aberrations.py::test_phase_is_evaluated_at_the_magnified_frequencies",
    ),
    Convention(
        "symmetry",
        "`V(x) = V(R x)` for each operator `R`, in RELION's settings; the poses `A` and `A R` show the same "
        "image",
        "geometry/test_symmetry.py::test_operators_are_relions",
    ),
    Convention(
        "helix",
        "along z; `V(x) = V(Rz(twist) x + rise z)`, a positive twist is right-handed",
        "geometry/test_symmetry.py::test_helix_is_right_handed_like_relions",
    ),
)

DIFFERENCES = (
    Difference(
        "orientation",
        "cisTEM, FREALIGN",
        "phi, theta, psi",
        "the same matrix as rot, tilt, psi",
        "geometry/test_rotations.py::test_cistem_poses_agree_with_the_truth",
    ),
    Difference(
        "orientation",
        "SPIDER",
        "phi, theta, psi",
        "the same matrix as rot, tilt, psi",
        "geometry/test_rotations.py::test_spider_and_frealign_share_relions_matrix",
    ),
    Difference(
        "orientation",
        "EMAN2",
        "az, alt, phi about z, x, z",
        "az = rot + 90°, alt = tilt, phi = psi − 90°",
        "geometry/test_rotations.py::test_eman2_matrix_is_that_of_the_package",
    ),
    Difference(
        "orientation",
        "cryoSPARC",
        "rotation vector in radians",
        "`A = exp([v]×)ᵀ`",
        "geometry/test_rotations.py::test_cryosparc_vector_is_the_transposed_exponential",
    ),
    Difference(
        "sign of shifts",
        "cisTEM",
        "moves the projection onto the image",
        "the negative",
        "test_conventions.py::test_cistem_table_becomes_relions_conventions",
    ),
    Difference(
        "icosahedral setting",
        "cisTEM",
        "`I` and `I1` are RELION's `I1`; RELION's `I` is `I2`",
        "`symmetry_group(name, setting='cistem')`",
        "geometry/test_symmetry.py::test_cistem_settings",
    ),
    Difference(
        "tetrahedral setting",
        "cisTEM",
        "`T` has twofolds along x, y and z; `T2` is RELION's `T`",
        "`symmetry_group(name, setting='cistem')`",
        "geometry/test_symmetry.py::test_cistem_operators",
    ),
    Difference(
        "platonic settings",
        "EMAN2",
        "`icos` is RELION's `I4`, `icos2` its `I1`, `tet` its `T` turned by 180° about z, `oct` its `O`",
        "`symmetry_group(name, setting='eman2')`",
        "geometry/test_symmetry.py::test_eman2_operators",
    ),
    Difference(
        "helical turn",
        "EMAN2",
        "`h<units>,<starts>,<daz>,<rise>` turns clockwise seen from +z",
        "twist = −daz",
        "geometry/test_symmetry.py::test_eman2_helix",
    ),
    Difference(
        "image numbers",
        "RELION",
        "`000001@file` is the first image",
        "indices count from 0",
        "test_conventions.py::test_image_numbers_of_tables_count_from_one",
    ),
    Difference(
        "image numbers",
        "cisTEM",
        "`cisTEMPositionInStack` counts from 1",
        "indices count from 0",
        "test_conventions.py::test_cistem_table_becomes_relions_conventions",
    ),
    Difference(
        "image numbers, classes, half sets",
        "cryoSPARC",
        "`blob/idx` counts from 0, as do classes and halves",
        "indices count from 0; classes and halves from 1",
        "test_conventions.py::test_cryosparc_table_equals_relions_of_the_same_particles",
    ),
    Difference(
        "angles of the CTF",
        "cryoSPARC",
        "radians",
        "degrees",
        "test_conventions.py::test_cryosparc_table_equals_relions_of_the_same_particles",
    ),
    Difference(
        "y axis",
        "cryoSPARC",
        "positions in micrographs may count from the bottom; pixels, CTF and poses do not",
        "particles are read without a flip, positions kept as fractions: `convert --positions`",
        "test_conventions.py::test_cryosparc_table_equals_relions_of_the_same_particles",
    ),
    Difference(
        "contrast",
        "cryoSPARC",
        "`blob/sign` −1 for black protein",
        "the sign is passed on with the table, and images are turned white",
        "test_conventions.py::test_cryosparc_table_equals_relions_of_the_same_particles",
    ),
    Difference(
        "contrast",
        "cisTEM, FREALIGN",
        "black protein; images with white protein are inverted, as a comment on top of the table says",
        "read from and written into that comment",
        "io/test_exchange.py::test_facts_in_comments_of_cistem_1",
    ),
    Difference(
        "shifts, image numbers, switched-off particles",
        "FREALIGN 9",
        "as in cisTEM; columns in a fixed order, a negative film switches a particle off",
        "the negative; from 0; left out with a notice",
        "io/test_exchange.py::test_columns_of_par",
    ),
    Difference(
        "half sets",
        "FREALIGN",
        "odd and even numbers of particles",
        "none are read, and a notice says that none are written",
        "io/test_exchange.py::test_par_is_written_in_frealigns_columns",
    ),
    Difference(
        "phase shift",
        "cisTEM, FREALIGN",
        "radians",
        "degrees",
        "io/test_exchange.py::test_columns_of_par",
    ),
    Difference(
        "FSC in statistics",
        "cisTEM",
        "inside the mask",
        "inside the mask, freed by random phases of what the mask adds",
        "jobs/test_reconstruct.py::test_statistics_in_cistems_columns",
    ),
    Difference(
        "rows of TIFF files",
        "TIFF",
        "a page begins with the top row, an MRC section with the bottom row",
        "pages are turned upside down on reading and writing, as in RELION and IMOD; EER frames are not",
        "io/test_movies.py::test_relion_reads_the_same",
    ),
    Difference(
        "shifts before 3.1",
        "RELION",
        "`rlnOriginX`, `rlnOriginY` in pixels",
        "in Å, without change of sign",
        "test_conventions.py::test_origins_of_relion_keep_their_sign_and_become_angstrom",
    ),
    Difference(
        "`.mrc` and `.mrcs`",
        "RELION, cisTEM",
        "stacks are called `.mrcs` by RELION, `.mrc` by cisTEM",
        "a particle table's file is read as a stack whatever it is called",
        "test_conventions.py::test_a_stack_may_be_called_mrc",
    ),
    Difference(
        "wavelength",
        "RELION",
        "constants that differ by 5·10⁻⁶",
        "CODATA 2018",
        "optics/test_ctf.py::test_relion_applies_the_same_ctf",
    ),
)


def conventions_markdown() -> str:
    """The table of conventions as in ``docs/conventions.md``."""
    rows = [(one.topic, one.rule, f"`{one.test}`") for one in CONVENTIONS]
    return _markdown(("about", "in parhelion", "held by"), rows)


def differences_markdown() -> str:
    """The table of differences as in ``docs/conventions.md``."""
    rows = [(one.topic, one.package, one.theirs, one.ours, f"`{one.test}`") for one in DIFFERENCES]
    return _markdown(("about", "package", "there", "here", "held by"), rows)


def _markdown(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows))
