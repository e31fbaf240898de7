"""pick as a job: files, options that belong together, masks, contrast, import."""

import numpy as np
import pytest

from parhelion.errors import InputError, ParameterError
from parhelion.io.mrc import StackWriter, write_volume
from parhelion.io.star import read_star
from parhelion.model.volume import Volume

PIXEL, SHAPE, RADIUS = 6.0, (300, 330), 60.0
SPOTS = np.array([(x, y) for x in (60, 130, 200, 270) for y in (50, 120, 190, 250)], dtype=float)


def image_of(spots=SPOTS, sign=-1.0, seed=0, height=1.2):
    """Discs of 60 Å in white noise, on a slanted ground."""
    y, x = np.indices(SHAPE)
    image = np.random.default_rng(seed).normal(size=SHAPE) + 0.002 * x
    for at in spots:
        distance = np.hypot(x - at[0], y - at[1]) * PIXEL
        image += sign * height * np.clip((RADIUS - distance) / 20 + 0.5, 0, 1)
    return (100 + 5 * image).astype(np.float32)


def write(path, image, pixel=PIXEL):
    with StackWriter(path, 1, image.shape, pixel) as writer:
        writer.write(0, image[None])
    return path


RADII = {"maximum_radius": 80.0, "characteristic_radius": 60.0}


def positions(folder):
    table = next(iter(read_star(folder / "coordinates.star").values()))
    return np.stack([table["rlnCoordinateX"], table["rlnCoordinateY"]], axis=1), table


def recovered(found, spots=SPOTS, within=3.0):
    """How many spots have a position nearby, and how many positions have none."""
    distance = np.hypot(*(found[:, None] - spots[None]).transpose(2, 0, 1))
    return int((distance.min(axis=0) < within).sum()), int((distance.min(axis=1) >= within).sum())


def test_blobs_are_found_and_everything_is_written(run, tmp_path) -> None:
    paths = [write(tmp_path / f"m{i}.mrc", image_of(seed=i)) for i in (1, 2)]
    result = run("pick", input=paths, **RADII)
    found, table = positions(result.folder)
    for name in {str(n) for n in table["rlnMicrographName"]}:
        of_one = found[np.array([str(n) == name for n in table["rlnMicrographName"]])]
        assert recovered(of_one) == (len(SPOTS), 0)
    assert result.figures["particles"] == 2 * len(SPOTS)
    assert result.figures["contrast"] == "black"
    single = read_star(result.folder / "coordinates" / "m1_autopick.star")[""]
    assert {"rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit"} <= set(single)
    assert single.rows == len(SPOTS)
    assert (result.folder / "overlays" / "m2.png").stat().st_size > 1000
    boxes = next(iter(read_star(result.folder / "background_boxes.star").values()))
    spectra = next(iter(read_star(result.folder / "noise_spectra.star").values()))
    assert boxes.rows > 20
    assert np.all(spectra["parhelionNoisePower"] > 0)
    assert "Figures of merit" in (result.folder / "report.html").read_text()


def test_white_protein_is_recognised_and_black_can_be_forced(run, tmp_path) -> None:
    path = write(tmp_path / "white.mrc", image_of(sign=1.0))
    auto = run("pick", input=[path], **RADII, output=tmp_path / "auto")
    assert auto.figures["contrast"] == "white"
    assert recovered(positions(auto.folder)[0]) == (len(SPOTS), 0)
    forced = run("pick", input=[path], **RADII, contrast="black", output=tmp_path / "forced")
    assert forced.figures["particles"] == 0


def test_ice_alone_gives_nothing_and_says_so(run, tmp_path) -> None:
    path = write(tmp_path / "ice.mrc", image_of(spots=[]))
    result = run("pick", input=[path], **RADII)
    assert result.figures["particles"] == 0
    assert any("hardly any particles were found" in notice for notice in result.notices)
    assert (result.folder / "coordinates" / "ice_autopick.star").is_file()


def test_a_mask_keeps_picks_out_of_its_area(run, tmp_path) -> None:
    path = write(tmp_path / "m.mrc", image_of())
    mask = np.zeros((100, 110), np.float32)
    mask[:, :35] = 0.9  # x below 105 of 330
    write(tmp_path / "m_mask.mrc", mask)
    result = run("pick", input=[path], **RADII, mask=[tmp_path / "m_mask.mrc"])
    found = positions(result.folder)[0]
    assert recovered(found) == (12, 0)
    assert found[:, 0].min() > 105
    with pytest.raises(InputError, match="proportions"):
        write(tmp_path / "bad.mrc", mask[:50])
        run("pick", input=[path], **RADII, mask=[tmp_path / "bad.mrc"], output=tmp_path / "b")


def test_noise_boxes_avoid_particles(run, tmp_path) -> None:
    path = write(tmp_path / "m.mrc", image_of(height=3.0))
    result = run("pick", input=[path], method="noise", maximum_radius=80.0, background_boxes=12)
    found, table = positions(result.folder)
    assert len(found) == 12
    distance = np.hypot(*(found[:, None] - SPOTS[None]).transpose(2, 0, 1)).min(axis=1) * PIXEL
    assert distance.min() > 80
    assert np.all(np.diff(table["rlnAutopickFigureOfMerit"]) <= 0)


def test_templates_from_a_map_and_from_classes(run, tmp_path) -> None:
    """An asymmetric molecule: found with the view and turn that RELION's columns state."""
    rng = np.random.default_rng(3)
    z, y, x = np.indices((32, 32, 32)) - 16
    data = np.zeros((32, 32, 32))
    centres = rng.uniform(-7, 7, (10, 3))
    for centre in centres - centres.mean(axis=0):
        data += np.exp(-((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) / 8)
    write_volume(tmp_path / "map.mrc", Volume(data=data.astype(np.float32), pixel_size_angstrom=PIXEL))
    view = data.sum(axis=0)
    image = rng.normal(size=SHAPE)
    for at_x, at_y in SPOTS.astype(int):
        image[at_y - 16 : at_y + 16, at_x - 16 : at_x + 16] -= 4 * view / view.std() / 3
    path = write(tmp_path / "m.mrc", image.astype(np.float32))
    common = {"input": [path], "method": "template", "maximum_radius": 80.0, "rotations": 12}
    by_map = run("pick", reference=tmp_path / "map.mrc", angular_step=45.0, **common, output=tmp_path / "a")
    found, table = positions(by_map.folder)
    # the nearest of few views is not the true one
    assert recovered(found, within=5.0) == (len(SPOTS), 0)
    assert {"rlnClassNumber", "rlnAnglePsi"} <= set(table)
    with StackWriter(tmp_path / "classes.mrcs", 1, (32, 32), PIXEL) as writer:
        writer.write(0, -view[None].astype(np.float32))
    by_class = run(
        "pick",
        templates=tmp_path / "classes.mrcs",
        template_contrast="black",
        **common,
        output=tmp_path / "b",
    )
    found, table = positions(by_class.folder)
    assert recovered(found) == (len(SPOTS), 0)
    turn = np.asarray(table["rlnAnglePsi"]) % 360
    assert np.mean(np.minimum(turn, 360 - turn) <= 30) > 0.9
    assert set(table["rlnClassNumber"]) == {1}


def test_a_radius_far_too_small_is_told(run, tmp_path) -> None:
    path = write(tmp_path / "m.mrc", image_of(height=2.0))
    result = run(
        "pick", input=[path], maximum_radius=30.0, characteristic_radius=20.0, avoid_abnormal_means=False
    )
    assert any("is it too small" in notice for notice in result.notices)


def test_a_damaged_micrograph_is_left_out_and_named(run, tmp_path) -> None:
    good = write(tmp_path / "good.mrc", image_of())
    flat = write(tmp_path / "flat.mrc", np.ones(SHAPE, np.float32))
    result = run("pick", input=[good, flat], **RADII)
    assert result.figures["particles"] == len(SPOTS)
    assert "flat.mrc" in str(result.figures["failed"])


def test_imported_runs_are_joined_without_duplicates(run, tmp_path) -> None:
    path = write(tmp_path / "m.mrc", image_of())
    first, second = tmp_path / "first.csv", tmp_path / "second.star"
    lines = [f"m.mrc,{x},{y}" for x, y in SPOTS[:10]]
    first.write_text("micrograph,x,y\n" + "\n".join(lines) + "\n")
    rows = [f"m.mrc {x + 1} {y} 1.0" for x, y in SPOTS[6:]]
    second.write_text(
        "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnAutopickFigureOfMerit\n"
        + "\n".join(rows)
        + "\n"
    )
    result = run("pick", input=[path], method="import", coordinates=[first, second])
    assert result.figures["read"] == 20
    assert result.figures["duplicates"] == 4
    assert result.figures["kept_percent"] == 80.0
    assert recovered(positions(result.folder)[0]) == (len(SPOTS), 0)
    assert (result.folder / "overlays" / "m.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "noise", "threshold": 5.0}, "--threshold is not used by --method noise"),
        ({"method": "template"}, "--reference, a map, or --templates"),
        ({"method": "import"}, "needs --coordinates"),
        ({"maximum_radius": 50.0}, "larger than --maximum-radius"),
        ({"radius_range": (90.0, 60.0)}, "lower radius comes first"),
        ({"mask_threshold": 0.3}, "belongs to --mask"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, tmp_path, options, message) -> None:
    path = write(tmp_path / "m.mrc", image_of())
    with pytest.raises(ParameterError, match=message):
        run("pick", input=[path], **options)


def test_a_wrong_pixel_size_is_told(run, tmp_path) -> None:
    path = write(tmp_path / "m.mrc", image_of())
    with pytest.raises(InputError, match="check the pixel size"):
        run("pick", input=[path], pixel_size=0.5, **RADII)


def test_movies_are_refused(run, tmp_path) -> None:
    path = tmp_path / "movie.mrcs"
    with StackWriter(path, 3, SHAPE, PIXEL) as writer:
        writer.write(0, np.stack([image_of(seed=i) for i in range(3)]))
    with pytest.raises(InputError, match=r"frames|movie"):
        run("pick", input=[path], **RADII)


def test_the_characteristic_radius_is_that_of_the_matched_disc(run, tmp_path) -> None:
    """Discs of 60 Å are the more significant the closer the searched disc is to them."""
    path = write(tmp_path / "m.mrc", image_of(seed=5))
    merit = {}
    for radius in (20.0, 60.0):
        options = {"maximum_radius": 80.0, "characteristic_radius": radius, "threshold": 3.0}
        result = run("pick", input=path, **options, output=tmp_path / f"r{radius:.0f}")
        found, table = positions(result.folder)
        distance = np.hypot(*(found[:, None] - SPOTS[None]).transpose(2, 0, 1)).min(axis=1)
        merit[radius] = np.asarray(table["rlnAutopickFigureOfMerit"])[distance < 3].mean()
    assert merit[60.0] > 1.2 * merit[20.0]


def test_the_highest_resolution_sets_the_searched_detail(run, tmp_path) -> None:
    path = write(tmp_path / "m.mrc", image_of(seed=6))
    for resolution in (20.0, 40.0):
        options = {**RADII, "highest_resolution": resolution, "output": tmp_path / f"r{resolution:.0f}"}
        folder = run("pick", input=path, **options).folder
        spectra = next(iter(read_star(folder / "noise_spectra.star").values()))
        assert min(spectra["rlnAngstromResolution"]) == pytest.approx(resolution, rel=0.05)
        assert recovered(positions(folder)[0]) == (len(SPOTS), 0)
