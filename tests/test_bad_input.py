"""What a user sees when something is wrong, through the command line, and that nothing is lost by it.

Every case runs a command on small simulated data (or a real map), and checks the exit code, the words of the
answer, that no file was touched, and that the output folder holds no half-written result.
``docs/bad-input.md`` shows the same commands and answers: this module writes it (``scripts/docs``), and each
case compares it. Movies and micrographs are in ``test_bad_movies.py``, a full disk and a kill in
``test_interrupted.py``.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bad_input
from bad_input import DOCS, Case, blobs, check_said, check_whole, cut, shown, silently, table
from parhelion.fourier.resample import resample_volume
from parhelion.io.mrc import open_stack, read_volume, write_volume
from parhelion.io.mrc_writer import StackWriter
from parhelion.io.particles import read_particles
from parhelion.model.volume import Volume

PAGE = DOCS / "bad-input.md"
VARIABLE = "PARHELION_TEST_DATA"
BOX, PIXEL, COUNT = 32, 4.0, 40
MAP_BYTES = 4 * BOX**3
REFINE = "refine --input particles.star --reference reference.mrc --diameter 90 --output result"
RECONSTRUCT = "reconstruct --input truth.star --diameter 90 --output result"
QUICK = {"refine": "--max-rounds 1 --results-to-refine 2 --initial-resolution 20"}
"""Added to the commands so that the tests are fast; the page leaves it out."""
SIMULATE = {"simulate": "--snr 1 --shift 3"}


def without_rows(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if "@particles.mrcs" not in line) + "\n"


def repeat_rows(text: str) -> str:
    return text + "\n".join([line for line in text.splitlines() if "@particles.mrcs" in line][:3]) + "\n"


def damage_images(folder: Path) -> None:
    content = bytearray((folder / "particles.mrcs").read_bytes())
    pixels = np.frombuffer(content, "<f4", offset=len(content) - COUNT * BOX * BOX * 4)
    pixels.reshape(COUNT, BOX, BOX)[[2, 30], 4, 4] = np.nan
    (folder / "particles.mrcs").write_bytes(content)


def odd_box(folder: Path) -> None:
    """One pixel less on the near side: pixel n // 2, the centre, stays pixel n // 2."""
    images = open_stack(folder / "particles.mrcs").read(np.arange(COUNT))[:, 1:, 1:].copy()
    (folder / "particles.mrcs").unlink()
    with StackWriter(folder / "particles.mrcs", COUNT, (BOX - 1, BOX - 1), PIXEL) as writer:
        writer.write(0, images)
    table(lambda text: text.replace("\t32\t2\n", "\t31\t2\n"))(folder)


def another_reference(folder: Path) -> None:
    other = resample_volume(read_volume(folder / "reference.mrc"), 26, 5.0)
    write_volume(folder / "reference.mrc", other)


def header_without_pixel_size(folder: Path) -> None:
    content = bytearray((folder / "reference.mrc").read_bytes())
    content[40:52] = bytes(12)
    (folder / "reference.mrc").write_bytes(content)


def other_half_map(folder: Path) -> None:
    half = read_volume(folder / "reference.mrc")
    write_volume(folder / "half1.mrc", half)
    write_volume(folder / "half2.mrc", resample_volume(half, 28, PIXEL))


def constant_map(folder: Path) -> None:
    write_volume(
        folder / "reference.mrc", Volume(data=np.ones((BOX,) * 3, np.float32), pixel_size_angstrom=PIXEL)
    )


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


CASES = (
    Case(
        "The image stack is not there",
        REFINE,
        (r"no particle has an image: .*particles\.mrcs",),
        prepare=gone("particles.mrcs"),
    ),
    Case(
        "One of several stacks is not there",
        REFINE,
        (r"second\.mrcs.*10 particles dropped \(rows 31, 32",),
        code=0,
        prepare=table(lambda text: re.sub(r"(0000(3[1-9]|40))@particles", r"\1@second", text)),
        used=COUNT - 10,
        remark="The run goes on with the particles whose images exist.",
    ),
    Case(
        "A row points past the end of its stack",
        REFINE,
        (r"image 99 of .*particles\.mrcs, which holds 40: 1 particles? dropped \(row 40\)",),
        code=0,
        prepare=table(lambda text: text.replace("000040@", "000099@")),
        used=COUNT - 1,
    ),
    Case(
        "The stack is shorter than its header says",
        REFINE,
        (r"particles\.mrcs.*bytes",),
        prepare=cut("particles.mrcs", 80_000),
    ),
    Case(
        "Images hold values that are not numbers",
        REFINE,
        (r"left out.*000003@.*000031@",),
        code=0,
        prepare=damage_images,
        used=COUNT - 2,
        remark="They are named and left out; nothing is computed from them.",
    ),
    Case(
        "The box is odd",
        REFINE,
        (r"the reference \(32 x 32 x 32 voxels of 4 Å\) was resampled",),
        code=0,
        prepare=odd_box,
        used=COUNT,
        remark="Odd boxes are processed as they are: the centre is pixel n // 2 (counted from 0).",
    ),
    Case(
        "The reference has another box and pixel size",
        REFINE,
        (r"the reference \(26 x 26 x 26 voxels of 5 Å\) was resampled.*32 voxels of 4 Å",),
        code=0,
        prepare=another_reference,
        used=COUNT,
    ),
    Case(
        "The table lacks the pixel size",
        REFINE,
        (r"particles\.star.*rlnImagePixelSize.*--pixel-size",),
        prepare=table(lambda text: text.replace("_rlnImagePixelSize", "_rlnUnknown")),
    ),
    Case(
        "The table lacks the pixel size, and the user gives it",
        REFINE + " --pixel-size 4",
        (),
        code=0,
        prepare=table(lambda text: text.replace("_rlnImagePixelSize", "_rlnUnknown")),
        used=COUNT,
    ),
    Case(
        "A map's header lacks the pixel size",
        "mask --input reference.mrc --output result",
        (r"reference\.mrc.*pixel size.*--pixel-size",),
        prepare=header_without_pixel_size,
    ),
    Case(
        "The table lacks the defocus",
        REFINE,
        (r"particles\.star.*rlnDefocusU",),
        prepare=table(lambda text: text.replace("_rlnDefocusU", "_rlnUnknown")),
    ),
    Case(
        "The table has no rows", REFINE, (r"particles\.star holds no particles",), prepare=table(without_rows)
    ),
    Case(
        "There are too few particles",
        REFINE,
        (r"\d+ particles are too few",),
        prepare=table(lambda text: text[: text.index("000004@")]),
    ),
    Case(
        "Rows are there twice",
        REFINE,
        (r"particles\.star: 3 of 43 rows repeat.*row 41.*the first row of each image is used",),
        code=0,
        prepare=table(repeat_rows),
        used=COUNT,
    ),
    Case(
        "The particles have no poses yet",
        RECONSTRUCT.replace("truth", "particles"),
        (r"particles\.star has no poses",),
    ),
    Case("The symmetry is unknown", REFINE + " --symmetry X3", (r"X3.*C1|symmetry.*X3",)),
    Case(
        "The particle does not fit into the box",
        REFINE.replace("--diameter 90", "--diameter 900"),
        (r"a diameter of 900 Å does not fit",),
    ),
    Case("An option is out of range", REFINE + " --resolution-limit -3", (r"--resolution-limit.*-3",)),
    Case("An option is misspelt", REFINE.replace("--diameter", "--diametre"), (r"--diametre.*--diameter",)),
    Case(
        "A file name is misspelt",
        "fsc --input referense.mrc reference.mrc --output result",
        (r"no such file: referense\.mrc.*reference\.mrc",),
    ),
    Case(
        "The file is of another kind",
        "mask --input particles.star --output result",
        (r"particles\.star is a table of particles, a three-dimensional map is expected",),
    ),
    Case(
        "A map is shorter than its header says",
        "mask --input reference.mrc --output result",
        (r"reference\.mrc.*bytes",),
        prepare=cut("reference.mrc", 70_000),
    ),
    Case(
        "No molecule stands out in the map",
        "mask --input reference.mrc --output result",
        (r"constant|stands out|solvent",),
        prepare=constant_map,
    ),
    Case(
        "Half maps differ in size",
        "postprocess --input half1.mrc half2.mrc --output result",
        (r"half1\.mrc has 32 x 32 x 32 voxels, half2\.mrc 28 x 28 x 28; resample",),
        prepare=other_half_map,
    ),
    Case(
        "The output folder holds results already",
        "mask --input reference.mrc --output result",
        (r"output folder result is not empty, it holds a finished mask job; --resume.*--overwrite",),
        code=1,
        before="mask --input reference.mrc --output result",
    ),
    Case(
        "The output folder cannot be written",
        "mask --input reference.mrc --output particles.star/result",
        (r"output folder particles\.star/result cannot be written: Not a directory",),
        code=1,
    ),
    Case(
        "--overwrite would replace an input",
        "mask --input result/mask.mrc --output result --overwrite",
        (r"result/mask\.mrc is an input and would be replaced",),
        before="mask --input reference.mrc --output result",
    ),
)

FULL_DISK, KILLED = "The disk is full", "The program is killed in the middle of a round"
DISK_AND_KILL = f"""## {FULL_DISK}

The first file that cannot be written ends the run with exit code 1 and a message that names the file and says
what to do. Unfinished files are removed, finished ones stay. With room again, `--resume` goes on.

## {KILLED}

After every round of a refinement a checkpoint is written, under a temporary name until it is whole. A run
that was killed (by the system, a power failure or `kill -9`) has lost the round it was in; the same command
with `--resume` goes on after the last finished round and ends with the same map, bit by bit.
"""
REAL_CASES = (
    Case(
        "The mask belongs to another map",
        "postprocess --input maps/emd_3488.mrc second_half.mrc --mask maps/emd_3488_mask.mrc -o result",
        (r"mask maps/emd_3488_mask\.mrc has 100 x 91 x 91 voxels, map .* has 100 x 100 x 100",),
    ),
    Case(
        "The mask belongs to another map, for a correlation",
        "fsc --input maps/emd_3488.mrc second_half.mrc --mask maps/emd_3488_mask.mrc --output result",
        (r"mask maps/emd_3488_mask\.mrc has",),
    ),
    Case(
        "The mask belongs to another map, for a refinement",
        REFINE + " --mask maps/emd_3488_mask.mrc",
        (r"mask maps/emd_3488_mask\.mrc has",),
    ),
)


def simulate(folder: Path) -> None:
    """A small set of particles of a molecule of a few blobs."""
    write_volume(folder / "molecule.mrc", blobs(BOX, PIXEL, width=2.25, spread=6, count=9))
    made = folder / "made"
    silently(f"simulate particles --model {folder}/molecule.mrc --count {COUNT} --output {made}", SIMULATE)
    for name in ("particles.mrcs", "particles.star", "truth.star", "reference.mrc"):
        shutil.move(made / name, folder / name)
    shutil.rmtree(made)
    (folder / "molecule.mrc").unlink()


def answer(folder: Path, case: Case, real: Path | None) -> tuple[int, str]:
    """Exit code and words of a case in ``folder``, which gets the real maps if it needs them."""
    if real is not None and "maps/" in case.command:
        (folder / "maps").symlink_to(real / "maps")
        shutil.copy(real / "maps" / "emd_3488.mrc", folder / "second_half.mrc")
    return bad_input.answer(folder, case, QUICK)


def check_result(folder: Path, case: Case, code: int) -> None:
    """A good run has its map and particles; a failed one none."""
    if case.before:
        return
    check_whole(folder, case, code, ("*.mrc", "*.star"))
    if code == 0:
        assert len(read_particles(folder / "result/particles.star")) == case.used
        assert np.isfinite(read_volume(folder / "result/map.mrc").data).all()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    simulate(folder)
    return folder


@pytest.fixture
def folder(simulated: Path, tmp_path: Path) -> Path:
    shutil.copytree(simulated, tmp_path / "work")
    return tmp_path / "work"


def check_case(folder: Path, case: Case, real: Path | None) -> None:
    code, heard = answer(folder, case, real)
    check_result(folder, case, code)
    check_said(case, code, heard, PAGE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_said(folder: Path, case: Case) -> None:
    check_case(folder, case, None)


@pytest.mark.parametrize("case", REAL_CASES, ids=lambda case: case.name)
def test_a_mask_that_does_not_fit(folder: Path, case: Case, test_data: Path) -> None:
    check_case(folder, case, test_data)


def test_the_page_shows_these_cases_and_no_others() -> None:
    titles = re.findall(r"^## (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert titles == [case.title for case in (*CASES, *REAL_CASES)] + [FULL_DISK, KILLED]


INTRODUCTION = """# What you see when something is wrong

Each command was run on a small simulated data set with the fault named in the heading; what it answered is
shown word for word (other notices are left out). The tests run them again and compare this page with the
answers; `scripts/docs` writes it anew.

In every case the inputs stay as they are, a file in the output folder is either whole or not there, and
`job.json` and `log.txt` keep what was said. Exit codes: 0 done, 1 a run that failed, 2 an input or option
that cannot be used, 130 stopped by the user.

Movies and micrographs: [from movies to particles](bad-input-movies.md).
"""


def write_page(path: Path) -> None:
    """Run every case and write the page."""
    real = Path(os.environ[VARIABLE]).resolve()
    sections = []
    with tempfile.TemporaryDirectory() as made:
        simulate(Path(made))
        for case in (*CASES, *REAL_CASES):
            with tempfile.TemporaryDirectory() as folder:
                work = Path(folder).resolve() / "work"
                shutil.copytree(made, work)
                code, heard = answer(work, case, real)
                sections.append(shown(case, code, heard))

    path.write_text("\n".join([INTRODUCTION, *sections, DISK_AND_KILL]), "utf-8")


if __name__ == "__main__":
    write_page(PAGE)
