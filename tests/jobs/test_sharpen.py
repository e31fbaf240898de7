"""sharpen: what each option does to a map whose spectrum is known."""

import numpy as np
import pytest

from parhelion.algorithms.postprocess.flatten import amplitude_spectrum
from parhelion.errors import InputError, ParameterError
from parhelion.fourier.filters import apply_bfactor
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.star import read_star, write_star
from parhelion.jobs._fsc import write_fsc
from parhelion.model.table import Table
from parhelion.model.volume import Volume

BOX, PIXEL = 48, 2.0
FREQUENCY = np.arange(BOX // 2 + 1) / (BOX * PIXEL)


@pytest.fixture
def atoms(tmp_path):
    """Point atoms, whose spectrum is flat, blurred by a B-factor of 200 Å²."""
    rng = np.random.default_rng(4)
    data = np.zeros((BOX,) * 3, np.float32)
    where = rng.integers(-10, 11, (400, 3)) + BOX // 2
    np.add.at(data, tuple(where.T), 1.0)
    path = tmp_path / "atoms.mrc"
    write_volume(path, apply_bfactor(Volume(data=data, pixel_size_angstrom=PIXEL), 200.0))
    return path


@pytest.fixture
def fsc_table(tmp_path):
    """An FSC that falls through 0.143 at 6 Å."""
    curve = np.clip(1.143 - FREQUENCY * 6, 0, 1)
    columns = {"rlnAngstromResolution": 1 / np.maximum(FREQUENCY, 1e-3)}
    columns["rlnFourierShellCorrelationCorrected"] = curve
    write_star(tmp_path / "fsc.star", {"fsc": Table(columns)})
    return tmp_path / "fsc.star"


@pytest.fixture
def sharpen(run, atoms, tmp_path):
    """Amplitudes per shell of the result, with the map unmasked and at its own scale unless asked."""

    def call(**options):
        sharpen.count += 1
        given = {"mask_kind": "none", "sigma": 0.0, "pre_bfactor": 0.0, **options}
        if "mask" in options:
            given.pop("mask_kind")
        result = run("sharpen", input=atoms, output=tmp_path / f"s{sharpen.count}", **given)
        return read_volume(result.outputs["map"]).data, result

    sharpen.count = 0
    return call


def slope(data, low, high):
    """B-factor of a map between two resolutions: 4 times the slope of ln amplitude over 1/d²."""
    use = (1 / low <= FREQUENCY) & (1 / high >= FREQUENCY)
    return 4 * np.polyfit(FREQUENCY[use] ** 2, np.log(amplitude_spectrum(data)[use]), 1)[0]


def test_the_flattened_part_is_flat_and_the_rest_keeps_its_shape(sharpen, atoms) -> None:
    data, _ = sharpen(flatten_from=10.0)
    assert slope(data, 9.5, 4.1) == pytest.approx(0, abs=8)
    before, after = amplitude_spectrum(read_volume(atoms).data), amplitude_spectrum(data)
    np.testing.assert_allclose(after[1:9], before[1:9], rtol=0.02)
    plain, _ = sharpen(flatten_from=0.0)
    np.testing.assert_allclose(plain, read_volume(atoms).data, atol=1e-5)


def test_bfactors_before_and_after_flattening_begins(sharpen) -> None:
    data, _ = sharpen(flatten_from=8.0, pre_bfactor=-150.0, post_bfactor=60.0)
    assert slope(data, 7.6, 4.1) == pytest.approx(-60, abs=8)
    plain, _ = sharpen(flatten_from=8.0)
    ratio = amplitude_spectrum(data)[1:12] / amplitude_spectrum(plain)[1:12]
    np.testing.assert_allclose(ratio, np.exp(150 * FREQUENCY[1:12] ** 2 / 4), rtol=0.02)
    # no step where one B-factor gives way to the other
    steps = np.diff(np.log(amplitude_spectrum(data)))[10:16]
    assert np.abs(steps).max() < 0.35


def test_cutoff_and_its_edge(sharpen) -> None:
    sharp, _ = sharpen(cutoff=6.0, filter_edge=200.0)
    soft, _ = sharpen(cutoff=6.0, filter_edge=20.0)
    whole, _ = sharpen(cutoff=0.0)
    hard, wide, full = (amplitude_spectrum(d) for d in (sharp, soft, whole))
    beyond = FREQUENCY > 1 / 6 + 0.01
    assert hard[beyond].max() < 1e-3 * full[beyond].min()
    # at half amplitude at the cut-off, and gone half a width of 1/20 beyond it
    at = int(np.argmin(np.abs(FREQUENCY - 1 / 6)))
    assert wide[at] / full[at] == pytest.approx(0.5, abs=0.15)
    assert wide[FREQUENCY > 1 / 6 + 0.035].max() < 1e-3 * full.max()


def test_weights_and_cutoff_from_an_fsc(sharpen, fsc_table) -> None:
    data, result = sharpen(fsc=fsc_table)
    assert result.figures["cutoff_angstrom"] == pytest.approx(6.0, rel=0.05)
    curve = np.clip(1.143 - FREQUENCY * 6, 0, 0.9999)
    weights = read_star(result.outputs["spectrum"])["spectrum"]["parhelionFigureOfMerit"]
    # SSNR = 2 FSC / (1 − FSC), weight SSNR / (1 + SSNR)
    np.testing.assert_allclose(weights[4:], (2 * curve / (1 + curve))[4:], atol=0.02)
    unweighted, other = sharpen(fsc=fsc_table, fom_weighting=False)
    assert (read_star(other.outputs["spectrum"])["spectrum"]["parhelionFigureOfMerit"] == 1).all()
    ratio = (amplitude_spectrum(data) / amplitude_spectrum(unweighted))[2:16]
    np.testing.assert_allclose(ratio, weights[2:16], rtol=0.02)


def test_mass_and_scale_change_the_weights(sharpen, fsc_table) -> None:
    def weights(**options):
        result = sharpen(**options)[1]
        return read_star(result.outputs["spectrum"])["spectrum"]["parhelionFigureOfMerit"][6:14]

    plain = weights(fsc=fsc_table)
    # a particle that fills little of the box has a better FSC than the box
    assert (weights(fsc=fsc_table, mass=100.0) > plain).all()
    assert (weights(fsc=fsc_table, ssnr_scale=0.2) < plain).all()
    assert (weights(mass=500.0) > weights(mass=50.0)).all()


def test_statistics_are_stretched(sharpen, fsc_table) -> None:
    plain = sharpen(fsc=fsc_table)[1]
    finer = sharpen(fsc=fsc_table, statistics_scale=1.25)[1]
    assert finer.figures["cutoff_angstrom"] == pytest.approx(
        plain.figures["cutoff_angstrom"] / 1.25, rel=0.02
    )
    with pytest.raises(ParameterError, match="--statistics-scale stretches"):
        sharpen(statistics_scale=1.1)


def test_statistics_of_cistem_are_read(sharpen, tmp_path) -> None:
    rows = [
        f"{i + 1} {1 / f:.3f} {f * PIXEL:.5f} 0.9 0.95 {2.0:.4f} 3.0" for i, f in enumerate(FREQUENCY[1:])
    ]
    head = "C SHELL  RESOLUTION  RING_RADIUS  FSC  Part_FSC  Part_SSNR^0.5  Rec_SSNR^0.5"
    (tmp_path / "statistics.txt").write_text("\n".join([head, *rows]))
    _, result = sharpen(fsc=tmp_path / "statistics.txt")
    weights = read_star(result.outputs["spectrum"])["spectrum"]["parhelionFigureOfMerit"]
    # Part_SSNR is 2² = 4
    np.testing.assert_allclose(weights[1:], 0.8, atol=1e-6)
    (tmp_path / "words.txt").write_text("nothing of the kind\n")
    with pytest.raises(InputError, match="line 1: expected the 7 numbers"):
        sharpen(fsc=tmp_path / "words.txt")


def test_scale_hand_and_gridding(sharpen, atoms) -> None:
    scaled, result = sharpen(sigma=0.05)
    assert result.figures["sigma"] == pytest.approx(0.05, rel=1e-3)
    plain, _ = sharpen()
    np.testing.assert_allclose(scaled / scaled.std(), plain / plain.std(), atol=1e-3)
    masked, _ = sharpen(sigma=0.05, mask_kind="sphere", outer_radius=20.0)
    assert masked.std() == pytest.approx(0.05, rel=1e-3)
    other, _ = sharpen(invert_hand=True)
    np.testing.assert_allclose(other, np.roll(plain[:, :, ::-1], 1, axis=2), atol=1e-5)
    corrected, _ = sharpen(gridding_correction=True, flatten_from=0.0)
    before = read_volume(atoms).data
    centre, off = BOX // 2, BOX // 2 + 10
    envelope = np.sinc(10 / BOX) ** 2
    assert corrected[centre, centre, off] == pytest.approx(before[centre, centre, off] / envelope, rel=1e-3)


def test_masks(sharpen, tmp_path) -> None:
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    radius = np.sqrt(z**2 + y**2 + x**2) * PIXEL
    options = {"mask_kind": "sphere", "outer_radius": 24.0, "mask_edge": 4.0}
    ball, result = sharpen(**options, flatten_from=0.0)
    assert np.ptp(ball[radius > 29]) < 1e-5
    assert read_volume(result.outputs["mask"]).data[radius < 24].min() == 1
    _, result = sharpen(**options, inner_radius=12.0, flatten_from=0.0)
    inside = read_volume(result.outputs["mask"]).data
    assert inside[radius < 7].max() < 0.01 and inside[(radius > 13) & (radius < 23)].min() > 0.99
    soft, _ = sharpen(**{**options, "mask_edge": 12.0}, flatten_from=0.0)
    assert np.ptp(soft[(radius > 29) & (radius < 35)]) > 1e-3
    kept, _ = sharpen(**options, outside_weight=0.5, flatten_from=0.0)
    far = radius > 29
    assert kept[far].std() == pytest.approx(0.5 * plain_std(sharpen, far), rel=0.05)
    smooth, _ = sharpen(**options, outside_weight=0.5, outside_lowpass=30.0, flatten_from=0.0)
    assert smooth[far].std() < kept[far].std()
    follow, result = sharpen(mask_kind="automatic")
    own = result.outputs["mask"]
    given, _ = sharpen(mask=own)
    np.testing.assert_allclose(given, follow, atol=1e-5)


def plain_std(sharpen, where):
    return sharpen(flatten_from=0.0)[0][where].std()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outer_radius": 20.0}, "--outer-radius belongs to --mask-kind sphere"),
        ({"outside_weight": 0.5, "mask_kind": "none"}, "--outside-weight needs a mask"),
        ({"outside_lowpass": 20.0}, "give a weight"),
        ({"ssnr_scale": 2.0}, "give --fsc or --mass"),
        ({"mask_kind": "sphere", "inner_radius": 120.0}, "inner radius"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, atoms, options, message) -> None:
    with pytest.raises(InputError, match=message):
        run("sharpen", input=atoms, **options)


def test_resolutions_beyond_the_pixels_and_curves_of_nothing_are_told(run, molecule, tmp_path) -> None:
    fine = run("sharpen", input=molecule, cutoff=3.0, flatten_from=5.0, output=tmp_path / "fine")
    assert sum("does nothing: the pixels end at 8 Å" in note for note in fine.notices) == 2
    unfiltered = run("sharpen", input=molecule, flatten_from=20.0, output=tmp_path / "plain")
    assert "cutoff_angstrom" not in unfiltered.figures
    write_fsc(tmp_path / "fsc.star", {"unmasked": np.r_[1.0, np.zeros(16)]}, 32, 4.0)
    with pytest.raises(InputError, match=r"below 0\.143 from the first shell on"):
        run("sharpen", input=molecule, fsc=tmp_path / "fsc.star", output=tmp_path / "empty")
