"""What a manual refinement leaves behind after every cycle, so that it can go on after a kill."""

import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from parhelion.algorithms.manual.problem import ClassMaps, ManualState, Scores
from parhelion.contracts import Observer
from parhelion.engine.archive import write_archive
from parhelion.errors import ParameterError

KEPT = 2
PLAIN = ("rotation", "shift", "posed", "occupancy", "defocus_change_angstrom", "half")
SCORES = ("score", "change", "log_p", "sigma")


def save(folder: Path, state: ManualState, mark: str) -> None:
    """Write ``state`` with the fingerprint ``mark``, whole or not at all, and drop all but the last two.

    Raises OutputError where the file system does not allow it.
    """
    path = folder / f"cycle_{state.cycle:03d}.npz"
    header = {
        "fingerprint": mark,
        "cycle": state.cycle,
        "history": state.history,
        "resolved": [one.resolved_shell for one in state.solved],
    }
    write_archive(path, header, _arrays(state))
    for old in _files(folder)[:-KEPT]:
        old.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("cycle_*.npz"))


def _arrays(state: ManualState) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(getattr(state, name)) for name in PLAIN}
    arrays |= {f"scores_{name}": getattr(state.scores, name) for name in SCORES}
    arrays["noise"] = state.noise.cpu().numpy()
    for k, one in enumerate(state.solved):
        maps = {
            "a": one.unfiltered[0],
            "b": one.unfiltered[1],
            "combined": one.combined,
            "mask": one.mask,
            "reference_a": one.references[0],
            "reference_b": one.references[1],
        }
        arrays |= {f"class{k}_{name}": value.cpu().numpy() for name, value in maps.items()}
        arrays[f"class{k}_fsc"] = one.fsc
    return arrays


def load_last(folder: Path, mark: str, cycles: int, observer: Observer) -> ManualState | None:
    """The newest whole checkpoint of at most ``cycles`` cycles, None where there is none.

    Damaged files are passed over with a notice. Raises ParameterError where one was made with other inputs
    or parameters.
    """
    for path in reversed(_files(folder)):
        try:
            state = load(path, mark)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            observer.notice(f"checkpoint {path.name} is damaged ({error}); an earlier one is used instead")
            continue
        if state.cycle <= cycles:
            observer.notice(f"going on after cycle {state.cycle}")
            return state
    return None


def load(path: Path, mark: str) -> ManualState:
    """The state in one checkpoint. Raises ParameterError where its fingerprint is not ``mark``."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays.pop("header").tobytes())
    if header["fingerprint"] != mark:
        raise ParameterError(
            f"{path} was made from other particles, other references or other parameters; "
            "start again with --overwrite"
        )

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[name])

    solved = tuple(
        ClassMaps(
            unfiltered=(tensor(f"class{k}_a"), tensor(f"class{k}_b")),
            combined=tensor(f"class{k}_combined"),
            mask=tensor(f"class{k}_mask"),
            fsc=arrays[f"class{k}_fsc"],
            resolved_shell=int(resolved),
            references=(tensor(f"class{k}_reference_a"), tensor(f"class{k}_reference_b")),
        )
        for k, resolved in enumerate(header["resolved"])
    )
    return ManualState(
        **{name: arrays[name] for name in PLAIN},
        scores=Scores(**{name: arrays[f"scores_{name}"] for name in SCORES}),
        noise=tensor("noise"),
        references=tuple(one.references for one in solved),
        solved=solved,
        cycle=int(header["cycle"]),
        history=tuple(header["history"]),
    )
