"""RELION's particle tables: reading, checking, and writing what RELION reads again."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parhelion.errors import FormatError, MetadataError, OutputError, ParameterError
from parhelion.geometry import rotations
from parhelion.io.particles import check_images, read_particles, write_particles
from parhelion.io.relion_writer import write_relion
from parhelion.io.star import read_star, write_star
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table

StarWriter = Callable[..., Path]
StackMaker = Callable[..., np.ndarray]
NAMES = ["000003@a.mrcs", "1@sub/b.mrcs", "000001@a.mrcs"]


@pytest.fixture
def table(star31: StarWriter, stack: StackMaker) -> Path:
    stack("a.mrcs")
    stack("sub/b.mrcs", count=2)
    return star31(NAMES)


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def assert_same(a: ParticleSet, b: ParticleSet) -> None:
    assert len(a) == len(b)
    used = [p.optics[i] for p in (a, b) for i in np.unique(p.views.optics_group)]
    assert used[: len(used) // 2] == used[len(used) // 2 :]
    for name in (
        "image_index",
        "defocus_u_angstrom",
        "defocus_v_angstrom",
        "defocus_angle_deg",
        "phase_shift_deg",
    ):
        np.testing.assert_allclose(getattr(a.views, name), getattr(b.views, name), atol=1e-6)
    paths = [[p.views.image_path[i] for i in p.views.path_id] for p in (a, b)]
    assert paths[0] == paths[1]
    for name in ("half", "class_number", "shift_xyz_angstrom"):
        first, second = getattr(a, name), getattr(b, name)
        assert (first is None) == (second is None)
        if first is not None:
            np.testing.assert_allclose(first, second, atol=2e-6)
    if a.rotation is not None and b.rotation is not None:
        assert rotations.angle_between(a.rotation, b.rotation).max() < 1e-4


def test_everything_is_read(table: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    particles = read_particles(table, notes=notes)
    assert notes == []
    group = particles.optics[0]
    assert (group.name, group.pixel_size_angstrom, group.voltage_kv) == ("opticsGroup1", 1.5, 300.0)
    assert (group.spherical_aberration_mm, group.amplitude_contrast) == (2.7, 0.1)
    views = particles.views
    assert [views.image_path[i] for i in views.path_id] == [
        tmp_path / "a.mrcs",
        tmp_path / "sub/b.mrcs",
        tmp_path / "a.mrcs",
    ]
    assert views.image_index.tolist() == [2, 0, 0]
    assert views.defocus_u_angstrom.tolist() == [10000, 10001, 10002]
    assert (views.ctf_scale.tolist(), views.phase_shift_deg.tolist()) == ([1, 1, 1], [0, 0, 0])
    np.testing.assert_allclose(particles.rotation, rotations.from_relion([0, 10, 20], [0, 5, 10], [40] * 3))
    assert particles.shift_xyz_angstrom is not None
    assert particles.shift_xyz_angstrom.tolist() == [[1.5, -3, 0]] * 3
    assert particles.half is not None and particles.half.tolist() == [1, 2, 1]
    assert particles.extra["rlnMyColumn"].tolist() == ["keep0", "keep1", "keep2"]


def test_round_trip_keeps_names_and_columns(table: Path, tmp_path: Path) -> None:
    particles = read_particles(table)
    write_particles(tmp_path / "out.star", particles)
    assert_same(particles, read_particles(tmp_path / "out.star"))
    blocks = read_star(tmp_path / "out.star")
    assert blocks["particles"]["rlnImageName"].tolist() == NAMES
    assert blocks["particles"]["rlnMyColumn"].tolist() == ["keep0", "keep1", "keep2"]
    assert blocks["optics"]["rlnMtfFileName"].tolist() == ["mtf.star"]
    assert set(blocks["optics"]) >= {"rlnImagePixelSize", "rlnImageDimensionality", "rlnOpticsGroupName"}


def test_written_elsewhere_the_images_are_still_found(table: Path, tmp_path: Path) -> None:
    particles = read_particles(table)
    (tmp_path / "job/deep").mkdir(parents=True)
    elsewhere = tmp_path.parent / (tmp_path.name + "_other")
    elsewhere.mkdir()
    for folder in (tmp_path / "job/deep", elsewhere):
        out = folder / "particles.star"
        write_particles(out, particles)
        assert read_star(out)["particles"]["rlnImageName"].tolist() == NAMES
        assert_same(read_particles(out), particles)
    # above its input the folder is found without help
    assert "image paths" not in (tmp_path / "job/deep/particles.star").read_text()


def test_new_images_get_new_names(table: Path, tmp_path: Path, stack: StackMaker) -> None:
    stack("new/c.mrcs", count=3)
    particles = read_particles(table)
    views = replace(
        particles.views,
        image_path=(tmp_path / "new/c.mrcs",),
        path_id=np.zeros(3, int),
        image_index=np.arange(3),
    )
    write_particles(tmp_path / "new/out.star", replace(particles, views=views))
    names = read_star(tmp_path / "new/out.star")["particles"]["rlnImageName"].tolist()
    assert names == ["000001@c.mrcs", "000002@c.mrcs", "000003@c.mrcs"]
    write_particles(tmp_path / "sub/out.star", replace(particles, views=views))
    assert read_particles(tmp_path / "sub/out.star").views.image_path == (tmp_path / "new/c.mrcs",)


def test_a_relative_path_is_written_relative_to_the_table(
    table: Path, tmp_path: Path, stack: StackMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--output made`` gives a folder that can be moved: names in it do not start with ``made/``."""
    stack("made/c.mrcs", count=3)
    monkeypatch.chdir(tmp_path)
    particles = read_particles(table)
    views = replace(
        particles.views,
        image_path=(Path("made/c.mrcs"),),
        path_id=np.zeros(3, int),
        image_index=np.arange(3),
    )
    write_particles("made/out.star", replace(particles, views=views))
    names = read_star(tmp_path / "made/out.star")["particles"]["rlnImageName"].tolist()
    assert names == ["000001@c.mrcs", "000002@c.mrcs", "000003@c.mrcs"]


def test_relion_30_and_back(table: Path, tmp_path: Path) -> None:
    particles = read_particles(table)
    write_relion(tmp_path / "old.star", particles, version="3.0")
    blocks = read_star(tmp_path / "old.star")
    assert list(blocks) == [""]
    assert blocks[""]["rlnOriginX"].tolist() == [1, 1, 1]
    assert blocks[""]["rlnOriginY"].tolist() == [-2, -2, -2]
    back = read_particles(tmp_path / "old.star")
    assert back.optics[0].pixel_size_angstrom == pytest.approx(1.5)
    assert_same(back, replace(particles, optics=back.optics))
    with pytest.raises(ParameterError, match=r"2\.0"):
        write_relion(tmp_path / "x.star", particles, version="2.0")  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["3.1", "3.0"])
def test_relion_reads_what_is_written(table: Path, tmp_path: Path, version: str) -> None:
    program = shutil.which("relion_star_handler")
    if program is None:
        pytest.skip("relion_star_handler is not installed")
    particles = read_particles(table)
    write_relion(tmp_path / "ours.star", particles, version=version)  # type: ignore[arg-type]
    # RELION 3.1 turns a table of 3.0 into one of its own
    command = [program, "--i", "ours.star", "--o", "theirs.star", "--select", "rlnDefocusU"]
    subprocess.run([*command, "--minval", "10001"], cwd=tmp_path, check=True, capture_output=True)
    theirs = read_particles(tmp_path / "theirs.star")
    assert_same(theirs, replace(particles.take(np.array([1, 2])), optics=theirs.optics))


@pytest.mark.parametrize(
    ("name", "count", "groups", "pixel"),
    [
        ("relion31.star", 5, 1, 2.806),
        ("relion31.6opticsgroups.star", 139, 6, 1.25),
        ("relion5.star", 17, 1, 0.89),
        ("sample_particles_relion30.star", 17, 2, 1.338),
        ("sample_particles_relion31.star", 17, 2, 1.4),
        ("ap_s_c2d_red.star", 9, 1, 3.54),
        ("relion_proj_batch.star", 24, 1, 3.54),
    ],
)
def test_files_of_other_programs_survive(
    test_data: Path, tmp_path: Path, name: str, count: int, groups: int, pixel: float
) -> None:
    particles = read_particles(test_data / "formats/relion" / name)
    assert (len(particles), len(particles.optics)) == (count, groups)
    assert particles.optics[0].pixel_size_angstrom == pytest.approx(pixel, rel=1e-5)
    write_particles(tmp_path / "out.star", particles)
    back = read_particles(tmp_path / "out.star")
    assert_same(back, particles)
    given = read_star(test_data / "formats/relion" / name)
    kept = set(read_star(tmp_path / "out.star")["particles"])
    before = next(t for t in given.values() if "rlnImageName" in t)
    moved = {"rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMagnification"}
    moved |= {
        "rlnDetectorPixelSize",
        "rlnOriginX",
        "rlnOriginY",
        "rlnPhaseShift",
        "rlnCtfBfactor",
        "rlnCtfScalefactor",
    }
    assert set(before) - kept <= moved


def test_aberrations_are_read_and_written(test_data: Path, tmp_path: Path) -> None:
    particles = read_particles(test_data / "formats/relion/relion31.6opticsgroups.star")
    group = next(g for g in particles.optics if g.name == "opticsGroup6")
    assert group.beam_tilt_xy_mrad == (-1.28823, 2.446621)
    assert len(group.odd_zernike) == 6 and group.odd_zernike[0] == 2.87241841102
    assert len(group.even_zernike) == 9 and group.magnification[0] == 1.006131
    assert not group.ctf_premultiplied
    write_particles(tmp_path / "out.star", particles)
    assert set(read_particles(tmp_path / "out.star").optics) == set(particles.optics)
    for version, message in (("3.0", "odd Zernike terms, even Zernike terms, anisotropic magnification"),):
        with pytest.raises(MetadataError, match=message):
            write_relion(tmp_path / "old.star", particles, version=version)  # type: ignore[arg-type]


def test_premultiplied(table: Path, tmp_path: Path) -> None:
    edit(table, "_rlnMtfFileName #7", "_rlnCtfDataAreCtfPremultiplied #7")
    particles = read_particles(edit(table, "mtf.star", "1"))
    assert particles.optics[0].ctf_premultiplied
    write_particles(tmp_path / "out.star", particles)
    assert read_particles(tmp_path / "out.star").optics[0].ctf_premultiplied


def test_origins_in_pixels(table: Path) -> None:
    edit(table, "_rlnOriginXAngst", "_rlnOriginX")
    particles = read_particles(edit(table, "_rlnOriginYAngst", "_rlnOriginY"))
    assert particles.shift_xyz_angstrom is not None
    assert particles.shift_xyz_angstrom[0].tolist() == [2.25, -4.5, 0]


def test_given_pixel_size_rules(table: Path) -> None:
    notes: list[str] = []
    assert read_particles(table, pixel_size_angstrom=2.0, notes=notes).optics[0].pixel_size_angstrom == 2.0
    assert "says 1.5 Å per pixel; 2 Å is used" in notes[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "_rlnVoltage",
            "_rlnVolts",
            r"lacks rlnVoltage; found: rlnOpticsGroupName, rlnOpticsGroup, rlnVolts",
        ),
        ("_rlnImagePixelSize", "_rlnPix", r"lacks the pixel size: .* --pixel-size"),
        ("_rlnDefocusU", "_rlnDef", r"lacks rlnDefocusU; found: rlnImageName, .*rlnDef,"),
        ("_rlnImageName", "_rlnName", "no table has rlnImageName"),
        ("300.0 2.7", "30000 2.7", r"rlnVoltage is 30000 in row 1 .* between 60 and 400 kV"),
        ("2.7 0.1", "27 0.1", r"rlnSphericalAberration is 27 "),
        ("2.7 0.1", "2.7 10", r"rlnAmplitudeContrast is 10 "),
        ("0.1 1.5", "0.1 nan", r"pixel size is nan"),
        ("1 10001 ", "1 1e6 ", r"rlnDefocusU is 1e\+06 in row 2 \(1 of 3 rows\)"),
        ("1 10001 ", "1 none ", r"rlnDefocusU holds 'none'"),
        ("1 10001 ", "7 10001 ", r"row 2 belongs to optics group 7 .* the optics table has 1"),
        ("1@sub/b.mrcs", "0@sub/b.mrcs", r"rlnImageName is '0@sub/b.mrcs' in row 2"),
        ("1@sub/b.mrcs", "x@sub/b.mrcs", r"rlnImageName is 'x@sub/b.mrcs'"),
        ("-3 2 keep1", "-3 3 keep1", r"rlnRandomSubset holds 1, 3"),
        ("-3 2 keep1", "inf 2 keep1", r"rlnOriginYAngst is inf in row 2"),
        ("40 1.5 -3 2", "inf 1.5 -3 2", r"rlnAnglePsi is inf in row 2"),
        ("_rlnMyColumn", "_rlnIsFlip", r"rlnIsFlip holds 'keep0'"),
        ("_rlnMyColumn", "_rlnTomoParticleName", r"rlnTomoParticleName marks particles of tilt series"),
        ("_rlnMtfFileName", "_rlnBeamTiltX", r"lacks rlnBeamTiltY"),
        ("_rlnMtfFileName", "_rlnOddZernike", r"rlnOddZernike is 'mtf.star'"),
    ],
)
def test_what_is_refused(table: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        read_particles(edit(table, old, new))


@pytest.mark.parametrize("label", ["rlnIsFlip", "rlnCtfDataArePhaseFlipped"])
def test_columns_that_change_the_mathematics(table: Path, label: str) -> None:
    edit(table, "_rlnMyColumn", f"_{label}")
    for i in range(3):
        edit(table, f"keep{i}", "0")
    assert len(read_particles(table)) == 3
    with pytest.raises(MetadataError, match=f"{label} is set"):
        read_particles(edit(table, "-3 2 0", "-3 2 1"))


def test_unusual_values_are_noted(table: Path) -> None:
    notes: list[str] = []
    read_particles(edit(table, "300.0 2.7", "400 4.5"), notes=notes)
    assert any("unusual voltage of 400 kV" in note for note in notes)
    assert any("unusual spherical aberration of 4.5 mm" in note for note in notes)


def test_no_particles(star31: StarWriter, tmp_path: Path) -> None:
    with pytest.raises(MetadataError, match="holds no particles"):
        read_particles(star31([]))
    (tmp_path / "words.star").write_text("hello")
    with pytest.raises(FormatError, match="before any data_"):
        read_particles(tmp_path / "words.star")


def test_without_poses(star31: StarWriter, tmp_path: Path) -> None:
    particles = read_particles(edit(star31(NAMES), "_rlnAngleRot", "_rlnSomething"))
    assert particles.rotation is None
    # what is not used comes back
    write_particles(tmp_path / "out.star", particles)
    assert "rlnAnglePsi" in read_star(tmp_path / "out.star")["particles"]
    posed = particles.with_poses(np.tile(np.eye(3), (3, 1, 1)), np.zeros((3, 3)))
    write_particles(tmp_path / "out.star", posed)
    assert read_star(tmp_path / "out.star")["particles"]["rlnAnglePsi"].tolist() == [0, 0, 0]


def test_duplicate_rows(table: Path) -> None:
    rows = [line for line in table.read_text().split("\n") if "keep" in line]
    again = rows[0].replace("000003@", "3@").replace("keep0", "keep3")
    table.write_text(table.read_text().rstrip("\n") + f"\n{again}\n{rows[2]}\n")
    notes: list[str] = []
    particles = read_particles(table, notes=notes)
    assert particles.extra["rlnMyColumn"].tolist() == ["keep0", "keep1", "keep2"]
    assert "2 of 5 rows repeat image and pose of an earlier row (first: row 4, 3@a.mrcs)" in notes[0]
    assert len(notes) == 1


def test_an_image_at_several_poses_is_several_particles(star31: StarWriter) -> None:
    notes: list[str] = []
    particles = read_particles(star31([*NAMES, "3@a.mrcs", "000001@a.mrcs"]), notes=notes)
    assert particles.extra["rlnMyColumn"].tolist() == [f"keep{i}" for i in range(5)]
    assert particles.views.image_index.tolist() == [2, 0, 0, 2, 0]
    assert "5 rows show 3 images" in notes[0]


def test_repeated_images_without_poses_are_dropped(star31: StarWriter) -> None:
    notes: list[str] = []
    path = edit(star31([*NAMES, "3@a.mrcs"]), "_rlnAngleRot", "_rlnSomething")
    assert len(read_particles(path, notes=notes)) == 3
    assert "1 of 4 rows repeat the image of an earlier row" in notes[0]


def test_missing_images_are_dropped(table: Path, star31: StarWriter) -> None:
    star31([*NAMES, "9@a.mrcs", "1@gone.mrcs", "2@gone.mrcs", "6@a.mrcs"])
    kept, notes = check_images(read_particles(table))
    assert kept.extra["rlnMyColumn"].tolist() == ["keep0", "keep1", "keep2"]
    assert kept.optics[0].box == 8
    assert len(notes) == 2
    assert (
        "points at image 9 of" in notes[0]
        and "a.mrcs, which holds 5: 2 particles dropped (rows 4, 7)" in notes[0]
    )
    assert "gone.mrcs: No such file or directory: 2 particles dropped (rows 5, 6)" in notes[1]
    with pytest.raises(MetadataError, match=r"no particle has an image: .*gone\.mrcs"):
        check_images(read_particles(star31(["1@gone.mrcs"])))


def test_damaged_stack_is_like_a_missing_one(table: Path, tmp_path: Path) -> None:
    (tmp_path / "sub/b.mrcs").write_bytes((tmp_path / "sub/b.mrcs").read_bytes()[:-1])
    kept, notes = check_images(read_particles(table))
    assert len(kept) == 2 and "truncated" in notes[0]


def test_images_of_several_sizes(table: Path, stack: StackMaker) -> None:
    stack("sub/b.mrcs", count=2, box=10)
    with pytest.raises(MetadataError, match=r"differ in size: 8 x 8 in .*, 10 x 10 in"):
        check_images(read_particles(table))


def test_project_folder_above_the_table(star31: StarWriter, stack: StackMaker, tmp_path: Path) -> None:
    stack("Extract/job007/a.mrcs")
    particles = read_particles(star31(["1@Extract/job007/a.mrcs"], name="Select/job008/particles.star"))
    assert particles.views.image_path == (tmp_path / "Extract/job007/a.mrcs",)


def test_groups_come_from_rows_before_31(tmp_path: Path) -> None:
    n = 6
    rows = {
        "rlnImageName": np.array([f"{i + 1}@a.mrcs" for i in range(n)], object),
        "rlnVoltage": np.array([300.0, 200, 300, 200, 300, 300]),
        "rlnSphericalAberration": np.full(n, 2.7),
        "rlnAmplitudeContrast": np.full(n, 0.1),
        "rlnDetectorPixelSize": np.full(n, 5.0),
        "rlnMagnification": np.array([50000.0] * 5 + [25000.0]),
        "rlnDefocusU": np.full(n, 1e4),
    }
    write_star(tmp_path / "old.star", {"": Table(rows)})
    notes: list[str] = []
    particles = read_particles(tmp_path / "old.star", notes=notes)
    groups = [particles.optics[i] for i in particles.views.optics_group]
    assert [g.voltage_kv for g in groups] == rows["rlnVoltage"].tolist()
    assert [g.pixel_size_angstrom for g in groups] == [1.0] * 5 + [2.0]
    assert len(particles.optics) == 3
    assert "no rlnDefocusV" in notes[0]


def test_tilt_series_are_not_squeezed_into_a_particle_table(table: Path, tmp_path: Path) -> None:
    particles = read_particles(table)
    two_views = replace(particles, count=2, views=replace(particles.views, particle=np.array([0, 0, 1])))
    with pytest.raises(MetadataError, match="3 images of 2 particles"):
        write_particles(tmp_path / "out.star", two_views)
    with pytest.raises(OutputError):
        write_particles(tmp_path / "none/out.star", particles)
