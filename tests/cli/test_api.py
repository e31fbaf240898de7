"""Every job is a Python function that says what it takes."""

import inspect
from pathlib import Path

import numpy as np
import pytest

import parhelion
from parhelion.errors import ParameterError
from parhelion.io.mrc import write_volume
from parhelion.model.volume import Volume


def test_function_runs_the_job(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(3)
    data = rng.normal(size=(16, 16, 16)).astype(np.float32)
    write_volume(tmp_path / "a.mrc", Volume(data=data, pixel_size_angstrom=2.0))
    result = parhelion.flip_hand(input=tmp_path / "a.mrc", output=tmp_path / "out", device="cpu")
    assert result.figures == {"maps": 1}
    assert result.outputs["maps"] == [tmp_path / "out" / "a.mrc"]
    assert result.folder == tmp_path / "out"
    assert capsys.readouterr() == ("", "")


def test_functions_are_listed_with_signature_and_documentation() -> None:
    assert {"fsc", "flip_hand", "simulate_particles"} <= set(dir(parhelion))
    signature = inspect.signature(parhelion.fsc)
    assert signature.parameters["input"].default is inspect.Parameter.empty
    assert signature.parameters["seed"].default == 1
    assert "print_json" not in signature.parameters
    assert "pixel_size [Å]" in parhelion.fsc.__doc__


def test_unknown_names_are_told() -> None:
    with pytest.raises(AttributeError, match="no attribute 'refien'"):
        _ = parhelion.refien
    with pytest.raises(ParameterError, match="unknown option --maks"):
        parhelion.fsc(input=[], output="x", maks=1)


def test_submodules_are_still_importable() -> None:
    from parhelion import model, run

    assert model.__name__ == "parhelion.model"
    assert run.__name__ == "parhelion.run"
