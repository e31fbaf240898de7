"""Particles between programs: what RELION, cisTEM, FREALIGN and cryoSPARC can all hold survives every way.

No ``.par`` of FREALIGN is at hand: examples here are built from its published columns.
"""

import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parhelion.errors import FormatError, MetadataError, OutputError
from parhelion.geometry import rotations
from parhelion.io.cistem_writer import write_cistem
from parhelion.io.cryosparc import UID, read_cryosparc, stated_contrast, with_coordinates
from parhelion.io.exchange import ImageFacts, with_contrast
from parhelion.io.formats import FORMATS
from parhelion.io.frealign import read_par, write_par
from parhelion.io.mrc import StackWriter, read_volume
from parhelion.io.particles import read_particles, with_box
from parhelion.model.particles import OpticsGroup, ParticleSet, Views
from parhelion.model.table import Table

PROGRAMS = {
    "star": ".star",
    "star30": ".star",
    "cistem": ".star",
    "cs": ".cs",
    "par": ".par",
    "cistem-binary": ".cistem",
}
FACTS = ImageFacts(
    stack=Path("a.mrcs"), voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.07
)
PAR = (
    "C           PSI   THETA     PHI       SHX       SHY     MAG  FILM      DF1      DF2  ANGAST  PSHIFT"
    "     OCC      LogP      SIGMA   SCORE  CHANGE\n"
    "      1   30.00   20.00   10.00      1.50     -2.25   10000     3  15301.1  14916.4    5.28    1.57"
    "  100.00     -1927     2.5581   74.39    0.04\n"
    "      2  330.00  120.00  210.00     -3.00      4.00   10000    -1  15303.0  14918.4    5.28    1.57"
    "   50.00     -1900     2.5000   70.00    0.00\n"
)


def particles(
    folder: Path, angles: np.ndarray, shifts: np.ndarray, *, count: int | None = None, phase_deg: float = 0.0
) -> ParticleSet:
    """Particles at these RELION angles and shifts (x, y in Å), in one stack, their order reversed."""
    n = len(angles) if count is None else count
    zero, ones = np.zeros(n, np.int64), np.ones(n)
    views = Views(
        image_path=(folder / "a.mrcs",),
        path_id=zero,
        image_index=np.arange(n)[::-1].copy(),
        particle=np.arange(n),
        optics_group=zero,
        defocus_u_angstrom=12000.0 + 10 * np.arange(n),
        defocus_v_angstrom=11000.0 * ones,
        defocus_angle_deg=np.linspace(1, 170, n),
        phase_shift_deg=phase_deg * ones,
        ctf_bfactor_angstrom2=0 * ones,
        ctf_scale=ones,
        noise_group=zero,
    )
    group = OpticsGroup(
        name="g",
        pixel_size_angstrom=1.31,
        voltage_kv=300,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.07,
    )
    made = ParticleSet(
        optics=(group,), views=views, count=n, half=1 + np.arange(n) % 2, class_number=1 + np.arange(n) % 3
    )
    return made.with_poses(rotations.from_relion(*angles.T), np.column_stack([shifts, np.zeros(n)]))


def assert_same(a: ParticleSet, b: ParticleSet, *, degrees: float, angstrom: float) -> None:
    """Poses, CTF, optics and images agree to these accuracies."""
    assert len(a) == len(b)
    assert a.views.image_path == b.views.image_path
    np.testing.assert_array_equal(a.views.image_index, b.views.image_index)
    assert a.rotation is not None and b.rotation is not None
    assert rotations.angle_between(a.rotation, b.rotation).max() < degrees
    np.testing.assert_allclose(a.shift_xyz_angstrom, b.shift_xyz_angstrom, atol=angstrom)
    for name, tolerance in (
        ("defocus_u_angstrom", 0.06),
        ("defocus_v_angstrom", 0.06),
        ("phase_shift_deg", 0.01),
    ):
        np.testing.assert_allclose(getattr(a.views, name), getattr(b.views, name), atol=tolerance)
    turn = np.abs(a.views.defocus_angle_deg - b.views.defocus_angle_deg) % 180
    assert np.minimum(turn, 180 - turn).max() < 0.01
    for name in ("pixel_size_angstrom", "voltage_kv", "spherical_aberration_mm", "amplitude_contrast"):
        assert getattr(a.optics[0], name) == pytest.approx(getattr(b.optics[0], name), rel=1e-5)


@pytest.fixture
def some(tmp_path: Path) -> ParticleSet:
    rng = np.random.default_rng(1)
    angles = np.column_stack([rng.uniform(-180, 180, 7), rng.uniform(0, 180, 7), rng.uniform(-180, 180, 7)])
    return particles(tmp_path, angles, rng.normal(0, 5, (7, 2)), phase_deg=90.0)


@pytest.mark.parametrize("first", PROGRAMS)
@pytest.mark.parametrize("second", PROGRAMS)
def test_every_way_and_back(tmp_path: Path, some: ParticleSet, first: str, second: str) -> None:
    given = with_contrast(some, white=False)
    for program in (first, second):
        path = tmp_path / f"{program}{PROGRAMS[program]}"
        write = FORMATS[program].write
        assert write is not None
        write(path, given)
        given = read_particles(path)
    assert_same(given, some, degrees=0.002, angstrom=2e-4)
    if "cistem-binary" not in (first, second):
        assert stated_contrast(given) == "black"
    if "par" not in (first, second):
        np.testing.assert_array_equal(given.half, some.half)
        np.testing.assert_array_equal(given.class_number, some.class_number)


ANGLE = st.floats(-720, 720, allow_nan=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(ANGLE, st.floats(0, 180), ANGLE, st.floats(-500, 500), st.floats(-500, 500)),
        min_size=1,
        max_size=5,
    ),
    phase_deg=st.floats(0, 180),
)
def test_any_pose_survives(tmp_path: Path, rows: list[tuple[float, ...]], phase_deg: float) -> None:
    values = np.array(rows)
    values[0, 3] += 1.0  # a table of zeros alone counts as one without poses
    before = particles(tmp_path, values[:, :3], values[:, 3:], phase_deg=phase_deg)
    for program in ("par", "cistem", "cistem-binary", "cs"):
        path = tmp_path / f"any{PROGRAMS[program]}"
        write = FORMATS[program].write
        assert write is not None
        write(path, before)
        # a rotation vector at half a turn keeps float32's digits, six
        assert_same(read_particles(path), before, degrees=0.005, angstrom=2e-4)


def test_columns_of_par(tmp_path: Path) -> None:
    path = tmp_path / "a.par"
    path.write_text(PAR)
    notes: list[str] = []
    found = read_par(path, 1.31, notes, facts=FACTS)
    assert len(found) == 1 and "1 of 2 particles are switched off" in notes[0]
    np.testing.assert_allclose(found.rotation, rotations.from_relion(10, 20, 30))
    # FREALIGN says where the particle is, parhelion how far to move it
    np.testing.assert_allclose(found.shift_xyz_angstrom, [[-1.5, 2.25, 0]])
    assert found.views.phase_shift_deg[0] == pytest.approx(np.degrees(1.57))
    assert (found.views.image_index[0], found.views.defocus_u_angstrom[0]) == (0, 15301.1)
    assert found.views.defocus_angle_deg[0] == 5.28
    assert (found.extra["frealignFilm"][0], found.extra["cisTEMLogP"][0]) == (3, -1927)
    assert found.half is None


def test_sixteen_columns_have_no_phase_shift(tmp_path: Path) -> None:
    path = tmp_path / "a.par"
    path.write_text(PAR.replace("    1.57", ""))
    found = read_par(path, 1.31, facts=FACTS)
    assert found.views.phase_shift_deg[0] == 0
    assert found.extra["cisTEMOccupancy"][0] == 100


def test_par_is_written_in_frealigns_columns(tmp_path: Path, some: ParticleSet) -> None:
    notes: list[str] = []
    write_par(tmp_path / "out.par", some, notes)
    lines = (tmp_path / "out.par").read_text().splitlines()
    heads = next(line for line in lines if "PSI" in line)
    rows = [line for line in lines if not line.startswith("C")]
    ends = np.cumsum([7, 8, 8, 8, 10, 10, 8, 6, 9, 9, 8, 8, 8, 10, 11, 8, 8]).tolist()
    for row in rows:
        assert len(row) == ends[-1]
        assert all(row[end] == " " for end in ends[:-1])
        assert len(row.split()) == 17
    assert heads.index("SHX") < heads.index("MAG") < heads.index("PSHIFT") < heads.index("CHANGE")
    assert any("half sets" in note for note in notes)


def test_par_numbers_the_micrographs(tmp_path: Path, some: ParticleSet) -> None:
    names = np.array(["b.mrc", "b.mrc", "a.mrc", "c.mrc", "a.mrc", "b.mrc", "c.mrc"], dtype=object)
    write_par(tmp_path / "a.par", replace(some, extra=Table({"rlnMicrographName": names})))
    assert read_particles(tmp_path / "a.par").extra["frealignFilm"].tolist() == [1, 1, 2, 3, 2, 1, 3]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("   20.00   10.00", "   20.00", "line 2: found 16 columns|expected 16 numbers"),
        (
            "  1.57  100.00     -1927     2.5581",
            "  1.57",
            "found 14 columns, FREALIGN 9 and cisTEM write 16 or 17",
        ),
        ("15303.0", "hello", "line 3: expected 17 numbers"),
        ("15301.1", "1e9", "rlnDefocusU is 1e\\+09"),
        ("   30.00   20.00", "     nan   20.00", "rlnAnglePsi is nan"),
    ],
)
def test_damaged_par(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in PAR
    path = tmp_path / "a.par"
    path.write_text(PAR.replace(old, new, 1))
    with pytest.raises((FormatError, MetadataError), match=message):
        read_par(path, 1.31, facts=FACTS)


def test_what_a_par_does_not_say_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.par"
    path.write_text(PAR)
    with pytest.raises(
        MetadataError, match=r"--voltage, --cs, --amplitude-contrast; give them to parhelion conv"
    ):
        read_par(path, 1.31, facts=ImageFacts(stack=Path("a.mrcs")))
    with pytest.raises(MetadataError, match=r"does not name its stack .* --stack"):
        read_par(path, 1.31, facts=replace(FACTS, stack=None))


def test_facts_in_comments_of_cistem_1(tmp_path: Path) -> None:
    """The comments that refine3d of cisTEM 1 writes make a .par complete."""
    head = (
        "C Written by parhelion's test\nC Input particle images:                   stack.mrc\n"
        "C Pixel size of images (A):                1.310000\n"
        "C Beam energy (keV):                       200.0\n"
        "C Spherical aberration (mm):               1.4\nC Amplitude contrast:                      0.1\n"
        "C Invert particle contrast:                No\n"
    )
    path = tmp_path / "a.par"
    path.write_text(head + PAR)
    found = read_particles(path)
    group = found.optics[0]
    assert (group.pixel_size_angstrom, group.voltage_kv, group.spherical_aberration_mm) == (1.31, 200.0, 1.4)
    assert found.views.image_path == (tmp_path / "stack.mrc",)
    assert stated_contrast(found) == "black"
    path.write_text(head.replace("200.0", "20000") + PAR)
    with pytest.raises(MetadataError, match="Beam energy"):
        read_particles(path)


def test_binary_of_cistem_is_laid_out_as_published(tmp_path: Path, some: ParticleSet) -> None:
    """Counts, identifiers and types, then rows; a column that is not known is passed over."""
    path = tmp_path / "a.cistem"
    write = FORMATS["cistem-binary"].write
    assert write is not None
    write(path, some)
    content = path.read_bytes()
    assert struct.unpack_from("<iiqB", content) == (33, 7, 1, 9)
    rows = [struct.pack("<IfffffffdI", i + 1, 10, 20, 30, 1, -2, 9000, 8000, 0.5, 7) for i in range(3)]
    bits = [(0, 9), (23, 3), (22, 3), (2, 3), (3, 3), (4, 3), (5, 3), (6, 3), (50, 6), (32, 9)]
    head = struct.pack("<ii", len(bits), 3) + b"".join(struct.pack("<qB", 1 << b, c) for b, c in bits)
    path.write_bytes(head + b"".join(rows))
    with pytest.raises(MetadataError, match="lacks cisTEMDefocusAngle"):
        read_particles(path)
    bits[8] = (7, 6)
    head = struct.pack("<ii", len(bits), 3) + b"".join(struct.pack("<qB", 1 << b, c) for b, c in bits)
    head = head.replace(struct.pack("<q", 1 << 32), struct.pack("<q", 1 << 51))
    path.write_bytes(head + b"".join(rows))
    notes: list[str] = []
    facts = replace(FACTS, pixel_size_angstrom=1.5)
    found = FORMATS["cistem-binary"].read(path, None, notes, facts=facts)
    np.testing.assert_allclose(found.rotation[0], rotations.from_relion(10, 20, 30)[0])
    np.testing.assert_allclose(found.shift_xyz_angstrom[0], [-1, 2, 0])
    assert found.views.defocus_angle_deg.tolist() == [0.5] * 3
    assert "1 columns of an unknown kind" in notes[0]


@pytest.mark.parametrize("program", ["cistem", "cistem-binary"])
def test_beam_tilts_come_back_from_cistem(tmp_path: Path, some: ParticleSet, program: str) -> None:
    other = replace(some.optics[0], name="h", beam_tilt_xy_mrad=(-0.30125, 1.5))
    groups = (replace(some.optics[0], beam_tilt_xy_mrad=(0.125, 0.0)), other)
    views = replace(some.views, optics_group=np.arange(7) % 2)
    path = tmp_path / f"tilted{PROGRAMS[program]}"
    write = FORMATS[program].write
    assert write is not None
    write(path, replace(some, optics=groups, views=views))
    again = read_particles(path)
    found = np.array([again.optics[g].beam_tilt_xy_mrad for g in again.views.optics_group])
    expected = np.array([groups[g].beam_tilt_xy_mrad for g in views.optics_group])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert_same(again, some, degrees=0.002, angstrom=2e-4)
    tilt_groups = np.asarray(again.extra["cisTEMBeamTiltGroup"], float)
    assert len(np.unique(tilt_groups)) == 2


def test_what_other_programs_cannot_hold_is_refused_or_said(tmp_path: Path, some: ParticleSet) -> None:
    tilted = replace(some, optics=(replace(some.optics[0], beam_tilt_xy_mrad=(0.1, 0.0)),))
    two = replace(
        some,
        views=replace(
            some.views, image_path=(tmp_path / "a.mrcs", tmp_path / "b.mrcs"), path_id=np.arange(7) % 2
        ),
    )
    for program in ("par", "cs"):
        write = FORMATS[program].write
        assert write is not None
        with pytest.raises(MetadataError, match="beam tilt"):
            write(tmp_path / "x.out", tilted)
    with pytest.raises(MetadataError, match="2 stacks"):
        write_par(tmp_path / "x.par", two)
    notes: list[str] = []
    scaled = replace(two, views=replace(two.views, ctf_scale=np.full(7, 0.9)))
    write_cistem(tmp_path / "x.star", scaled, notes)
    assert any("CTF scale factors have no column" in note for note in notes)
    assert any("2 stacks" in note for note in notes)
    assert read_particles(tmp_path / "x.star").views.image_path == two.views.image_path
    with pytest.raises(OutputError):
        write_par(tmp_path / "gone/x.par", some)


def test_identifiers_of_cryosparc(tmp_path: Path, some: ParticleSet) -> None:
    write = FORMATS["cs"].write
    assert write is not None
    write(tmp_path / "a.cs", some)
    made = read_cryosparc(tmp_path / "a.cs")
    assert len(set(made.extra[UID])) == 7
    write(tmp_path / "b.cs", made)
    assert read_cryosparc(tmp_path / "b.cs").extra[UID].tolist() == made.extra[UID].tolist()
    same = replace(made, extra=made.extra.with_columns({UID: np.full(7, "12", dtype=object)}))
    write(tmp_path / "c.cs", same)
    assert len(set(np.load(tmp_path / "c.cs", allow_pickle=False)["uid"])) == 7


def test_cryosparc_files_survive(test_data: Path, tmp_path: Path) -> None:
    """Tables of cryoSPARC itself, read, written and read again, hold the same values field by field."""
    for name in ("empiar_10076_7.cs", "cryosparc_P12_J24_001_particles.cs"):
        source = test_data / "formats/cryosparc" / name
        write = FORMATS["cs"].write
        assert write is not None
        write(tmp_path / "again.cs", read_particles(source))
        theirs, ours = (np.load(p, allow_pickle=False) for p in (source, tmp_path / "again.cs"))
        assert set(ours.dtype.names) & set(theirs.dtype.names) >= {
            "blob/idx",
            "blob/sign",
            "ctf/df_angle_rad",
        }
        for field in set(ours.dtype.names) & set(theirs.dtype.names):
            if field in ("blob/path", "ctf/type", "ctf/exp_group_id", "ctf/scale_const"):
                continue
            if field == "alignments3D/pose":
                turns = rotations.angle_between(*(rotations.from_cryosparc(t[field]) for t in (theirs, ours)))
                assert turns.max() < 1e-3
                continue
            assert theirs[field].dtype == ours[field].dtype, field
            np.testing.assert_allclose(ours[field], theirs[field], rtol=1e-5, atol=2e-6, err_msg=field)


def test_poses_of_cistem_against_the_truth_after_par(test_data: Path, tmp_path: Path) -> None:
    """cisTEM's own table, written as .par and read again: still where the truth is."""
    found = read_particles(test_data / "peers/blob_cistem_auto_refine.star")
    assert stated_contrast(found) == "white"
    write_par(tmp_path / "a.par", found)
    again = read_particles(tmp_path / "a.par")
    truth = read_particles(test_data / "blob_particles/truth.star")
    assert again.rotation is not None and truth.rotation is not None
    error = rotations.angle_between(again.rotation, truth.rotation[again.views.image_index])
    assert np.median(error) < 9
    np.testing.assert_allclose(again.extra["cisTEMScore"], found.extra["cisTEMScore"], atol=0.006)


@pytest.mark.parametrize("program", ["star", "star30", "par", "cs", "cistem"])
def test_relion_reconstructs_what_came_through_other_programs(tmp_path: Path, program: str) -> None:
    """A point off the centre, projected at known poses; the particles went through ``program`` and back."""
    relion = shutil.which("relion_reconstruct")
    if relion is None:
        pytest.skip("relion_reconstruct is not installed")
    box, pixel, point = 32, 1.31, np.array([4.0, -3.0, 5.0])
    rng = np.random.default_rng(2)
    angles = np.column_stack([rng.uniform(-180, 180, 200), np.degrees(np.arccos(rng.uniform(-1, 1, 200)))])
    angles = np.column_stack([angles, rng.uniform(-180, 180, 200)])
    shifts = rng.uniform(-3, 3, (200, 2))
    given = particles(tmp_path, angles, shifts)
    assert given.rotation is not None
    y, x = np.indices((box, box)) - box // 2
    at = (given.rotation @ point)[:, :2] - shifts / pixel
    images = np.exp(-((x - at[:, 0, None, None]) ** 2 + (y - at[:, 1, None, None]) ** 2) / 2)
    with StackWriter(tmp_path / "a.mrcs", 200, (box, box), pixel) as writer:
        writer.write(0, images[::-1].astype(np.float32))
    path = tmp_path / f"through{PROGRAMS[program]}"
    write = FORMATS[program].write
    assert write is not None
    write(path, given)
    last = FORMATS["star30" if program == "star30" else "star"].write
    assert last is not None
    # RELION wants the box in the table, which programs without that column leave to the images
    last(tmp_path / "ours.star", with_box(read_particles(path)))
    subprocess.run(
        [relion, "--i", "ours.star", "--o", "map.mrc"], cwd=tmp_path, check=True, capture_output=True
    )
    density = read_volume(tmp_path / "map.mrc", pixel).data
    found = np.array(np.unravel_index(int(density.argmax()), density.shape))[::-1] - box // 2
    np.testing.assert_array_equal(found, point)


def cryosparc_tables(folder: Path, some: ParticleSet) -> tuple[Path, Path]:
    """A job's table without CTF, and its passthrough table, in another order, with CTF and positions."""
    write = FORMATS["cs"].write
    assert write is not None
    write(folder / "whole.cs", some)
    whole = np.load(folder / "whole.cs", allow_pickle=False)
    main = [n for n in whole.dtype.names if not n.startswith("ctf/")]
    with (folder / "J5_particles.cs").open("wb") as stream:
        np.save(stream, np.ascontiguousarray(whole[main]).astype([(n, whole.dtype[n]) for n in main]))
    rest = ["uid", *(n for n in whole.dtype.names if n.startswith("ctf/"))]
    place = [("location/micrograph_path", "S20"), ("location/micrograph_shape", "<u4", (2,))]
    place += [("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4")]
    more = np.zeros(len(whole), [*((n, whole.dtype[n]) for n in rest), *place])
    for name in rest:
        more[name] = whole[name]
    more["location/micrograph_path"], more["location/micrograph_shape"] = b">S1/a.mrc", (3000, 4000)
    more["location/center_x_frac"], more["location/center_y_frac"] = 0.25, 0.125
    with (folder / "J5_passthrough_particles.cs").open("wb") as stream:
        np.save(stream, more[::-1].copy())
    (folder / "whole.cs").unlink()
    return folder / "J5_particles.cs", folder / "J5_passthrough_particles.cs"


def test_passthrough_of_cryosparc_is_joined(tmp_path: Path, some: ParticleSet) -> None:
    main, passthrough = cryosparc_tables(tmp_path, some)
    notes: list[str] = []
    found = read_particles(main, notes=notes)
    assert_same(found, some, degrees=0.002, angstrom=2e-4)
    assert "taken from J5_passthrough_particles.cs" in " ".join(notes)
    others = np.load(passthrough, allow_pickle=False)
    others["uid"] += 1
    with passthrough.open("wb") as stream:
        np.save(stream, others)
    with pytest.raises(MetadataError, match="passthrough table beside it"):
        read_particles(main)


def test_positions_of_cryosparc(tmp_path: Path, some: ParticleSet) -> None:
    found = read_particles(cryosparc_tables(tmp_path, some)[0])
    assert found.extra["rlnMicrographName"].tolist() == ["S1/a.mrc"] * 7
    for flipped, y in ((False, 375), (True, 2625)):
        placed = with_coordinates(found, flipped).extra
        assert (placed["rlnCoordinateX"][0], placed["rlnCoordinateY"][0]) == (1000, y)
    write = FORMATS["cs"].write
    assert write is not None
    write(tmp_path / "again.cs", found)
    again = np.load(tmp_path / "again.cs", allow_pickle=False)
    assert again["location/center_y_frac"].tolist() == [0.125] * 7
    assert again["location/micrograph_shape"].tolist() == [[3000, 4000]] * 7
    with pytest.raises(MetadataError, match="do not say where they lay"):
        with_coordinates(some, flipped=False)
