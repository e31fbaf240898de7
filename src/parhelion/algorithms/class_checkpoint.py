"""What a 3D classification leaves behind after every round, so that it can go on after a kill."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parhelion.contracts import Observer
from parhelion.engine.archive import write_archive
from parhelion.engine.candidates import Candidates
from parhelion.engine.classes import ClassState
from parhelion.engine.halves import HalfMaps
from parhelion.errors import ParameterError

KEPT = 2
"""Rounds that stay: the last one may be damaged."""
POSES = ("particle", "rotation", "shift", "weight", "reference")
History = list[dict[str, float | int]]


def save(folder: Path, state: ClassState, history: History, mark: str) -> None:
    """Write ``state`` whole or not at all, and drop all but the last. Raises OutputError."""
    path = folder / f"classes_{len(history):03d}.npz"
    header = {
        "fingerprint": mark,
        "history": history,
        "temperature": state.temperature,
        "information": state.information,
        "evidence": state.evidence,
        "shells": [(one.resolved_shell, one.half_shell) for one in state.halves],
    }
    arrays = {f"kept_{name}": getattr(state.kept, name).numpy() for name in POSES}
    arrays |= {"share": state.share, "half": state.half, "noise": state.noise.cpu().numpy()}
    if state.filters is not None:
        arrays["filters"] = state.filters
    for h in (0, 1):
        arrays[f"compared_{h}"] = torch.stack([one[h] for one in state.maps]).cpu().numpy()
        arrays[f"maps_{h}"] = torch.stack([one.maps[h] for one in state.halves]).cpu().numpy()
        arrays[f"unfiltered_{h}"] = torch.stack([one.unfiltered[h] for one in state.halves]).cpu().numpy()
    arrays["mask"] = torch.stack([one.mask for one in state.halves]).cpu().numpy()
    arrays["fsc"] = np.stack([one.fsc for one in state.halves])
    write_archive(path, header, arrays)
    for old in _files(folder)[:-KEPT]:
        old.unlink(missing_ok=True)


def load_last(folder: Path, mark: str, observer: Observer) -> tuple[ClassState, History] | None:
    """The newest whole state and its rounds, None where there is none. Damaged files are passed over with a
    notice. Raises ParameterError where a state was made from other particles or parameters."""
    for path in reversed(_files(folder)):
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            header = json.loads(arrays.pop("header").tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            observer.notice(f"checkpoint {path.name} is damaged ({error}); an earlier one is used instead")
            continue
        if header["fingerprint"] != mark:
            raise ParameterError(
                f"{path} was made from other particles, other references or other parameters; "
                "start again with --overwrite"
            )
        observer.notice(f"going on after round {len(header['history'])}")
        return _state(arrays, header), list(header["history"])
    return None


def _state(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> ClassState:
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}

    def pair(name: str, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors[f"{name}_0"][k], tensors[f"{name}_1"][k]

    classes = range(len(arrays["share"]))
    halves = tuple(
        HalfMaps(
            maps=pair("maps", k),
            unfiltered=pair("unfiltered", k),
            mask=tensors["mask"][k],
            fsc=arrays["fsc"][k],
            resolved_shell=header["shells"][k][0],
            half_shell=header["shells"][k][1],
        )
        for k in classes
    )
    return ClassState(
        maps=tuple(pair("compared", k) for k in classes),
        share=arrays["share"],
        kept=Candidates(**{name: tensors[f"kept_{name}"] for name in POSES}),
        noise=tensors["noise"],
        half=arrays["half"],
        halves=halves,
        temperature=header["temperature"],
        information=header["information"],
        evidence=header["evidence"],
        filters=arrays.get("filters"),
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("classes_*.npz"))
