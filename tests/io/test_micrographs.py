"""Tables of movies and micrographs: RELION's variants, image files, and what is wrong with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parhelion.errors import InputError, MetadataError, OutputError
from parhelion.io.mrc import StackWriter
from parhelion.io.relion_micrographs import read_micrographs, stems, write_micrographs
from parhelion.io.star import read_star
from parhelion.model.micrographs import MicrographCtf

RELION_5 = """
# version 50001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMtfFileName #3
_rlnMicrographOriginalPixelSize #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
_rlnMicrographPixelSize #8
first 1 mtf.star 0.885 200 1.4 0.1 1.77
second 2 mtf.star 0.9 300 2.7 0.07 1.8

# version 50001

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
_rlnCtfImage #3
_rlnDefocusU #4
_rlnDefocusV #5
_rlnDefocusAngle #6
_rlnCtfFigureOfMerit #7
_rlnCtfMaxResolution #8
a/one.mrc 1 one.ctf:mrc 12000 11000 30 0.1 4.5
a/two.mrc 2 two.ctf:mrc nan 11000 30 0.1 4.5
"""
MOVIES_30 = """data_

loop_
_rlnMicrographMovieName
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnDetectorPixelSize
_rlnMagnification
_rlnMicrographDoseRate
_rlnMicrographPreExposure
_rlnMicrographGainName
m/one.tif 300 2.7 0.1 5 50000 1.2 2 gain.mrc
m/two.tif 300 2.7 0.1 5 50000 1.3 0 None
"""


def table(folder: Path, text: str) -> Path:
    path = folder / "in.star"
    path.write_text(text)
    return path


def image(path: Path, count: int = 1, pixel: float = 1.3) -> Path:
    with StackWriter(path, count, (8, 12), pixel) as writer:
        writer.write(0, np.random.default_rng(0).normal(size=(count, 8, 12)).astype(np.float32))
    return path


def test_micrographs_of_relion_5(tmp_path) -> None:
    notes: list[str] = []
    found = read_micrographs([table(tmp_path, RELION_5)], notes=notes)
    assert not found.movies
    assert found.name == ("a/one.mrc", "a/two.mrc")
    assert found.path[0] == tmp_path / "a/one.mrc"
    assert found.optics_group.tolist() == [0, 1]
    second = found.optics_of(1)
    assert (second.pixel_size_angstrom, second.voltage_kv) == (1.8, 300)
    assert (second.spherical_aberration_mm, second.amplitude_contrast) == (2.7, 0.07)
    assert found.ctf is not None
    assert found.ctf.defocus_u_angstrom[0] == 12000
    assert found.ctf.max_resolution_angstrom[0] == 4.5
    assert found.ctf.phase_shift_deg.tolist() == [0, 0]
    assert any("row 2" in note and "finite" in note for note in notes)


def test_movies_of_relion_3_0(tmp_path) -> None:
    found = read_micrographs([table(tmp_path, MOVIES_30)])
    assert found.movies
    assert found.optics[0].pixel_size_angstrom == pytest.approx(1.0)
    assert len(found.optics) == 1
    assert found.gain == (tmp_path / "gain.mrc", None)
    assert found.dose_per_frame.tolist() == [1.2, 1.3]
    assert found.pre_exposure.tolist() == [2, 0]
    assert found.ctf is None


def test_relions_own_table(test_data) -> None:
    found = read_micrographs([test_data / "formats/relion/corrected_micrographs.star"])
    assert len(found) > 10
    assert found.name[0] == "MotionCorr/job002/Movies/20170629_00021_frameImage.mrc"
    assert found.optics[0].pixel_size_angstrom == 0.885
    assert found.extra["rlnAccumMotionTotal"][0] == pytest.approx(14.467891)


def test_what_is_written_comes_back(tmp_path) -> None:
    for text in (RELION_5, MOVIES_30):
        first = read_micrographs([table(tmp_path, text)])
        write_micrographs(tmp_path / "out.star", first)
        again = read_micrographs([tmp_path / "out.star"])
        for name in ("optics", "path", "name", "movies", "gain"):
            assert getattr(again, name) == getattr(first, name), name
        np.testing.assert_array_equal(again.optics_group, first.optics_group)
        for column in first.extra:
            np.testing.assert_array_equal(again.extra[column], first.extra[column])
    optics = read_star(tmp_path / "out.star")["optics"]
    assert "rlnImagePixelSize" not in optics


def test_micrographs_keep_the_pixel_size_of_their_movies(tmp_path) -> None:
    movies = read_micrographs([table(tmp_path, MOVIES_30)])
    binned = replace(movies.optics[0], pixel_size_angstrom=2.0)
    made = replace(
        movies,
        movies=False,
        optics=(binned,),
        path=tuple(tmp_path / f"out/{stem}.mrc" for stem in stems(movies.name)),
        name=("out/one.mrc", "out/two.mrc"),
    )
    write_micrographs(tmp_path / "made.star", made)
    optics = read_star(tmp_path / "made.star")["optics"]
    assert optics["rlnMicrographPixelSize"][0] == 2.0
    assert optics["rlnMicrographOriginalPixelSize"][0] == pytest.approx(1.0)
    again = read_micrographs([tmp_path / "made.star"])
    assert again.path[0] == tmp_path / "out/one.mrc"
    assert again.optics[0].pixel_size_angstrom == 2.0


def test_a_table_written_elsewhere_leads_to_the_same_files(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    image(tmp_path / "a/one.mrc")
    first = read_micrographs([table(tmp_path, RELION_5)])
    (tmp_path.parent / "elsewhere").mkdir(exist_ok=True)
    out = tmp_path.parent / "elsewhere" / "out.star"
    write_micrographs(out, first)
    again = read_micrographs([out])
    assert again.path == first.path
    assert again.name == first.name


def test_image_files_with_given_values(tmp_path) -> None:
    paths = [image(tmp_path / "a.mrc"), image(tmp_path / "b.mrc", pixel=2.6)]
    notes: list[str] = []
    values = {"voltage_kv": 300, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
    found = read_micrographs(paths, notes=notes, **values)
    assert not found.movies
    assert [found.optics_of(i).pixel_size_angstrom for i in (0, 1)] == pytest.approx([1.3, 2.6])
    assert found.name[0] == str(paths[0])
    given_pixel = read_micrographs(paths, pixel_size_angstrom=1.1, **values)
    assert [g.pixel_size_angstrom for g in given_pixel.optics] == [1.1]
    movie = image(tmp_path / "m.mrcs", count=3)
    assert read_micrographs([movie], **values).movies


def test_missing_values_name_the_option(tmp_path) -> None:
    path = image(tmp_path / "a.mrc")
    with pytest.raises(MetadataError, match="--voltage"):
        read_micrographs([path])
    found = read_micrographs([path], needs=("pixel_size",), voltage_kv=200)
    assert np.isnan(found.optics[0].spherical_aberration_mm)
    write_micrographs(tmp_path / "out.star", found)
    assert "rlnSphericalAberration" not in read_star(tmp_path / "out.star")["optics"]
    with pytest.raises(MetadataError, match="--cs"):
        read_micrographs([tmp_path / "out.star"], amplitude_contrast=0.1)
    bare = table(tmp_path, "data_\nloop_\n_rlnMicrographName\na.mrc\n")
    with pytest.raises(MetadataError, match="--pixel-size"):
        read_micrographs([bare], voltage_kv=300, spherical_aberration_mm=2.7, amplitude_contrast=0.1)


def test_given_values_overrule_the_table_and_say_so(tmp_path) -> None:
    notes: list[str] = []
    found = read_micrographs(
        [table(tmp_path, RELION_5)], pixel_size_angstrom=2.0, voltage_kv=300, notes=notes
    )
    assert [g.pixel_size_angstrom for g in found.optics] == [2.0, 2.0]
    assert any("2 Å is used as given" in note for note in notes)
    assert any("rlnVoltage 200" in note for note in notes)


def test_a_header_that_contradicts_the_stated_pixel_size_is_told(tmp_path) -> None:
    for name, header in (("told.mrc", 1.5), ("unset.mrc", 1.0)):
        with StackWriter(tmp_path / name, 1, (4, 4), header) as writer:
            writer.write(0, np.zeros((1, 4, 4), np.float32))

    def notes_of(name: str, pixel: float) -> str:
        notes: list[str] = []
        read_micrographs([tmp_path / name], pixel_size_angstrom=pixel, notes=notes, needs=())
        return " ".join(notes)

    assert "told.mrc says 1.5 Å per pixel in its header; 2 Å is used" in notes_of("told.mrc", 2.0)
    assert notes_of("told.mrc", 1.51) == notes_of("unset.mrc", 2.0) == ""


def test_a_file_named_twice_counts_once(tmp_path) -> None:
    notes: list[str] = []
    text = RELION_5 + "a/one.mrc 1 one.ctf:mrc 9000 9000 0 0.1 4.5\n"
    found = read_micrographs([table(tmp_path, text)], notes=notes)
    assert found.name == ("a/one.mrc", "a/two.mrc")
    assert found.ctf.defocus_u_angstrom[0] == 12000
    assert any("a/one.mrc" in note and "once" in note for note in notes)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("a/two.mrc 2", "a/two.mrc 7", "row 2 belongs to optics group 7"),
        ("_rlnMicrographName #1", "_rlnSomething #1", "neither movies nor micrographs"),
        ("first 1 mtf.star 0.885 200", "first 1 mtf.star 0.885 20", "voltage lies between"),
        ("12000 11000 30", "9e9 11000 30", "defocus lies between"),
        ("_rlnDefocusAngle #6", "_rlnOther #6", "lacks rlnDefocusAngle"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, old, new, said) -> None:
    assert old in RELION_5
    with pytest.raises(MetadataError, match=said):
        read_micrographs([table(tmp_path, RELION_5.replace(old, new))])


def test_other_wrong_input_is_refused(tmp_path) -> None:
    path = table(tmp_path, RELION_5)
    with pytest.raises(MetadataError, match="movies are expected"):
        read_micrographs([path], movies=True)
    with pytest.raises(MetadataError, match="one of 2 inputs"):
        read_micrographs([path, tmp_path / "a.mrc"])
    with pytest.raises(MetadataError, match="no rows"):
        read_micrographs([table(tmp_path, RELION_5[: RELION_5.index("a/one")])])
    with pytest.raises(MetadataError, match="no movie"):
        read_micrographs([])
    first = read_micrographs([table(tmp_path, RELION_5)])
    with pytest.raises(OutputError):
        write_micrographs(tmp_path / "no" / "such.star", first)
    with pytest.raises(MetadataError, match="no micrographs to write"):
        write_micrographs(tmp_path / "none.star", first.take(np.array([], dtype=int)))


def test_ctf_columns_are_written(tmp_path) -> None:
    first = read_micrographs([table(tmp_path, RELION_5)])
    values = np.array([1.0, 2.0])
    ctf = MicrographCtf(
        defocus_u_angstrom=values * 1e4,
        defocus_v_angstrom=values * 1e4,
        defocus_angle_deg=values,
        phase_shift_deg=values * 10,
        figure_of_merit=values,
        max_resolution_angstrom=values * np.nan,
    )
    write_micrographs(tmp_path / "ctf.star", replace(first, ctf=ctf))
    written = read_star(tmp_path / "ctf.star")["micrographs"]
    assert "rlnCtfMaxResolution" not in written
    again = read_micrographs([tmp_path / "ctf.star"]).ctf
    assert again.phase_shift_deg.tolist() == [10, 20]
    assert again.defocus_u_angstrom.tolist() == [1e4, 2e4]


def test_stems_are_all_different() -> None:
    assert stems(["a/x.mrc", "b/x.mrc", "y.tif"]) == ["a_x", "b_x", "y"]
    assert stems(["x.mrc", "x.tif", "x_2.mrc"]) == ["x", "x_2", "x_2_2"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(RELION_5)), st.binary(max_size=6), st.integers(0, 12))
def test_damaged_tables_end_in_a_message(tmp_path, at, put, cut) -> None:
    path = tmp_path / "damaged.star"
    content = RELION_5.encode()
    path.write_bytes(content[:at] + put + content[at + cut :])
    try:
        found = read_micrographs([path])
    except InputError as error:
        assert "damaged.star" in str(error)
    else:
        assert len(found) == len(found.path) == len(found.optics_group)
        write_micrographs(tmp_path / "again.star", found)
