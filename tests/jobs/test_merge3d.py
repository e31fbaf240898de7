"""merge3d: parts of a reconstruction give the maps of the whole."""

import numpy as np
import pytest

from parhelion.errors import FormatError, InputError, ParameterError
from parhelion.io.mrc import read_volume


@pytest.fixture
def simulated(simulate):
    return simulate(count=120, snr=1.0, shift=3)


@pytest.fixture
def parts(run, simulated, tmp_path):
    def part(first: int, last: int, **options):
        where = tmp_path / f"part_{first}_{last}_{'_'.join(options)}"
        options |= {"first": first, "last": last, "partial_sums": True, "output": where}
        return run("reconstruct", input=simulated["truth"], **options)

    return part


def test_the_maps_are_those_of_one_run(run, simulated, parts) -> None:
    found = [parts(1, 50), parts(51, 120)]
    assert set(found[0].outputs) == {"sums"}
    assert found[0].figures["used_particles"] == 50
    merged = run("merge3d", input=[part.outputs["sums"] for part in found], mass=300.0)
    whole = run("reconstruct", input=simulated["truth"], mass=300.0)
    assert set(merged.outputs) == set(whole.outputs)
    assert merged.figures["used_particles"] == 120
    assert merged.figures["resolution_angstrom"] == pytest.approx(
        whole.figures["resolution_angstrom"], abs=1e-3
    )
    for name in ("map", "half1", "half2"):
        one, other = (read_volume(r.outputs[name]).data for r in (whole, merged))
        np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max())
    statistics = [r.outputs["statistics"].read_text().splitlines() for r in (whole, merged)]
    assert len(statistics[0]) == len(statistics[1]) > 10


def test_options_of_the_maps_act(run, simulated, parts, tmp_path) -> None:
    sums = [parts(1, 120).outputs["sums"]]
    small = run("merge3d", input=sums, outer_radius=30.0, output=tmp_path / "small")
    large = run("merge3d", input=sums, outer_radius=60.0, mass=20.0, output=tmp_path / "large")
    assert (read_volume(small.outputs["mask"]).data > 0.5).sum() < (
        read_volume(large.outputs["mask"]).data > 0.5
    ).sum() / 4
    parts_of = {
        name: np.loadtxt(r.outputs["statistics"], comments="C")[3:9]
        for name, r in (("s", small), ("l", large))
    }
    # without a mass the particle fills its mask; with one the solvent's noise is taken out
    np.testing.assert_allclose(parts_of["s"][:, 3], parts_of["s"][:, 4])
    assert (parts_of["l"][:, 4] >= parts_of["l"][:, 3]).all()
    assert (parts_of["l"][:, 4] > parts_of["l"][:, 3]).any()
    mask = large.outputs["mask"]
    given = run("merge3d", input=sums, mask=mask, output=tmp_path / "given")
    assert given.figures["resolution_angstrom"] == pytest.approx(
        large.figures["resolution_angstrom"], rel=0.05
    )


def test_what_does_not_fit_together_is_refused(run, parts, molecule, tmp_path) -> None:
    first = parts(1, 60).outputs["sums"]
    twice, other = parts(31, 120).outputs["sums"], parts(61, 120, symmetry="C2").outputs["sums"]
    with pytest.raises(InputError, match="particles 31 to 60 are in"):
        run("merge3d", input=[first, twice], output=tmp_path / "twice")
    with pytest.raises(InputError, match="not of the same reconstruction"):
        run("merge3d", input=[first, other], output=tmp_path / "other")
    negative = parts(61, 120, contrast="black").outputs["sums"]
    with pytest.raises(InputError, match="not of the same reconstruction"):
        run("merge3d", input=[first, negative], output=tmp_path / "negative")
    with pytest.raises(FormatError, match="no partial sums"):
        run("merge3d", input=[molecule])
    with pytest.raises(ParameterError, match="is for merge3d"):
        parts(1, 60, outer_radius=50.0)


def test_what_is_missing_is_told(run, parts) -> None:
    found = run("merge3d", input=[parts(1, 80).outputs["sums"]])
    assert any("40 of 120 particles are in none" in note for note in found.notices)
    assert found.figures["used_particles"] == 80


def test_a_damaged_file_is_no_crash(run, parts, tmp_path) -> None:
    whole = parts(1, 120).outputs["sums"].read_bytes()
    broken = tmp_path / "broken.npz"
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match="truncated"):
        run("merge3d", input=[broken])


def test_sums_of_another_size_than_the_header_says_are_refused(run, parts, tmp_path) -> None:
    from parhelion.io.partial_sums import read_partial_sums, write_partial_sums

    header, arrays = read_partial_sums(parts(1, 120).outputs["sums"])
    wrong = (
        arrays | {"numerator_0_0": arrays["numerator_0_0"][1:]},
        arrays | {"denominator_0_1": arrays["denominator_0_1"].astype(np.float64)},
        arrays | {"weight": arrays["weight"][:, :1]},
    )
    for number, changed in enumerate(wrong):
        write_partial_sums(tmp_path / f"wrong{number}.npz", header, changed)
        with pytest.raises(FormatError, match="than its header says"):
            run("merge3d", input=[tmp_path / f"wrong{number}.npz"], output=tmp_path / f"of{number}")
