"""abinitio: a map from particles alone, its starts, and what is said where it is doubtful."""

import numpy as np
import pytest

from parhelion.algorithms.ab_initio import AbInitioResult, Start
from parhelion.algorithms.map_alignment import align_maps
from parhelion.errors import InputError, ParameterError
from parhelion.io.mrc import read_volume
from parhelion.jobs._abinitio import best_agreement, best_rival, doubts
from parhelion.model.volume import Volume

QUICK = {"diameter": 90, "starts": 2, "rounds": 2, "final_resolution": 16}


@pytest.fixture
def simulated(run, molecule):
    return run("simulate_particles", model=molecule, count=60, snr=1.0, shift=3).outputs


@pytest.mark.long
def test_the_molecule_is_found_from_nothing(run, molecule) -> None:
    made = run("simulate_particles", model=molecule, count=200, snr=1.0, shift=3).outputs
    found = run("abinitio", input=made["particles"], **{**QUICK, "rounds": 14, "starts": 1})
    aligned = align_maps(read_volume(found.outputs["map"]), read_volume(made["reference"]))
    assert aligned.fsc_half_angstrom < 22
    assert found.figures["resolution_limit_angstrom"] == pytest.approx(16, rel=0.1)
    assert any("single start" in note for note in found.notices)


def test_every_start_is_written_and_shown(run, simulated) -> None:
    found = run("abinitio", input=simulated["particles"], symmetry="C2", **QUICK)
    assert [path.name for path in found.outputs["starts"]] == ["start_001.mrc", "start_002.mrc"]
    assert found.outputs["map"].name == "map_001.mrc"
    evidence = found.figures["evidence"], found.figures["evidence_of_the_next"]
    assert evidence[0] >= evidence[1]
    assert found.figures["chosen_start"] in (1, 2)
    assert -1 <= found.figures["symmetry_correlation"] <= 1
    data = read_volume(found.outputs["map"]).data
    turned = np.roll(data[:, ::-1, ::-1], (1, 1), axis=(1, 2))
    inside = (slice(2, -2),) * 3
    np.testing.assert_allclose(data[inside], turned[inside], atol=0.02 * data.max())
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    for shown in ("Initial map (C2)", "Start 1", "Start 2", "chosen", "Rounds", "Central slices"):
        assert shown in report
    assert any("few" in note for note in found.notices)


def test_the_same_seed_gives_the_same_map(run, simulated, tmp_path) -> None:
    maps = [
        run("abinitio", input=simulated["particles"], **QUICK, seed=seed, output=tmp_path / name)
        for seed, name in ((3, "a"), (3, "b"), (4, "c"))
    ]
    a, b, c = (read_volume(one.outputs["map"]).data for one in maps)
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c, atol=1e-3 * np.abs(a).max())


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"symmetry": "X3"}, ParameterError, "X3"),
        ({"diameter": 900}, ParameterError, "does not fit into the box"),
        ({"initial_resolution": 15, "final_resolution": 20}, ParameterError, "finer"),
        ({"starts": 0}, ParameterError, "--starts"),
        ({"diameter": None}, InputError, "--diameter"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, simulated, options, error, said) -> None:
    given = {key: value for key, value in {**QUICK, **options}.items() if value is not None}
    with pytest.raises(error, match=said):
        run("abinitio", input=simulated["particles"], **given)


def result(agreements: list[float], correlation: float | None = None) -> AbInitioResult:
    """A result whose first start is the chosen one."""
    volume = Volume(data=np.zeros((4, 4, 4), np.float32), pixel_size_angstrom=1.0)
    starts = tuple(
        Start(seed=i, evidence=-float(i), volume=volume, agreement=value)
        for i, value in enumerate([1.0, *agreements])
    )
    return AbInitioResult(
        volume=volume,
        chosen=0,
        starts=starts,
        symmetry="C1",
        symmetry_correlation=correlation,
        resolution_limit_angstrom=20.0,
        notes=(),
    )


def test_a_map_that_stands_alone_is_called_doubtful() -> None:
    assert doubts(result([0.2, 0.9])) == []
    assert "mean FSC at most 0.30" in doubts(result([0.2, 0.3]))[0]
    assert "single start" in doubts(result([]))[0]
    assert best_rival(result([0.2, 0.9])) == 1
    assert best_agreement(result([0.2, 0.9])) == 0.9


def test_a_dry_run_estimates_and_writes_nothing(run, simulated, tmp_path) -> None:
    found = run("abinitio", input=simulated["particles"], **QUICK, dry_run=True, output=tmp_path / "dry")
    assert found.estimate.memory_bytes > 3e8
    assert found.estimate.seconds > 0
    assert not (tmp_path / "dry").exists()
