"""Names of images in tables, ``000012@Extract/job007/a.mrcs``, and the files they mean.

Paths are relative to the table's folder, or to one above it (RELION's project folder). A table that
parhelion wrote elsewhere says in a comment where its input's paths started from.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from parhelion.errors import MetadataError

FOLDER_COMMENT = "image paths start from: "


def split_names(path: Path, label: str, names: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Distinct file names, and per row its number among them and the 0-based index of the image.

    A name without ``@`` is the first image of its file. Raises MetadataError for other forms.
    """
    parts = [name.partition("@") if "@" in name else ("1", "@", name) for name in names]
    digits = [number for number, _, _ in parts]
    together = "".join(digits)
    files: dict[str, int] = {}
    ids = np.array([files.setdefault(file, len(files)) for _, _, file in parts], dtype=np.int64)
    sound = together.isascii() and together.isdecimal() and all(digits) and max(map(len, digits)) < 19
    numbers = np.array(digits).astype(np.int64) if sound else np.zeros(len(names), dtype=np.int64)
    if "" in files or not np.all(numbers > 0):
        row = next(i for i, (n, _, file) in enumerate(parts) if not (file and _is_count(n)))
        raise MetadataError(
            f"{path}: {label} is {names[row]!r} in row {row + 1}, expected NUMBER@FILE with numbers from 1"
        )
    return list(files), ids, numbers - 1


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19 and int(text) > 0


def resolve(table: Path, files: Sequence[str], stated: Path | None = None) -> tuple[Path, ...]:
    """Absolute paths of ``files`` as named in ``table``.

    They are looked for beside the table, in the folder that the table states, and in the folders above the
    table. A file that is nowhere gets the path that it would have beside the table.
    """
    folder = table.absolute().parent
    bases = [folder, *([stated] if stated else []), *folder.parents]
    found = []
    for file in files:
        base = next((base for base in bases if _exists(base / file)), None)
        if base is not None and base != bases[0]:
            # the next file most likely lies beside this one
            bases = [base, *(b for b in bases if b != base)]
        found.append((base or stated or folder) / file)
    return tuple(found)


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def stated_folder(table: Path) -> Path | None:
    """The folder that a table written by parhelion names in its first lines."""
    try:
        with table.open("rb") as stream:
            head = stream.read(4096)
    except OSError:
        return None
    for line in head.split(b"\n"):
        text = line.decode(errors="replace").lstrip("# ").rstrip()
        if line.startswith(b"#") and text.startswith(FOLDER_COMMENT):
            return Path(text.removeprefix(FOLDER_COMMENT))
    return None


def names_for(
    table: Path, images: Sequence[Path], path_id: np.ndarray, index: np.ndarray, given: np.ndarray | None
) -> tuple[np.ndarray, Path | None]:
    """Names to write into ``table``, and the folder to state there, if one is needed.

    ``given`` are the names in the input; they are kept where they still mean the same images. Others are
    relative to the table's folder where the image lies in it, else absolute.
    """
    if given is not None:
        texts, ids, numbers = split_names(table, "rlnImageName", given.tolist())
        pairs = [divmod(int(pair), len(images)) for pair in np.unique(ids * len(images) + path_id)]
        same = np.array_equal(numbers, index) and all(_ends(images[p], texts[i]) for i, p in pairs)
        if same:
            lost = [(i, p) for i, p in pairs if resolve(table, [texts[i]])[0] != images[p]]
            bases = {str(images[p])[: -len(texts[i])] for i, p in lost}
            if len(bases) <= 1:
                return np.asarray(given, dtype=object), Path(bases.pop()) if bases else None
    folder = table.absolute().parent
    whole = [p.absolute() for p in images]
    texts = [str(p.relative_to(folder)) if p.is_relative_to(folder) else str(p) for p in whole]
    names = [f"{number + 1:06d}@{texts[file]}" for file, number in zip(path_id.tolist(), index.tolist())]
    return np.array(names, dtype=object), None


def _ends(path: Path, text: str) -> bool:
    return str(path) == text or str(path).endswith("/" + text)
