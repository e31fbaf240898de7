"""ctf: its table, its files, its report, and what is left out."""

import csv
from pathlib import Path

import numpy as np
import pytest

from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.io.mrc import StackWriter, open_stack, read_header
from parhelion.io.relion_micrographs import read_micrographs
from parhelion.io.star import read_star

N, PIXEL = 384, 1.6
COMMON = {"voltage": 300.0, "cs": 2.7, "amplitude_contrast": 0.07, "spectrum_size": 256}


def write(path: Path, images: np.ndarray, pixel: float = PIXEL) -> Path:
    path.parent.mkdir(exist_ok=True)
    with StackWriter(path, len(images), images.shape[1:], pixel) as writer:
        writer.write(0, images.astype(np.float32))
    return path


def expected_power(kx, ky, defocus, astigmatism=0.0, angle=0.0):
    """Background and strong rings at 300 kV, Cs 2.7 mm, amplitude contrast 0.07."""
    s2 = kx**2 + ky**2
    local = defocus + 0.5 * astigmatism * np.cos(2 * (np.arctan2(ky, kx) - np.deg2rad(angle)))
    wavelength = 0.0196875
    chi = np.pi * wavelength * local * s2 - 0.5 * np.pi * 2.7e7 * wavelength**3 * s2**2
    return 1 + 4 * np.exp(-20 * s2) * np.sin(chi + np.arcsin(0.07)) ** 2


def image_of(defocus, seed=0, n=N, **astigmatism):
    """Noise filtered to have rings, ``(n, n)`` float32."""
    noise = np.fft.rfft2(np.random.default_rng(seed).standard_normal((n, n)))
    kx, ky = np.fft.rfftfreq(n, PIXEL)[None], np.fft.fftfreq(n, PIXEL)[:, None]
    return np.fft.irfft2(noise * np.sqrt(expected_power(kx, ky, defocus, **astigmatism)), (n, n)).astype("f4")


@pytest.fixture
def micrographs(tmp_path):
    """Three micrographs of 10,000, 14,000 and 18,000 Å."""
    return [write(tmp_path / f"mics/m{i}.mrc", image_of(1e4 + 4e3 * i, seed=i)[None]) for i in range(3)]


def test_table_and_files(run, micrographs, tmp_path):
    result = run("ctf", input=micrographs, **COMMON)
    table = read_micrographs([result.outputs["micrographs"]])
    assert [Path(name).name for name in table.name] == ["m0.mrc", "m1.mrc", "m2.mrc"]
    assert all(path.exists() for path in table.path)
    mean = 0.5 * (table.ctf.defocus_u_angstrom + table.ctf.defocus_v_angstrom)
    assert mean == pytest.approx([1e4, 1.4e4, 1.8e4], abs=80)
    columns = read_star(result.outputs["micrographs"])["micrographs"]
    assert {"rlnDefocusAngle", "rlnCtfFigureOfMerit", "rlnCtfMaxResolution", "rlnCtfImage"} <= set(columns)
    assert (columns["rlnCtfFigureOfMerit"] > 0.1).all() and (columns["parhelionCtfConfident"] == 1).all()
    assert (columns["rlnCtfMaxResolution"] < 5).all()
    assert result.figures["median_defocus_angstrom"] == pytest.approx(14000, abs=80)
    header = read_header(result.folder / str(columns["rlnCtfImage"][1]))
    assert header.shape == (1, 256, 256)
    assert (result.folder / "m1_ctf.png").read_bytes().startswith(b"\x89PNG")
    page = (result.folder / "report.html").read_text()
    assert "Fit resolution" in page and "quality of fit" in page and "m2.mrc" in page


def test_a_fit_at_the_end_of_the_search_is_told(run, micrographs, tmp_path):
    def told(low, high):
        options = {"defocus_range": (low, high), "output": tmp_path / f"from_{low}", "pictures": False}
        result = run("ctf", input=micrographs[:2], **options, **COMMON)
        return [notice for notice in result.notices if "where the search ends" in notice]

    assert not told(8000, 20000)
    (said,) = told(10900, 20000)
    assert "1 of 2 fits" in said and "m0.mrc" in said and "pixel size" in said


def test_text_files_are_ctffinds(run, micrographs):
    folder = run("ctf", input=micrographs[1], pictures=False, **COMMON).folder
    assert not list(folder.glob("*.png"))
    for name, lines in (("m1_avrot.txt", 6), ("m1_ctf.txt", 1)):
        text = (folder / name).read_text().splitlines()
        assert [line.startswith("#") for line in text] == [True] * 5 + [False] * lines
    s, average, experiment, fit, quality, noise = np.loadtxt(folder / "m1_avrot.txt")
    assert s[1] == pytest.approx(1 / (256 * PIXEL), rel=1e-4)
    assert len(s) == 128 and fit.max() <= 1 and np.abs(quality).max() <= 1.001 and (noise > 0).all()
    assert (average > 0).all() and np.corrcoef(experiment[20:80], fit[20:80])[0, 1] > 0.9
    number, u, v, angle, phase, score, spacing = np.loadtxt(folder / "m1_ctf.txt")
    assert (number, phase) == (1, 0) and u >= v and (u + v) / 2 == pytest.approx(14000, abs=80)
    assert 0 <= angle < 180 and 0 < score < 1 and spacing < 5


def test_what_cannot_be_fitted_is_left_out_and_named(run, micrographs, tmp_path):
    write(tmp_path / "mics/zero.mrc", np.zeros((1, N, N)))
    (tmp_path / "mics/cut.mrc").write_bytes(micrographs[0].read_bytes()[:50_000])
    write(tmp_path / "mics/two.mrc", np.ones((2, N, N)))
    write(tmp_path / "mics/noise.mrc", np.random.default_rng(9).normal(size=(1, N, N)))
    files = [micrographs[0], *(tmp_path / f"mics/{n}.mrc" for n in ("zero", "cut", "two", "noise"))]
    result = run("ctf", input=files, estimate_from="micrographs", **COMMON)
    assert result.figures["micrographs"] == 2 and result.figures["failed_micrographs"] == 3
    assert all(name in result.figures["failed"] for name in ("zero.mrc", "cut.mrc", "two.mrc"))
    told = "\n".join(result.notices)
    assert "zero.mrc is empty" in told and "two.mrc holds 2 images" in told
    assert "1 of 2 fits have low confidence" in told and "noise.mrc" in told
    columns = read_star(result.outputs["micrographs"])["micrographs"]
    assert list(columns["parhelionCtfConfident"]) == [1, 0]


def test_all_bad_is_an_error(run, tmp_path):
    zero = write(tmp_path / "zero.mrc", np.zeros((1, N, N)))
    with pytest.raises(InputError, match=r"all 1 files failed.*zero\.mrc is empty"):
        run("ctf", input=zero, **COMMON)


def test_resume_keeps_finished_micrographs(run, micrographs, tmp_path, monkeypatch):
    from parhelion.jobs import _ctf_fit

    done = []
    fit_one = _ctf_fit.fit_one

    def counting(context, source, plan):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(source.stem)
        return fit_one(context, source, plan)

    monkeypatch.setattr(_ctf_fit, "fit_one", counting)
    with pytest.raises(Exception, match="stopped"):
        run("ctf", input=micrographs, **COMMON)
    done.clear()
    result = run("ctf", input=micrographs, resume=True, **COMMON)
    assert done == ["m2"]
    assert result.figures["micrographs"] == 3 and len(result.outputs["pictures"]) == 3


@pytest.fixture
def movie_table(tmp_path):
    """A movie of six drifting frames with a gain reference, and its table."""
    rng = np.random.default_rng(3)
    gain = rng.uniform(0.8, 1.25, (N, N)).astype(np.float32)
    image = 30 + 4 * image_of(13000.0, seed=4)
    frames = np.stack([rng.poisson(np.roll(image, 3 * i, axis=0).clip(0)) for i in range(6)])
    write(tmp_path / "movies/a.mrcs", np.rint(frames * 10 / gain))
    write(tmp_path / "gain.mrc", gain[None])
    table = tmp_path / "movies.star"
    table.write_text(
        "data_optics\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnMicrographOriginalPixelSize\n"
        "_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
        f"one 1 {PIXEL} 300 2.7 0.07\n\n"
        "data_movies\nloop_\n_rlnMicrographMovieName\n_rlnMicrographGainName\n_rlnOpticsGroup\n"
        "movies/a.mrcs gain.mrc 1\n"
    )
    return table


def test_movies_with_gain(run, movie_table, tmp_path):
    result = run("ctf", input=movie_table, spectrum_size=256, frames_to_average=2, defocus_plane=True)
    table = read_micrographs([result.outputs["micrographs"]])
    assert table.movies and table.name == ("movies/a.mrcs",)
    mean = 0.5 * (table.ctf.defocus_u_angstrom[0] + table.ctf.defocus_v_angstrom[0])
    assert mean == pytest.approx(13000, abs=100)
    assert "parhelionDefocusPlaneX" in table.extra
    options = {"dark": tmp_path / "dark.mrc", "defects": tmp_path / "bad.txt", "frames_to_average": 2}
    write(tmp_path / "dark.mrc", np.full((1, N, N), 5.0))
    (tmp_path / "bad.txt").write_text("10 20 3 300\n")
    full = run("ctf", input=movie_table, spectrum_size=256, output=tmp_path / "full", **options)
    assert full.figures["median_defocus_angstrom"] == pytest.approx(13000, abs=100)
    # a reference that is turned does not fit: its pattern stays and drowns the rings
    turned = run("ctf", input=movie_table, spectrum_size=256, gain_rotation="90", output=tmp_path / "turned")
    score = [
        read_star(r.outputs["micrographs"])["movies"]["parhelionCtfSignificance"][0] for r in (result, turned)
    ]
    assert score[0] > score[1]


def test_movies_that_a_table_of_micrographs_names(run, movie_table, tmp_path):
    write(tmp_path / "mics/a.mrc", np.random.default_rng(1).normal(size=(1, N, N)))
    text = movie_table.read_text().replace("data_movies", "data_micrographs")
    text = text.replace("_rlnMicrographMovieName\n", "_rlnMicrographName\n_rlnMicrographMovieName\n")
    text = text.replace("_rlnVoltage", "_rlnMicrographPixelSize\n_rlnVoltage")
    text = text.replace(f"one 1 {PIXEL}", f"one 1 {PIXEL} {PIXEL}")
    both = tmp_path / "both.star"
    both.write_text(text.replace("movies/a.mrcs gain", "mics/a.mrc movies/a.mrcs gain"))
    sums = run("ctf", input=both, spectrum_size=256, output=tmp_path / "1")
    assert sums.figures["low_confidence"] == 1
    options = {"estimate_from": "movies", "frames_to_average": 1, "spectrum_size": 256}
    result = run("ctf", input=both, output=tmp_path / "2", **options)
    assert result.figures["low_confidence"] == 0
    assert result.figures["median_defocus_angstrom"] == pytest.approx(13000, abs=100)
    table = read_micrographs([result.outputs["micrographs"]])
    assert not table.movies and table.name == ("mics/a.mrc",)
    assert (result.folder / "a_ctf.mrc").exists()


def test_magnification_correction_changes_the_pixel_size(run, movie_table):
    result = run("ctf", input=movie_table, spectrum_size=256, magnification=(20.0, 1.04, 1.02))
    s = np.loadtxt(result.outputs["curves"][0])[0]
    assert s[1] == pytest.approx(1.03 / (256 * PIXEL), rel=1e-4)


def test_power_spectra_as_files_and_in_a_table(run, tmp_path):
    ky, kx = (np.indices((256, 256)) - 128) / (256 * PIXEL)
    power = expected_power(kx, ky, 12000.0, astigmatism=600.0, angle=35.0)
    power *= 1 + 0.1 * np.random.default_rng(1).standard_normal(power.shape)
    amplitudes = write(tmp_path / "a_PS.mrc", np.sqrt(power)[None])
    powers = write(tmp_path / "p_PS.mrc", power[None])
    first = run("ctf", input=amplitudes, power_spectra=True, output=tmp_path / "1", **COMMON)
    second = run(
        "ctf", input=powers, power_spectra=True, spectra_hold="powers", output=tmp_path / "2", **COMMON
    )
    table = tmp_path / "micrographs.star"
    table.write_text(
        "data_optics\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n_rlnVoltage\n"
        "_rlnSphericalAberration\n_rlnAmplitudeContrast\none 1 0.8 300 2.7 0.07\n\n"
        "data_micrographs\nloop_\n_rlnMicrographName\n_rlnCtfPowerSpectrum\n_rlnOpticsGroup\n"
        "a.mrc a_PS.mrc 1\n"
    )
    third = run("ctf", input=table, power_spectra=True, output=tmp_path / "3")
    for result in (first, second, third):
        columns = read_star(result.outputs["micrographs"])["micrographs"]
        assert columns["rlnDefocusU"][0] == pytest.approx(12300, abs=40)
        assert columns["rlnDefocusV"][0] == pytest.approx(11700, abs=40)
        assert columns["rlnDefocusAngle"][0] == pytest.approx(35, abs=4)
    found = read_micrographs([third.outputs["micrographs"]])
    # the table's pixel size is the micrograph's and stays
    assert found.name == ("a.mrc",) and found.optics[0].pixel_size_angstrom == 0.8
    table.write_text(table.read_text().replace("rlnCtfPowerSpectrum", "rlnOther"))
    with pytest.raises(MetadataError, match="rlnCtfPowerSpectrum"):
        run("ctf", input=table, power_spectra=True, output=tmp_path / "4")


def test_known_astigmatism_is_kept(run, micrographs):
    result = run("ctf", input=micrographs[0], known_astigmatism=300.0, known_astigmatism_angle=70.0, **COMMON)
    columns = read_star(result.outputs["micrographs"])["micrographs"]
    assert columns["rlnDefocusU"][0] - columns["rlnDefocusV"][0] == pytest.approx(300)
    assert columns["rlnDefocusAngle"][0] == pytest.approx(70)


def test_phase_shift_is_written_for_relion(run, micrographs):
    result = run("ctf", input=micrographs[0], phase_shift_range=(30.0, 30.0), **COMMON)
    columns = read_star(result.outputs["micrographs"])["micrographs"]
    assert columns["rlnPhaseShift"][0] == pytest.approx(30)
    values = np.loadtxt(result.outputs["values"][0])
    assert values[4] == pytest.approx(np.deg2rad(30), abs=1e-5)


def test_aliasing_is_told(run, tmp_path):
    far = write(tmp_path / "far.mrc", image_of(48000.0)[None])
    result = run("ctf", input=far, **{**COMMON, "spectrum_size": 128})
    assert any("--spectrum-size 256" in notice and "aliasing" in notice for notice in result.notices)


def test_optics_must_be_known(run, micrographs, tmp_path):
    with pytest.raises(MetadataError, match="--voltage"):
        run("ctf", input=micrographs[0], cs=2.7)
    result = run("ctf", input=micrographs[0], voltage=300.0, cs=2.7, spectrum_size=256, output=tmp_path / "2")
    assert any("no amplitude contrast is stated: 0.07" in notice for notice in result.notices)
    optics = read_star(result.outputs["micrographs"])["optics"]
    assert optics["rlnAmplitudeContrast"][0] == 0.07


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_resolution": 5.0, "max_resolution": 8.0}, "smaller spacing"),
        ({"spectrum_size": 301}, "even"),
        ({"defocus_range": (2e4, 1e4)}, "--defocus-range runs from a lower"),
        ({"phase_shift_range": (90.0, 0.0)}, "--phase-shift-range runs"),
        ({"power_spectra": True, "defocus_plane": True}, "--defocus-plane needs micrographs"),
        ({"gain_corrected": True, "gain": True}, "choose"),
        ({"frames_to_average": 0}, "frames-to-average"),
        ({"known_astigmatism_angle": 30.0}, "without --known-astigmatism"),
        ({"phase_shift_step": 5.0}, "without --phase-shift-range"),
        ({"spectra_hold": "powers"}, "without --power-spectra"),
        ({"known_astigmatism": 300.0, "tolerated_astigmatism": 100.0}, "--tolerated-astigmatism restrains"),
        ({"power_spectra": True, "frames_to_average": 5}, "summed already"),
        ({"gain_corrected": True, "gain_flip": "x"}, "leaves nothing"),
    ],
)
def test_impossible_options(run, micrographs, options, message):
    if "gain" in options:
        options = {**options, "gain": micrographs[1]}
    with pytest.raises(ParameterError, match=message):
        run("ctf", input=micrographs[0], **{**COMMON, **options})


def test_published_fits(run, test_data):
    folder = test_data / "bgal_spectra"
    result = run(
        "ctf", input=folder / "*.mrc", power_spectra=True, voltage=200.0, cs=1.4, amplitude_contrast=0.1,
        pictures=False,
    )  # fmt: skip
    with (folder / "reference.csv").open() as stream:
        wanted = {row["power_spectrum"]: row for row in csv.DictReader(stream)}
    columns = read_star(result.outputs["micrographs"])["micrographs"]
    assert len(columns["rlnDefocusU"]) == 12 and result.figures["low_confidence"] == 0
    for name, u, v in zip(columns["rlnMicrographName"], columns["rlnDefocusU"], columns["rlnDefocusV"]):
        row = wanted[Path(str(name)).name]
        ref_u, ref_v = float(row["defocus_u_angstrom"]), float(row["defocus_v_angstrom"])
        assert abs((u + v) - (ref_u + ref_v)) / 2 < 100
        assert abs((u - v) - (ref_u - ref_v)) < 100
    assert open_stack(result.outputs["pictures"][0]).shape == (1, 512, 512)
