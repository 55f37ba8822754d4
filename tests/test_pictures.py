"""Colours that every eye can tell apart, and files that do not change from one drawing to the next."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from megachar.base.pictures import (
    DASHES,
    DEPTHS,
    MARKERS,
    SERIES,
    SERIES_ON_BLACK,
    PictureFormat,
    depths,
    legend,
    save,
    series,
    style,
)
from tests.colors import VISIONS, ciede2000, contrast, distance, lab, linear, nearest

PACKAGE = Path(__file__).parents[1] / "megachar"
CSS = (PACKAGE / "report" / "style.css").read_text(encoding="utf-8")
LIGHT, DARK = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in CSS.split("prefers-color-scheme: dark"))
"""The page's own colours, by name."""
APART, APART_WITH_MARKS = 20.0, 12.0
"""CIEDE2000 between series under any vision: where colour alone tells them apart, and where marks do as well."""
LEAST_CONTRAST = 3.0  # of graphics (WCAG 2.2, 1.4.11)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((50, -1, 2), (50, 0, 0), 2.3669),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_distances_are_those_of_the_formula(one: object, other: object, expected: float) -> None:
    """Pairs of the paper's table 1."""
    assert float(ciede2000(np.array(one, float), np.array(other, float))) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("colors", "page"), [(SERIES, LIGHT), (SERIES_ON_BLACK, DARK)], ids=["light", "dark"])
def test_series_are_told_apart_by_every_eye(colors: tuple[str, ...], page: dict[str, str]) -> None:
    solid = colors[: sum(not series(index).dashes for index in range(len(colors)))]
    assert len(solid) == 4
    assert nearest(solid)[0] >= APART, nearest(solid)
    assert nearest(colors)[0] >= APART_WITH_MARKS, nearest(colors)
    for color in colors:
        assert min(contrast(color, page[name]) for name in ("page", "card")) >= LEAST_CONTRAST, color


def test_from_the_fifth_series_on_color_is_not_all_that_differs() -> None:
    first = [series(index) for index in range(len(SERIES))]
    assert len({one.marker for one in first}) == len({one.color for one in first}) == len(first) == len(MARKERS)
    assert [one.dashes for one in first[4:]] == list(DASHES[1:])
    many = [series(index) for index in range(len(SERIES) * len(DASHES))]
    assert len({(one.color, one.dashes) for one in many}) == len(many)
    assert all(series(index) != series(index + len(SERIES)) for index in range(len(many)))


def test_layers_keep_their_order_for_every_eye() -> None:
    colors = depths(9)
    assert colors[0] == DEPTHS[0]
    assert colors[-1] == DEPTHS[-1]
    for page in (LIGHT, DARK):
        assert all(contrast(color, page["card"]) >= LEAST_CONTRAST for color in colors)
    for vision in VISIONS:
        from_below = [distance(colors[0], color, vision) for color in colors]
        assert all(lower < higher for lower, higher in pairwise(from_below)), vision
        assert from_below[-1] >= 2 * APART
    assert depths(1) == [DEPTHS[0]]
    assert depths(0) == []


@pytest.mark.parametrize("page", [LIGHT, DARK], ids=["light", "dark"])
def test_surprise_is_a_scale_for_every_eye(page: dict[str, str]) -> None:
    scale = [page["card"], *(page[f"bits-{level}"] for level in range(1, 9))]
    assert all(contrast(page["ink"], color) >= 4.5 for color in scale)  # of text
    for vision, matrix in VISIONS.items():
        lightness = [float(lab(linear(color) @ matrix.T)[0]) for color in scale]
        assert lightness in (sorted(lightness), sorted(lightness, reverse=True)), vision
        assert min(distance(one, other, vision) for one, other in pairwise(scale)) >= 2.5, vision


def test_no_other_place_chooses_colors() -> None:
    """A colour that is written where a picture is drawn has been compared with none."""
    stand_ins = re.compile(r"#00f[de]")  # of the page's colours, in charts.py
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"\btab:\w+|#[0-9a-fA-F]{6}\b|[\"']C\d[\"']|viridis", text)
        assert path.name == "pictures.py" or not [color for color in found if not stand_ins.match(color)], path


@style()
def draw(names: int = 2) -> Figure:
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    for index in range(names):
        axes.plot([1, 2, 3], [index, 2, 1], **series(index).line(), label=f"$1 and $2: run {index}")
    legend(axes)
    return figure


@pytest.mark.parametrize("picture_format", ["png", "pdf", "svg"])
def test_the_same_figure_gives_the_same_file(tmp_path: Path, picture_format: PictureFormat) -> None:
    one, other = (save(draw(), tmp_path / name, picture_format).read_bytes() for name in ("one", "other"))
    assert one == other
    assert not re.search(rb"CreationDate|dc:date|ModDate", one)
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert one.startswith(starts[picture_format])


def test_text_stays_text(tmp_path: Path) -> None:
    """Also a name that has what a picture would take for a formula."""
    svg = save(draw(), tmp_path / "a.svg", "svg").read_text(encoding="utf-8")
    assert ">$1 and $2: run 1</text>" in svg
    pdf = save(draw(), tmp_path / "a.pdf", "pdf").read_bytes()
    assert b"/ToUnicode" in pdf
    assert b"/Type3" not in pdf


def test_many_names_stand_beside_the_picture() -> None:
    for names, inside in ((4, True), (5, False)):
        figure = draw(names)
        figure.canvas.draw()
        (axes,) = figure.axes
        found = axes.get_legend()
        assert found is not None
        assert (found.get_window_extent().x0 < axes.get_window_extent().x1) == inside
