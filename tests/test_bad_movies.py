"""What a user sees when movies or micrographs are not as they should be, through the command line.

As ``test_bad_input.py``, for the way from movies to particles: ``docs/bad-input-movies.md`` shows the same
commands and answers. This module writes it (``scripts/docs``), and each case compares it.
"""

import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from bad_input import DOCS, Case, answer, check_said, check_whole, cut, shown
from bad_movies import (
    CTF,
    EXTRACT,
    KNOWN,
    MOTION,
    MOVIES,
    MRC_MOTION,
    PICK,
    QUICK,
    RADII,
    SCOPE,
    SECOND,
    SECOND_SUM,
    SPA,
    a_hundred,
    dark_frames,
    filtered_noise,
    half_of_a_plain_movie,
    ice_movies,
    image,
    movie,
    mrc_movies,
    only,
    saturated,
    simulate,
)
from parhelion.io.coordinates import read_coordinates
from parhelion.io.mrc import open_stack
from parhelion.io.particles import read_particles
from parhelion.io.relion_micrographs import read_micrographs

PAGE = DOCS / "bad-input-movies.md"
TOLERATED = 3
"""Particles by which picking may differ from another machine's."""
LEFT_OUT = r"movie_0002\.\w+ is left out"
SUMMARY = (r"^Failed micrographs +1$", r"^Failed +.*movie_0002\.\w+$")
ICE, CARBON = filtered_noise(0, 0), filtered_noise(8, 60)
CASES = (
    Case(
        "A movie was copied in part",
        MOTION,
        (LEFT_OUT + ".*truncated.*copy or make it again", *SUMMARY),
        code=0,
        prepare=cut(SECOND, 900_000),
        used=MOVIES - 1,
        remark="The others are finished; the notice, the closing summary and the report name the one.",
    ),
    Case(
        "A movie without compression was copied in part",
        MOTION,
        (LEFT_OUT + ".*page 1.*followed by another.*truncated", *SUMMARY),
        code=0,
        prepare=half_of_a_plain_movie,
        used=MOVIES - 1,
        remark="It is not taken for a movie of one frame.",
    ),
    Case(
        "A movie in MRC format is shorter than its header says",
        MRC_MOTION,
        (LEFT_OUT + ".*512 x 512 x 8 values.*truncated", *SUMMARY),
        code=0,
        prepare=mrc_movies,
        used=MOVIES - 1,
    ),
    Case(
        "The gain reference has another size",
        MOTION,
        (r"^parhelion: .*all 3 files failed.*gain\.mrc has 512 x 500 pixels, the frames 512 x 512.*give",),
        prepare=image(lambda gain: gain[:500], "gain.mrc"),
        ends="the run ends",
    ),
    Case(
        "The gain reference lies in another way than the frames",
        MOTION,
        (r"movie_0001\.tif: the gain reference does not lie as.*270° more.*--gain-rotation and --gain-flip",),
        code=0,
        prepare=image(lambda gain: np.rot90(gain, -1), "gain.mrc"),
        used=MOVIES,
    ),
    Case(
        "All frames of a movie are zero",
        MOTION,
        (LEFT_OUT + ": none of the 8 frames", *SUMMARY),
        code=0,
        prepare=movie(lambda frames: 0 * frames),
        used=MOVIES - 1,
    ),
    Case(
        "Some frames are zero",
        MOTION,
        (r"movie_0002\.tif: 2 of 8 frames are empty and left out: 3, 6",),
        code=0,
        prepare=movie(dark_frames((2, 5))),
        used=MOVIES,
    ),
    Case(
        "A movie has one frame",
        f"motion --input {SECOND} {KNOWN} --pixel-size 2 --output result",
        (r"movie_0002\.tif: the movie has one frame: there is nothing to align",),
        code=0,
        prepare=movie(lambda frames: frames[:1]),
        used=1,
    ),
    Case(
        "The detector is saturated",
        MOTION,
        (r"movie_0002\.tif: the detector is saturated: up to \d+ % of the pixels of 8 frames",),
        code=0,
        prepare=movie(lambda frames: frames.clip(0, 22)),
        used=MOVIES,
    ),
    Case(
        "The pixel size of movies is wrong",
        f"{MOTION} --pixel-size 3",
        (
            r"movies\.star says 2 Å per pixel; 3 Å is used",
            r"movie_0001\.tif says 2 Å per pixel in its header; 3 Å",
        ),
        code=0,
        used=MOVIES,
        remark="What is given is used; tables and headers that say something else are quoted.",
    ),
    Case(
        "The pixel size of micrographs is wrong",
        f"ctf --input micrographs/*.mrc {SCOPE} --pixel-size 4 --output result",
        (
            r"movie_0001\.mrc says 2 Å per pixel in its header; 4 Å is used: if that is wrong, defocus",
            r"[23] of 3 fits have low confidence",
        ),
        code=0,
        used=MOVIES,
    ),
    Case(
        "The pixel size is wrong, for picking",
        f"{PICK} --pixel-size 1",
        (
            r"micrographs\.star says 2 Å per pixel; 1 Å is used",
            r"movie_0001\.mrc says 2 Å per pixel",
            r"hardly any particles .* a wrong radius, pixel size",
        ),
        code=0,
        used=0,
    ),
    Case(
        "A micrograph was copied in part",
        CTF,
        (LEFT_OUT + ".*512 x 512 x 1 values.*truncated", *SUMMARY),
        code=0,
        prepare=cut(SECOND_SUM, 300_000),
        used=MOVIES - 1,
    ),
    Case(
        "A micrograph was copied in part, for picking",
        PICK,
        (LEFT_OUT + ".*512 x 512 x 1 values.*truncated", *SUMMARY),
        code=0,
        prepare=cut(SECOND_SUM, 300_000),
        used=27,
    ),
    Case(
        "A micrograph was copied in part, for extraction",
        EXTRACT,
        (LEFT_OUT + ".*512 x 512 x 1 values.*truncated", *SUMMARY),
        code=0,
        prepare=cut(SECOND_SUM, 300_000),
        used=26,
    ),
    Case(
        "A micrograph is empty",
        CTF,
        (LEFT_OUT + ".*is empty: every pixel is 0", *SUMMARY),
        code=0,
        prepare=image(np.zeros_like, SECOND_SUM),
        used=MOVIES - 1,
    ),
    Case(
        "A micrograph is empty, for picking",
        PICK,
        (LEFT_OUT + ".*is constant: nothing can be found", *SUMMARY),
        code=0,
        prepare=image(np.zeros_like, SECOND_SUM),
        used=27,
    ),
    Case(
        "A micrograph is empty, for extraction",
        EXTRACT,
        (r"1[0-4] boxes are constant.*left out: micrographs/movie_0002\.mrc", r"^Not usable +1[0-4]$"),
        code=0,
        prepare=image(np.zeros_like, SECOND_SUM),
        used=26,
    ),
    *(
        Case(
            f"A micrograph is saturated{where}",
            line,
            (r"movie_0002\.mrc: 10% of its pixels hold the highest value.*saturated\?",),
            code=0,
            prepare=saturated(SECOND_SUM, 0.1),
            used=used,
        )
        for where, line, used in (
            ("", CTF, MOVIES),
            (", for picking", PICK, 41),
            (", for extraction", EXTRACT, 38),
        )
    ),
    Case(
        "Half of a micrograph is saturated",
        CTF,
        (LEFT_OUT + r".*50% of its pixels hold the highest value, .*saturated\?", *SUMMARY),
        code=0,
        prepare=saturated(SECOND_SUM, 0.5),
        used=MOVIES - 1,
    ),
    Case(
        "Micrographs show only ice",
        CTF,
        (r"3 of 3 fits have low confidence \(weak or no rings: empty ice", r"^Low confidence +3$"),
        code=0,
        prepare=only(ICE),
        used=MOVIES,
    ),
    Case(
        "Micrographs show only ice, for picking",
        PICK,
        (r"hardly any particles were found in 3 of 3 micrographs.*only ice", r"^Particles +0$"),
        code=0,
        prepare=only(ICE),
        used=0,
    ),
    Case(
        "Micrographs show only carbon",
        PICK,
        (r"hardly any particles were found in 3 of 3 micrographs.*only ice", r"^Particles +0$"),
        code=0,
        prepare=only(CARBON),
        used=0,
        remark="Its rings are strong and the CTF is fitted well; picking tells it from particles.",
    ),
    Case(
        "One file of a hundred cannot be read",
        f"pick --input many/*.mrc {RADII} --output result",
        (
            r"m042\.mrc is left out: .*no readable MRC file",
            r"1 of 100 files failed: many/m042\.mrc",
            r"^Micrographs +99$",
            r"^Failed micrographs +1$",
            r"^Failed +many/m042\.mrc$",
        ),
        code=0,
        prepare=a_hundred,
        used=94,
        remark="The other ninety-nine are finished.",
    ),
    Case(
        "The gain reference has another size, on the whole way",
        SPA,
        (r"^parhelion: .*all 3 files failed.*gain\.mrc has 512 x 500 pixels",),
        prepare=image(lambda gain: gain[:500], "gain.mrc"),
        ends="the run ends",
    ),
)
LONG_CASES = (
    Case(
        "One file of a hundred cannot be read, for CTFs",
        f"ctf --input many/*.mrc {SCOPE} --output result",
        (
            r"m042\.mrc is left out: .*no readable MRC file",
            r"1 of 100 files failed: many/m042\.mrc",
            r"^Micrographs +99$",
            r"^Failed micrographs +1$",
            r"^Failed +many/m042\.mrc$",
        ),
        code=0,
        prepare=a_hundred,
        used=99,
    ),
    Case(
        "Movies show only ice, on the whole way",
        SPA,
        (
            r"[23] of 3 fits have low confidence",
            r"hardly any particles were found in 3 of 3 micrographs",
            r"^parhelion: only \d particles were found in 3 micrographs, too few for a map: nothing but ice",
        ),
        prepare=ice_movies,
        ends="the run ends; what was found so far stays in the folders of the steps",
    ),
    Case(
        "A movie was copied in part, on the whole way",
        SPA,
        (LEFT_OUT + ".*truncated.*copy or make it again", r"^Failed +movies/movie_0002\.tif \(Motion\)$"),
        code=0,
        prepare=cut(SECOND, 900_000),
        used=21,
    ),
)


def rows_of(result: Path, job: str) -> int:
    """Particles, positions or micrographs in the main table of a job, whose files are there."""
    if job in ("spa", "extract"):
        particles = read_particles(result / "particles.star")
        assert all(path.is_file() for path in particles.views.image_path)
        return len(particles)
    if job == "pick":
        return len(read_coordinates([result / "coordinates.star"]))
    micrographs = read_micrographs([result / "micrographs.star"], needs=("pixel_size",))
    assert all(path.is_file() for path in micrographs.path)
    for path in micrographs.path if job == "motion" else ():
        assert np.isfinite(open_stack(path).read(np.array([0]))).all()
    return len(micrographs)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    simulate(folder)
    return folder


def check_case(simulated: Path, folder: Path, case: Case) -> None:
    shutil.copytree(simulated, folder / "work")
    work = folder / "work"
    code, heard = answer(work, case, QUICK)
    check_whole(work, case, code, ("particles.star", "micrographs.star", "map.mrc"))
    if code == 0:
        job = case.command.split()[0]
        near = 0 if job in ("motion", "ctf") else TOLERATED
        assert rows_of(work / "result", job) == pytest.approx(case.used, abs=near)
    check_said(case, code, heard, PAGE, numbers=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_said(simulated: Path, tmp_path: Path, case: Case) -> None:
    check_case(simulated, tmp_path, case)


@pytest.mark.long
@pytest.mark.parametrize("case", LONG_CASES, ids=lambda case: case.name)
def test_what_is_said_on_a_long_way(simulated: Path, tmp_path: Path, case: Case) -> None:
    check_case(simulated, tmp_path, case)


def test_the_page_shows_these_cases_and_no_others() -> None:
    titles = re.findall(r"^## (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert titles == [case.title for case in (*CASES, *LONG_CASES)]


INTRODUCTION = """# What you see when something is wrong: from movies to particles

The second part of [what you see when something is wrong](bad-input.md), for movies and micrographs. Each
command was run on three small simulated movies, or their sums, with the fault named in the heading.

One bad file does not stop the others: it is left out, and named at once, in the closing summary, in the
report and in `job.json`. Where all files fail, the run ends with the reason of the first.
"""


def write_page(path: Path) -> None:
    """Run every case and write the page."""
    sections = []
    with tempfile.TemporaryDirectory() as made:
        simulate(Path(made).resolve())
        for case in (*CASES, *LONG_CASES):
            with tempfile.TemporaryDirectory() as folder:
                work = Path(folder).resolve() / "work"
                shutil.copytree(made, work)
                sections.append(shown(case, *answer(work, case, QUICK)))
    path.write_text("\n".join([INTRODUCTION, *sections]), "utf-8")


if __name__ == "__main__":
    write_page(PAGE)
