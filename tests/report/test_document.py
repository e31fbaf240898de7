"""A report is one safe, self-contained HTML file whose sections nest."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from parhelion.model.volume import Volume
from parhelion.report import Report
from parhelion.report.units import show_number, show_quantity, split_unit

VOID = {"meta", "img", "br", "path", "use", "rect", "image", "line", "circle"}


class Balance(HTMLParser):
    """Fails on a tag that is closed without having been opened, or left open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def written(report: Report, tmp_path: Path) -> str:
    report.write(tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_everything_in_one_well_formed_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    volume = Volume(data=rng.normal(size=(24, 24, 24)).astype(np.float32), pixel_size_angstrom=2.0)
    report = Report("Title", "Subtitle")
    report.figures({"resolution_angstrom": 8.123, "particles": 12000})
    report.warning("careful")
    report.notices(["one"])
    section = report.section("Map")
    section.slices(volume)
    section.projections(volume)
    section.surface(volume)
    section.fsc({"corrected": np.linspace(1, 0, 13)}, 24, 2.0)
    section.angular_distribution(Rotation.random(50, random_state=1).as_matrix())
    section.curve({"a": (np.arange(3), np.arange(3))}, x_label="x", y_label="y")
    section.history([{"round": n, "gain": 1 / n, "name": "x"} for n in (1, 2, 3)])
    section.gallery(rng.normal(size=(2, 8, 8)), ["a", "b"], "Classes", shared=True)
    section.section("Parameters", folded=True).table(
        [("--box", 64), ("--name", "x")], heads=("option", "value")
    )
    text = written(report, tmp_path)
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    for expected in ("8.123 Å", "12,000", "careful", "Map", "<details>", "data:image/png;base64,", "<svg"):
        assert expected in text
    assert len(text) < 2_000_000


def test_what_users_wrote_is_escaped(tmp_path: Path) -> None:
    report = Report("<b>", "&")
    report.text("<script>alert(1)</script>")
    report.figures({"<i>": "<u>"})
    report.table([("<td>",)], heads=("<th>",))
    report.notices(["<li>"])
    text = written(report, tmp_path)
    for tag in ("<script>", "<i>", "<u>", "<b></b>"):
        assert tag not in text
    assert "&lt;script&gt;" in text


def test_sections_without_content_do_not_show(tmp_path: Path) -> None:
    report = Report("Title")
    report.section("Nothing here")
    assert "Nothing here" not in written(report, tmp_path)


def test_report_survives_being_kept_as_json(tmp_path: Path) -> None:
    report = Report("Title", "x")
    report.text("outside")
    inner = report.section("Inner", "sub", folded=False)
    inner.text("inside")
    inner.section("Folded", folded=True).text("hidden")
    again = Report("Title", "x")
    again.fill(report.to_json())
    assert written(again, tmp_path) == written(report, tmp_path)


def test_included_sections_follow_later_additions(tmp_path: Path) -> None:
    """A step's report is a section of the whole: what is added to it later appears there."""
    whole = Report("Whole")
    part = whole.section("Part")
    frame = Report("Frame")
    frame.include(whole)
    part.text("added later")
    assert "added later" in written(frame, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("resolution_angstrom", 8.12345, "8.123 Å"),
        ("bfactor_angstrom2", -120.0, "-120 Å²"),
        ("tilt_deg", 12.5, "12.5°"),
        ("particles", 2374, "2374"),
        ("particles", 1234567, "1,234,567"),
        ("peak_bytes", 2.5e9, "2.50 GB"),
        ("resolution_angstrom", None, "not determined"),
        ("snr", float("nan"), "not determined"),
        ("resolution_angstrom", float("nan"), "not determined"),
        ("peak_bytes", float("nan"), "not determined"),
        ("method", "masked", "masked"),
        ("fraction", 0.012345, "0.0123"),
    ],
)
def test_quantities_are_shown_with_their_unit(name: str, value: object, shown: str) -> None:
    assert show_quantity(name, value) == shown


def test_names_become_words() -> None:
    assert split_unit("unmasked_resolution_angstrom") == ("Unmasked resolution", "Å")
    assert split_unit("snr") == ("SNR", "")
    assert split_unit("my_map.mrc") == ("my_map.mrc", "")
    assert show_number(True) == "True"
