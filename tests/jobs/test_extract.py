"""extract: where boxes lie, what is done to their pixels, what the table says, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from parhelion.errors import InputError, ParameterError
from parhelion.io.mrc import StackWriter, open_stack, read_header
from parhelion.io.particles import read_particles, write_particles
from parhelion.io.star import read_star

PIXEL, SHAPE, BOX = 2.0, (200, 240), 32
SPOTS = np.array([[60, 50], [180, 50], [60, 150], [180, 150], [120, 100]], dtype=float)
HEAD = """data_optics
loop_
_rlnOpticsGroupName
_rlnOpticsGroup
_rlnMicrographPixelSize
_rlnMicrographOriginalPixelSize
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
grid 1 2.0 1.0 300 2.7 0.1

data_micrographs
loop_
_rlnMicrographName
_rlnOpticsGroup
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnCtfMaxResolution
"""


def micrograph(path, spots=SPOTS, sign=-1.0, noise=0.2, seed=0):
    """A micrograph of black spots on a slanted background."""
    y, x = np.indices(SHAPE)
    image = 50 + 0.05 * x + np.random.default_rng(seed).normal(size=SHAPE) * noise
    for spot_x, spot_y in spots:
        image += sign * np.exp(-((x - spot_x) ** 2 + (y - spot_y) ** 2) / (2 * 3.0**2))
    with StackWriter(path, 1, SHAPE, PIXEL) as writer:
        writer.write(0, image[None].astype(np.float32))
    return image.astype(np.float32)


@pytest.fixture
def data(tmp_path):
    """Two micrographs with CTF and the coordinates of their spots."""
    images = [micrograph(tmp_path / f"m{i}.mrc", seed=i) for i in (1, 2)]
    (tmp_path / "micrographs.star").write_text(
        HEAD + "m1.mrc 1 12000 11000 30 4.5\nm2.mrc 1 15000 14000 40 5.5\n"
    )
    rows = [f"m{i}.mrc {x} {y} {i + 0.1 * n}" for i in (1, 2) for n, (x, y) in enumerate(SPOTS)]
    (tmp_path / "coordinates.star").write_text(
        "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnAutopickFigureOfMerit\n"
        + "\n".join(rows)
        + "\n"
    )
    return {
        "input": tmp_path / "coordinates.star",
        "micrographs": tmp_path / "micrographs.star",
        "folder": tmp_path,
        "images": images,
    }


@pytest.fixture
def extract(run, data):
    def call(**options):
        given = {k: data[k] for k in ("input", "micrographs")} | {"box": BOX} | options
        return run("extract", **given)

    return call


def stack(found, number=0):
    return open_stack(found.outputs["stacks"][number]).read(np.arange(5))


def test_plain_boxes_are_the_micrographs_pixels(extract, data) -> None:
    found = extract(normalise=False, contrast="white")
    images = stack(found)
    assert images.shape == (5, BOX, BOX)
    for image, (x, y) in zip(images, SPOTS.astype(int)):
        np.testing.assert_array_equal(image, data["images"][0][y - 16 : y + 16, x - 16 : x + 16])
    inverted = extract(normalise=False, contrast="black", output=found.folder.parent / "black")
    np.testing.assert_array_equal(-stack(inverted), images)


def test_the_table_carries_ctf_coordinates_and_optics(extract) -> None:
    found = extract()
    particles = read_particles(found.outputs["particles"])
    assert len(particles) == 10
    assert particles.optics[0].pixel_size_angstrom == PIXEL
    assert particles.optics[0].box == BOX
    assert particles.views.defocus_u_angstrom.tolist() == [12000] * 5 + [15000] * 5
    assert particles.views.defocus_angle_deg[7] == 40
    table = read_star(found.outputs["particles"])
    rows = table["particles"]
    assert rows["rlnImageName"][6] == "000002@particles/m2.mrcs"
    assert rows["rlnMicrographName"][6] == "m2.mrc"
    assert rows["rlnCoordinateX"].tolist() == [*SPOTS[:, 0], *SPOTS[:, 0]]
    assert rows["rlnCtfMaxResolution"][9] == 5.5
    assert rows["rlnAutopickFigureOfMerit"][6] == 2.1
    assert table["optics"]["rlnMicrographOriginalPixelSize"][0] == 1.0
    assert table["optics"]["rlnImageSize"][0] == BOX
    assert found.figures["particles"] == 10
    assert found.figures["micrographs"] == 2
    assert read_header(found.outputs["stacks"][0]).pixel_size_angstrom == pytest.approx(PIXEL)


def test_contrast_is_found_and_background_normalised(extract) -> None:
    found = extract()
    assert found.figures["contrast"] == "black"
    images = stack(found)
    y, x = np.indices((BOX, BOX)) - BOX // 2
    outside = np.hypot(x, y) > 0.375 * BOX
    np.testing.assert_allclose(images[:, outside].mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(images[:, outside].std(axis=1), 1, atol=1e-4)
    assert (images[:, 16, 16] > 2).all()
    left = images[:, :, :3].mean()
    assert abs(left - images[:, :, -3:].mean()) < 0.15
    sloping = stack(extract(ramp=False, output=found.folder.parent / "slope"))
    assert abs(sloping[:, :, :3].mean() - sloping[:, :, -3:].mean()) > 0.5


def test_background_radius_counts_in_angstrom(extract, tmp_path) -> None:
    images = stack(extract(background_radius=28))
    y, x = np.indices((BOX, BOX)) - BOX // 2
    outside = np.hypot(x, y) > 14
    np.testing.assert_allclose(images[:, outside].std(axis=1), 1, atol=1e-4)
    with pytest.raises(ParameterError, match="background radius"):
        extract(background_radius=100, output=tmp_path / "wide")


def test_rescaling_is_a_fourier_crop(extract, tmp_path, data) -> None:
    plain = stack(extract(normalise=False, contrast="white"))
    found = extract(normalise=False, contrast="white", rescale=16, output=tmp_path / "small")
    small = stack(found)
    assert small.shape == (5, 16, 16)
    assert read_particles(found.outputs["particles"]).optics[0].pixel_size_angstrom == 4.0
    whole = np.fft.fft2(np.fft.ifftshift(plain[0]))
    cropped = np.fft.fft2(np.fft.ifftshift(small[0]))
    np.testing.assert_allclose(cropped[:7, :7] * 4, whole[:7, :7], rtol=2e-3, atol=0.5)


def test_the_box_follows_the_diameter(extract) -> None:
    found = extract(box=None, diameter=50)
    assert found.figures["box_in_micrographs"] == 40
    assert found.figures["box"] == 40


def test_white_and_black_dust_are_replaced(extract, data, tmp_path) -> None:
    image = data["images"][0].copy()
    image[52, 62], image[48, 58] = 900.0, -900.0
    with StackWriter(tmp_path / "m1.mrc", 1, SHAPE, PIXEL) as writer:
        writer.write(0, image[None])
    plain = {"normalise": False, "contrast": "white"}

    def pixels(number, **options):
        found = extract(**plain, output=tmp_path / f"dust{number}", **options)
        return found, stack(found)[0][[18, 14], [18, 14]]

    found, (white, black) = pixels(1, white_dust=6)
    assert abs(white - 50) < 10
    assert black == -900
    assert found.figures["dust_pixels"] == 1
    _, (white, black) = pixels(2, black_dust=6)
    assert white == 900
    assert abs(black - 50) < 10


def test_boxes_over_the_edge_are_skipped_or_filled(extract, data, tmp_path) -> None:
    rows = "".join(f"m1.mrc {x} {y}\n" for x, y in [(5, 100), (120, 100), (300, 20), (120, 195)])
    path = tmp_path / "edge.star"
    path.write_text("data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n" + rows)
    skipped = extract(input=path)
    assert len(read_particles(skipped.outputs["particles"])) == 1
    assert (skipped.figures["at_edges"], skipped.figures["outside_micrographs"]) == (2, 1)
    filled = extract(input=path, edge="fill", normalise=False, contrast="white", output=tmp_path / "filled")
    images = open_stack(filled.outputs["stacks"][0]).read(np.arange(3))
    np.testing.assert_array_equal(images[0][:, 11:], data["images"][0][84:116, :21])
    np.testing.assert_allclose(images[0][:, :11], images[0][:, 11:].mean(), rtol=1e-5)
    np.testing.assert_array_equal(images[2][:21], data["images"][0][179:200, 104:136])


def test_float16_halves_the_files(extract, tmp_path) -> None:
    whole, half = extract(), extract(float16=True, output=tmp_path / "half")
    assert read_header(half.outputs["stacks"][0]).mode == 12
    assert read_header(whole.outputs["stacks"][0]).mode == 2
    np.testing.assert_allclose(stack(half), stack(whole), atol=4e-3)


def test_merit_and_distance_choose_positions(extract, data, tmp_path) -> None:
    found = extract(min_merit=1.35)
    assert len(read_particles(found.outputs["particles"])) == 6
    near = data["folder"] / "near.csv"
    near.write_text(
        "name,x,y,score\n" + "".join(f"m1.mrc,{x + d},{y},{d}\n" for x, y in SPOTS for d in (0, 3))
    )
    found = extract(input=near, min_distance=10, output=tmp_path / "near")
    assert read_star(found.outputs["particles"])["particles"]["rlnCoordinateX"].tolist() == (
        (SPOTS[:, 0] + 3).tolist()
    )
    assert any("5 of 10 positions" in note for note in found.notices)
    with pytest.raises(ParameterError, match="highest figure of merit"):
        extract(min_merit=9, output=tmp_path / "none")


def test_coordinates_of_another_scale(extract, data, tmp_path) -> None:
    path = tmp_path / "binned.csv"
    path.write_text("x,y,name\n" + "".join(f"{x / 2},{y / 2},m1.mrc\n" for x, y in SPOTS))
    found = extract(input=path, coordinates_pixel_size=4, normalise=False, contrast="white")
    np.testing.assert_array_equal(stack(found)[1], data["images"][0][34:66, 164:196])


def test_a_tilted_specimen_changes_the_defocus_along_the_micrograph(extract, data) -> None:
    path = data["folder"] / "tilted.star"
    head = HEAD + "_parhelionDefocusPlaneX\n_parhelionDefocusPlaneY\n"
    path.write_text(head + "m1.mrc 1 12000 11000 30 4.5 10 -20\nm2.mrc 1 12000 11000 30 4.5 0 0\n")
    views = read_particles(extract(micrographs=path).outputs["particles"]).views
    expected = (SPOTS[:, 0] - 120) * 10 - (SPOTS[:, 1] - 100) * 20
    np.testing.assert_allclose(views.defocus_u_angstrom[:5], 12000 + expected)
    np.testing.assert_allclose(views.defocus_v_angstrom[:5], 11000 + expected)
    assert (views.defocus_u_angstrom[5:] == 12000).all()


def posed(found, path, shift_px=(3.3, -4.6)):
    """The particles of an earlier run with poses, as if they had been cut off centre and then refined."""
    particles = read_particles(found.outputs["particles"])
    shift = np.zeros((len(particles), 3))
    shift[:, :2] = np.array(shift_px) * PIXEL
    moved = particles.extra.with_columns(
        {
            "rlnCoordinateX": particles.extra["rlnCoordinateX"] + shift_px[0],
            "rlnCoordinateY": particles.extra["rlnCoordinateY"] + shift_px[1],
        }
    )
    views = replace(particles.views, defocus_u_angstrom=particles.views.defocus_u_angstrom + 77)
    rotation = np.broadcast_to(np.eye(3), (len(particles), 3, 3))
    optics = tuple(replace(g, beam_tilt_xy_mrad=(0.5, 0.0)) for g in particles.optics)
    write_particles(
        path,
        replace(
            particles,
            optics=optics,
            views=views,
            extra=moved,
            rotation=rotation,
            shift_xyz_angstrom=shift,
            class_number=np.arange(len(particles)) % 3 + 1,
        ),
    )
    return path


def test_particles_are_cut_again_where_they_were_found(extract, tmp_path) -> None:
    table = posed(extract(), tmp_path / "refined.star", (3, -5))
    found = extract(input=table, rescale=16, output=tmp_path / "again")
    again = read_particles(found.outputs["particles"])
    # the spots are at whole pixels: what is left of the shift is nothing
    np.testing.assert_allclose(again.shift_xyz_angstrom, 0, atol=1e-5)
    np.testing.assert_allclose(again.extra["rlnCoordinateX"][:5], SPOTS[:, 0])
    assert again.views.defocus_u_angstrom[0] == 12077
    assert again.class_number.tolist()[:4] == [1, 2, 3, 1]
    assert again.rotation is not None
    assert again.optics[0].beam_tilt_xy_mrad == (0.5, 0.0)
    assert (again.optics[0].pixel_size_angstrom, again.optics[0].box) == (4.0, 16)
    peaks = [np.unravel_index(gaussian_filter(image, 1).argmax(), (16, 16)) for image in stack(found)]
    assert set(peaks) == {(8, 8)}


def test_what_is_left_of_a_shift_stays_in_the_table(extract, data, tmp_path) -> None:
    """The particle lies where box centre minus shift says, whichever way it is cut."""
    table = posed(extract(), tmp_path / "refined.star")
    rows = read_particles(table)
    off = rows.extra.with_columns({"rlnCoordinateX": rows.extra["rlnCoordinateX"] + 0.4})
    write_particles(tmp_path / "off.star", replace(rows, extra=off))
    for number, options in enumerate(({"centres": "refined"}, {"centres": "original"})):
        found = extract(input=tmp_path / "off.star", output=tmp_path / f"left{number}", **options)
        again = read_particles(found.outputs["particles"])
        x = np.floor(again.extra["rlnCoordinateX"]) - again.shift_xyz_angstrom[:, 0] / PIXEL
        # coordinates 3.7 pixels right of the spots: boxes were centred on the third (RELION cuts decimals
        # off), and the shift goes 3.3 back
        np.testing.assert_allclose(x[:5], SPOTS[:, 0] - 0.3, atol=1e-5)
    assert abs(again.shift_xyz_angstrom[0, 0] - 6.6) < 1e-5


@pytest.mark.parametrize("centres", ["refined", "original"])
def test_particles_stay_where_they_are_at_another_scale(extract, tmp_path, centres) -> None:
    """Coordinates in pixels of 3 Å, cut again from micrographs of 2 Å: no fraction of a pixel is lost."""
    rows = read_particles(posed(extract(), tmp_path / "refined.star"))
    coarse = {name: np.floor(rows.extra[name] * 2 / 3) for name in ("rlnCoordinateX", "rlnCoordinateY")}
    write_particles(tmp_path / "coarse.star", replace(rows, extra=rows.extra.with_columns(coarse)))
    found = extract(
        input=tmp_path / "coarse.star", coordinates_pixel_size=3.0, centres=centres, output=tmp_path / "fine"
    )
    again = read_particles(found.outputs["particles"])
    for axis, name in enumerate(coarse):
        before = 3.0 * coarse[name] - rows.shift_xyz_angstrom[:, axis]
        after = PIXEL * np.floor(again.extra[name]) - again.shift_xyz_angstrom[:, axis]
        np.testing.assert_allclose(after, before, atol=1e-5)


def test_the_ctf_is_the_particles_unless_asked(extract, tmp_path) -> None:
    table = posed(extract(), tmp_path / "refined.star")
    found = extract(input=table, ctf="micrographs", output=tmp_path / "fresh")
    assert read_particles(found.outputs["particles"]).views.defocus_u_angstrom[0] == 12000


def test_shifts_of_a_classification_in_two_dimensions_are_used(extract, data, tmp_path) -> None:
    path = data["folder"] / "class2d.star"
    path.write_text(
        "data_optics\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnImagePixelSize\n_rlnVoltage\n"
        "_rlnSphericalAberration\n_rlnAmplitudeContrast\ng 1 2 300 2.7 0.1\n\n"
        "data_particles\nloop_\n_rlnImageName\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n"
        "_rlnAnglePsi\n_rlnOriginXAngst\n_rlnOriginYAngst\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
        "_rlnOpticsGroup\n1@old.mrcs m1.mrc 65 50 20 10 0 12000 12000 0 1\n"
    )
    found = extract(input=path)
    rows = read_star(found.outputs["particles"])["particles"]
    assert rows["rlnCoordinateX"][0] == 60
    assert rows["rlnOriginXAngst"][0] == 0
    assert rows["rlnAnglePsi"][0] == 20


def test_a_bad_micrograph_is_left_out_and_named(extract, data, tmp_path) -> None:
    (tmp_path / "m1.mrc").write_bytes((tmp_path / "m1.mrc").read_bytes()[:5000])
    found = extract()
    assert found.figures["failed"] == "m1.mrc"
    assert len(read_particles(found.outputs["particles"])) == 5
    (tmp_path / "m1.mrc").unlink()
    again = extract(output=tmp_path / "gone")
    assert again.figures["failed"] == "m1.mrc"
    micrograph(tmp_path / "m1.mrc")
    stored = np.memmap(tmp_path / "m1.mrc", "<f4", mode="r+", offset=1024, shape=SHAPE)
    stored[40:60, 50:70] = np.nan
    stored.flush()
    third = extract(output=tmp_path / "nan")
    assert third.figures["not_usable"] == 1
    assert third.figures["particles"] == 9


def test_a_failed_fit_of_the_ctf_leaves_the_micrograph_out(extract, data) -> None:
    path = data["folder"] / "nan.star"
    path.write_text(HEAD + "m1.mrc 1 nan nan 30 4.5\nm2.mrc 1 15000 14000 40 5.5\n")
    found = extract(micrographs=path)
    assert found.figures["failed"] == "m1.mrc"
    assert set(read_particles(found.outputs["particles"]).views.defocus_u_angstrom) == {15000}


def test_a_movie_is_no_micrograph(extract, tmp_path, data) -> None:
    for name in ("m1.mrc", "m2.mrc"):
        with StackWriter(tmp_path / name, 2, SHAPE, PIXEL) as writer:
            writer.write(0, np.stack(data["images"]))
    with pytest.raises(InputError, match="holds 2 frames"):
        extract()


def test_a_resumed_run_keeps_what_was_cut(extract, data, tmp_path, monkeypatch) -> None:
    from parhelion.jobs import _extract_table

    def failing(*_, **__):
        raise InputError("pulled the plug")

    with monkeypatch.context() as patch:
        patch.setattr(_extract_table, "result_set", failing)
        with pytest.raises(InputError, match="plug"):
            extract(output=tmp_path / "cut")
    before = (tmp_path / "cut/particles/m1.mrcs").stat().st_mtime_ns
    found = extract(output=tmp_path / "cut", resume=True)
    assert (tmp_path / "cut/particles/m1.mrcs").stat().st_mtime_ns == before
    assert len(read_particles(found.outputs["particles"])) == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"box": None}, "give --box"),
        ({"diameter": 50}, "one of them"),
        ({"box": 33}, "even"),
        ({"rescale": 64}, "larger than --box"),
        ({"normalise": False, "background_radius": 10}, "--no-normalise"),
        ({"normalise": False, "ramp": False}, "--no-normalise"),
        ({"centres": "refined"}, "cutting particles again"),
        ({"ctf": "particles"}, "cutting particles again"),
        ({"box": None, "diameter": 40, "rescale": 64}, "larger than the box of 30"),
    ],
)
def test_options_that_make_no_sense_are_refused(extract, options, said) -> None:
    with pytest.raises(ParameterError, match=said):
        extract(**options)


def test_wrong_tables_are_refused(extract, data, tmp_path) -> None:
    bare = data["folder"] / "bare.star"
    bare.write_text("\n".join(HEAD.split("_rlnDefocusU")[0].splitlines()) + "\nm1.mrc 1\nm2.mrc 1\n")
    with pytest.raises(InputError, match="no CTF"):
        extract(micrographs=bare)
    other = data["folder"] / "other.csv"
    other.write_text("name,x,y\nz.mrc,1,2\n")
    with pytest.raises(InputError, match=r"z\.mrc"):
        extract(input=other, output=tmp_path / "other")
    table = posed(extract(output=tmp_path / "first"), tmp_path / "refined.star")
    with pytest.raises(ParameterError, match="--min-merit is for coordinates"):
        extract(input=table, min_merit=1, output=tmp_path / "merit")


def test_the_report_shows_particles_and_counts(extract) -> None:
    found = extract()
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    for shown in ("Particles", "m1.mrc", "over an edge", "finer than 20"):
        assert shown in report


def test_the_estimate_counts_boxes(extract, tmp_path) -> None:
    small = extract(dry_run=True, output=tmp_path / "dry").estimate
    large = extract(dry_run=True, box=64, output=tmp_path / "dry").estimate
    assert large.memory_bytes > small.memory_bytes
    assert large.disk_bytes >= 4 * small.disk_bytes - 1000
