"""What a refinement leaves behind after every round, so that it can go on after a kill.

One file per round: an uncompressed NumPy archive whose member ``header`` is JSON text (bytes, no pickle)
with the schedule's state and a fingerprint of everything that decides the result; the other members are
arrays. A file is written under a temporary name and renamed when it is whole; the last two are kept. The
archive's checksums show a damaged file, and the one before takes its place.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parhelion.contracts import Observer
from parhelion.engine.archive import write_archive
from parhelion.engine.candidates import Candidates
from parhelion.engine.cistem_searches import Searches
from parhelion.engine.schedule import Plan, Progress
from parhelion.engine.state import RefineState
from parhelion.errors import ParameterError

VERSION = 3
KEPT = 2


def fingerprint(values: Mapping[str, Any]) -> str:
    """SHA-256 over named values: arrays by their bytes, everything else by its text."""
    digest = hashlib.sha256(f"parhelion checkpoint {VERSION}".encode())
    for name in sorted(values):
        value = values[name]
        digest.update(f"\n{name}=".encode())
        if isinstance(value, np.ndarray) and value.dtype != object:
            digest.update(f"{value.dtype.str}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def save(folder: Path, state: RefineState, mark: str) -> Path:
    """Write ``state`` with the fingerprint ``mark``, whole or not at all, and drop all but the last two.

    Raises OutputError where the file system does not allow it; what was there before stays.
    """
    number = len(state.history)
    path = folder / f"round_{number:03d}.npz"
    header = {
        "version": VERSION,
        "fingerprint": mark,
        "plan": asdict(state.plan),
        "progress": asdict(state.progress),
        "history": state.history,
        "finished": state.finished,
    }
    write_archive(path, header, _arrays(state))
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob("round_*.npz"))


def load_last(folder: Path, mark: str, observer: Observer) -> RefineState | None:
    """The state of the newest whole checkpoint, None where there is none.

    Damaged files are passed over with a notice. Raises ParameterError where a checkpoint was made with other
    inputs or parameters.
    """
    for path in reversed(checkpoints(folder)):
        try:
            state = load(path, mark)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            observer.notice(f"checkpoint {path.name} is damaged ({error}); an earlier one is used instead")
            continue
        observer.notice(f"going on after round {len(state.history)}")
        return state
    return None


def load(path: Path, mark: str) -> RefineState:
    """The state in one checkpoint. Raises ParameterError where its fingerprint is not ``mark``."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays.pop("header").tobytes())
    if header["version"] != VERSION or header["fingerprint"] != mark:
        raise ParameterError(
            f"{path} was made from other particles, another reference or other parameters; "
            "start again with --overwrite"
        )

    def tensor(name: str) -> torch.Tensor | None:
        return torch.from_numpy(arrays[name]) if name in arrays else None

    kept = {name.removeprefix("kept_"): tensor(name) for name in arrays if name.startswith("kept_")}
    pairs = {
        name: (torch.from_numpy(arrays[f"{name}_1"]), torch.from_numpy(arrays[f"{name}_2"]))
        for name in ("maps", "unfiltered")
        if f"{name}_1" in arrays
    }
    searches = {n.removeprefix("searches_"): a for n, a in arrays.items() if n.startswith("searches_")}
    return RefineState(
        maps=pairs["maps"],
        kept=Candidates(**kept),  # type: ignore[arg-type]
        noise=torch.from_numpy(arrays["noise"]),
        half=arrays["half"],
        plan=Plan(**header["plan"]),
        progress=Progress(**header["progress"]),
        fsc=arrays["fsc"],
        curves=arrays["curves"],
        history=tuple(header["history"]),
        unfiltered=pairs.get("unfiltered"),
        mask=tensor("mask"),
        log_likelihood=arrays.get("log_likelihood"),
        uncertainty_deg=arrays.get("uncertainty_deg"),
        combined=tensor("combined"),
        searches=Searches(**searches) if searches else None,
        finished=header["finished"],
    )


def _arrays(state: RefineState) -> dict[str, np.ndarray]:
    """Everything of the state that is no scalar, by the names that ``load`` reads."""
    named: dict[str, Any] = {
        "maps_1": state.maps[0],
        "maps_2": state.maps[1],
        "noise": state.noise,
        "half": state.half,
        "fsc": state.fsc,
        "curves": state.curves,
        "mask": state.mask,
        "combined": state.combined,
        "log_likelihood": state.log_likelihood,
        "uncertainty_deg": state.uncertainty_deg,
    }
    if state.unfiltered is not None:
        named |= {"unfiltered_1": state.unfiltered[0], "unfiltered_2": state.unfiltered[1]}
    if state.searches is not None:
        named |= {f"searches_{name}": value for name, value in asdict(state.searches).items()}
    for field in ("particle", "rotation", "shift", "weight"):
        named[f"kept_{field}"] = getattr(state.kept, field)
    return {
        name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value
        for name, value in named.items()
        if value is not None
    }
