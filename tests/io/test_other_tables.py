"""Tables of cryoSPARC and cisTEM against what is known of the same particles."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from parhelion.errors import FormatError, MetadataError
from parhelion.geometry import rotations
from parhelion.io.cistem import read_cistem
from parhelion.io.cryosparc import read_cryosparc, stated_contrast
from parhelion.io.particles import check_images, read_particles, write_particles
from parhelion.io.source import StackSource


def records(n: int = 4, **changed: object) -> np.ndarray:
    """A cryoSPARC table of ``n`` particles; ``changed`` fields are set everywhere."""
    fields = [("uid", "u8"), ("blob/path", "S20"), ("blob/idx", "u4"), ("blob/shape", "u4", (2,))]
    fields += [("blob/psize_A", "f4"), ("blob/sign", "f4"), ("ctf/exp_group_id", "u4")]
    fields += [
        (f"ctf/{x}", "f4") for x in ("accel_kv", "cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad")
    ]
    fields += [("ctf/phase_shift_rad", "f4"), ("ctf/tilt_A", "f4", (2,)), ("ctf/scale", "f4")]
    fields += [("ctf/shift_A", "f4", (2,)), ("ctf/trefoil_A", "f4", (2,)), ("ctf/tetra_A", "f4", (4,))]
    fields += [("ctf/anisomag", "f4", (4,))]
    fields += [
        ("alignments3D/pose", "f4", (3,)),
        ("alignments3D/shift", "f4", (2,)),
        ("alignments3D/psize_A", "f4"),
    ]
    fields += [("alignments3D/split", "u4"), ("alignments3D/class", "u4")]
    table = np.zeros(n, np.dtype(fields))
    table["uid"] = 2**64 - 1 - np.arange(n, dtype=np.uint64)
    table["blob/path"], table["blob/idx"], table["blob/shape"] = b">J1/a.mrcs", np.arange(n)[::-1], 8
    table["blob/psize_A"], table["blob/sign"], table["alignments3D/psize_A"] = 1.31, -1, 2.62
    table["ctf/accel_kv"], table["ctf/cs_mm"], table["ctf/amp_contrast"] = 300, 2.7, 0.1
    table["ctf/df1_A"], table["ctf/df2_A"], table["ctf/df_angle_rad"] = 12000, 11000, np.pi / 4
    table["ctf/phase_shift_rad"], table["ctf/scale"] = np.pi / 2, 1
    table["alignments3D/pose"] = np.random.default_rng(0).normal(size=(n, 3))
    table["alignments3D/shift"], table["alignments3D/split"] = (2, -1), np.arange(n) % 2
    for name, value in changed.items():
        table[name] = value
    return table


def saved(path: Path, table: np.ndarray) -> Path:
    with path.open("wb") as stream:
        np.save(stream, table)
    return path


def test_units_and_counts(tmp_path: Path) -> None:
    table = records()
    particles = read_cryosparc(saved(tmp_path / "a.cs", table))
    views, group = particles.views, particles.optics[0]
    assert (group.pixel_size_angstrom, group.voltage_kv, group.box, group.name) == (1.31, 300, 8, "expGroup0")
    assert views.image_path == (tmp_path / "J1/a.mrcs",)
    assert views.image_index.tolist() == [3, 2, 1, 0]
    np.testing.assert_allclose(views.defocus_angle_deg, 45, atol=1e-5)
    np.testing.assert_allclose(views.phase_shift_deg, 90, atol=1e-5)
    assert particles.half is not None and particles.half.tolist() == [1, 2, 1, 2]
    assert particles.class_number is not None and particles.class_number.tolist() == [1] * 4
    # shifts are in pixels of the alignment, in RELION's direction
    np.testing.assert_allclose(particles.shift_xyz_angstrom, [[5.24, -2.62, 0]] * 4, atol=1e-6)
    assert particles.rotation is not None
    expected = Rotation.from_rotvec(table["alignments3D/pose"].astype(float)).inv().as_matrix()
    np.testing.assert_allclose(particles.rotation, expected, atol=1e-7)
    assert particles.extra["cryosparcUid"][0] == str(2**64 - 1)
    assert stated_contrast(particles) == "black"


def test_poses_survive_as_star(tmp_path: Path) -> None:
    particles = read_particles(saved(tmp_path / "a.cs", records()))
    write_particles(tmp_path / "a.star", particles)
    back = read_particles(tmp_path / "a.star")
    assert particles.rotation is not None and back.rotation is not None
    assert rotations.angle_between(particles.rotation, back.rotation).max() < 1e-5
    assert stated_contrast(back) == "black"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ctf/tilt_A", 0.1, r"ctf/tilt_A is set \(beam tilt times Cs.*refine-ctf finds"),
        ("ctf/shift_A", 0.1, "ctf/shift_A is set"),
        ("ctf/trefoil_A", 100.0, "ctf/trefoil_A is set"),
        ("ctf/tetra_A", 100.0, "ctf/tetra_A is set"),
        ("ctf/anisomag", 0.01, "ctf/anisomag is set"),
        ("ctf/scale", 0.5, "ctf/scale is set"),
        ("ctf/accel_kv", 30, "rlnVoltage is 30"),
        ("blob/psize_A", np.nan, "pixel size is nan"),
        ("alignments3D/pose", np.inf, "alignments3D/pose"),
    ],
)
def test_what_is_refused(tmp_path: Path, field: str, value: float, message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        read_cryosparc(saved(tmp_path / "a.cs", records(**{field: value})))


def test_damaged_and_dangerous_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.cs", records())
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(FormatError, match="promises 4 particles"):
        read_cryosparc(path)
    path.write_bytes(content.replace(b"'shape': (4,)", b"'shape': (4" + b"0" * 12 + b",)")[: len(content)])
    with pytest.raises(FormatError):
        read_cryosparc(path)
    with pytest.raises(FormatError, match="no cryoSPARC table"):
        read_cryosparc(saved(path, np.array([{"a": 1}], dtype=object)))
    with pytest.raises(MetadataError, match="holds no particles"):
        read_cryosparc(saved(path, records(0)))
    with pytest.raises(MetadataError, match=r"lacks blob/path, .*; found: uid"):
        read_cryosparc(saved(path, records()[["uid"]]))


def test_contrast_must_agree(tmp_path: Path) -> None:
    table = records()
    table["blob/sign"][0] = 1
    with pytest.raises(MetadataError, match="not the same"):
        stated_contrast(read_cryosparc(saved(tmp_path / "a.cs", table)))


def test_the_same_particles_in_cs_and_star(test_data: Path) -> None:
    folder = test_data / "formats/cryosparc"
    cs, star = (read_particles(folder / f"empiar_10076_7.{kind}") for kind in ("cs", "star"))
    assert stated_contrast(cs) == "black" and stated_contrast(star) is None
    for name in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg", "phase_shift_deg"):
        np.testing.assert_allclose(getattr(cs.views, name), getattr(star.views, name), atol=0.01)
    a, b = cs.optics[0], star.optics[0]
    assert a.pixel_size_angstrom == pytest.approx(b.pixel_size_angstrom, rel=1e-6)
    assert (a.voltage_kv, a.spherical_aberration_mm, a.amplitude_contrast) == (300, 2.7, 0.07)
    assert (b.voltage_kv, b.spherical_aberration_mm, b.amplitude_contrast) == (300, 2.7, 0.07)
    assert len(check_images(cs)[0]) == 7
    images = [StackSource(particles).images(np.arange(7)) for particles in (cs, star)]
    np.testing.assert_array_equal(*images)


def test_a_table_of_a_refinement(test_data: Path) -> None:
    particles = read_particles(test_data / "formats/cryosparc/cryosparc_P12_J24_001_particles.cs")
    assert len(particles) == 2019
    assert particles.half is not None and set(particles.half) == {1, 2}
    assert particles.rotation is not None
    np.testing.assert_allclose(np.linalg.det(particles.rotation), 1)


def test_cistem_against_the_truth(test_data: Path) -> None:
    path = test_data / "peers/blob_cistem_auto_refine.star"
    # its columns do not name the stack, a comment on top does
    assert read_particles(path).views.image_path == (path.with_name("particles.mrc"),)
    truth = read_particles(test_data / "blob_particles/truth.star")
    found = read_cistem(path, stack=test_data / "blob_particles/particles.mrcs")
    assert found.optics[0].voltage_kv == 300 and len(check_images(found)[0]) == 600
    truth = truth.take(found.views.image_index)
    assert found.rotation is not None and truth.rotation is not None
    assert found.shift_xyz_angstrom is not None and truth.shift_xyz_angstrom is not None
    error = rotations.angle_between(found.rotation, truth.rotation)
    # cisTEM's own accuracy on this stack; another convention would give more than 90°
    assert np.median(error) < 9
    good = error < 10
    assert np.median(np.abs(found.shift_xyz_angstrom - truth.shift_xyz_angstrom)[good][:, :2]) < 0.7
    np.testing.assert_allclose(found.views.defocus_u_angstrom, truth.views.defocus_u_angstrom)


def test_cistem_phase_shift_is_in_radians(tmp_path: Path) -> None:
    labels = "PositionInStack AnglePhi AngleTheta AnglePsi XShift YShift Defocus1 Defocus2 DefocusAngle "
    labels += (
        "PhaseShift PixelSize MicroscopeVoltagekV MicroscopeCsMM AmplitudeContrast StackFilename BeamTiltX"
    )
    head = "data_\n\nloop_\n" + "".join(f"_cisTEM{label}\n" for label in labels.split())
    row = "2 10 20 30 1 -2 9000 8000 15 1.5707963 1.2 300 2.7 0.1 'a.mrcs' "
    path = tmp_path / "a.star"
    path.write_text(head + row + "0\n")
    particles = read_particles(path)
    assert particles.views.phase_shift_deg[0] == pytest.approx(90, abs=1e-4)
    assert particles.views.image_index.tolist() == [1]
    np.testing.assert_allclose(particles.rotation, rotations.from_relion(10, 20, 30))
    np.testing.assert_allclose(particles.shift_xyz_angstrom, [[-1, 2, 0]])
    path.write_text((head + row + "0\n").replace("'a.mrcs'", "''"))
    with pytest.raises(MetadataError, match="does not name its stack"):
        read_particles(path)
    path.write_text(head + row + "0.5\n")
    assert read_particles(path).optics[0].beam_tilt_xy_mrad == (0.5, 0.0)


def test_cistem_image_shifts_move_as_relions_origins(tmp_path: Path) -> None:
    """Where the particle is, less how far the image is moved on account of the tilt."""
    labels = "PositionInStack AnglePhi AngleTheta AnglePsi XShift YShift Defocus1 Defocus2 DefocusAngle "
    labels += "PixelSize MicroscopeVoltagekV MicroscopeCsMM AmplitudeContrast StackFilename "
    labels += "BeamTiltX BeamTiltY ImageShiftX ImageShiftY"
    head = "data_\n\nloop_\n" + "".join(f"_cisTEM{label}\n" for label in labels.split())
    path = tmp_path / "a.star"
    rows = "2 10 20 30 1 -2 9000 8000 15 1.2 300 2.7 0.1 'a.mrcs' 0.5 -0.25 0.3 -0.7\n"
    rows += "3 10 20 30 1 -2 9000 8000 15 1.2 300 2.7 0.1 'a.mrcs' 0 0 0 0\n"
    path.write_text(head + rows)
    notes: list[str] = []
    particles = read_particles(path, notes=notes)
    np.testing.assert_allclose(particles.shift_xyz_angstrom, [[-0.7, 1.3, 0], [-1, 2, 0]])
    tilts = [particles.optics[g].beam_tilt_xy_mrad for g in particles.views.optics_group]
    assert tilts == [(0.5, -0.25), (0.0, 0.0)]
    assert any("image shifts" in note for note in notes)
