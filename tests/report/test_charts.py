"""Charts inside a page: the same numbers give the same picture, and thinning keeps peaks and gaps."""

import re
from xml.etree import ElementTree

import numpy as np

from megachar.base.pictures import SERIES
from megachar.report.charts import INK, Chart, Curve, palette, series_style, thin


def draw(number: int = 1, **more: object) -> str:
    curves = [Curve(range(1, 101), [9.0 - k / 50 for k in range(100)], marker="o", **series_style(index))
              for index in range(len(SERIES) + 1)]  # fmt: skip
    return str(Chart("Loss (bits)", curves, **more).svg(number))  # type: ignore[arg-type]


def test_a_picture_inside_a_page() -> None:
    svg = draw()
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.attrib["aria-label"] == "Loss (bits)"
    assert root.attrib["viewBox"].startswith("0 0 374")
    known = {"svg", "g", "path", "text", "tspan", "use", "defs", "clipPath", "rect"}
    assert {element.tag for element in root.iter()} <= known
    assert not re.search(r"https?:|font-family|DejaVu|#00f[de]", svg)
    for index in range(len(SERIES)):
        assert f"var(--series-{index})" in svg
        assert palette().count(f"--series-{index}: #") == 2  # on light pages, and on dark ones
    assert "currentColor" in svg
    assert "var(--line)" in svg
    assert "step" in "".join(root.itertext())


def test_names_are_used_once_on_a_page() -> None:
    one, two = draw(1), draw(2)
    names = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (one, two)]
    assert names[0]
    assert not names[0] & names[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', one))
    assert used
    assert used <= names[0]


def test_the_same_numbers_give_the_same_picture() -> None:
    assert draw() == draw()


def test_the_start_runs_out_of_the_picture() -> None:
    def highest(skip_start: float) -> float:
        curve = Curve(range(100), [50.0, 40.0, 30.0] + [2.0] * 97, INK)
        root = ElementTree.fromstring(str(Chart("", [curve], skip_start=skip_start).svg(1)))
        ticks = [float(text) for element in root.iter("text") if re.fullmatch(r"[\d.]+", text := element.text or "")]
        return max(ticks[-5:])

    assert highest(0.0) > 30
    assert highest(0.05) < 5


def test_marks_and_gaps() -> None:
    assert draw(marks=[20.0]) != draw()
    chart = Chart("", [Curve([1, 2, 3], [1.0, None, None], INK), Curve([], [], INK)], skip_start=0.05)
    assert "nan" not in str(chart.svg(1)).lower()


def test_thinned_curves_keep_their_peaks(rng: np.random.Generator) -> None:
    values = rng.normal(size=10_000)
    values[[17, 7000]] = -50.0, 60.0
    steps, kept = thin(range(10_000), values.tolist(), 100)
    assert steps.size == kept.size <= 100
    assert (np.diff(steps) > 0).all()
    assert {17, 7000} <= set(steps.tolist())
    np.testing.assert_array_equal(values[steps.astype(int)], kept)


def test_thinned_curves_keep_their_gaps() -> None:
    steps, kept = thin(range(1000), [None if 300 <= k < 700 else 1.0 for k in range(1000)], 100)
    assert np.isnan(kept[(steps >= 310) & (steps < 690)]).all()
    assert not np.isnan(kept[(steps < 290) | (steps > 710)]).any()
    assert ((steps >= 300) & (steps < 700)).sum() > 5


def test_short_curves_stay_as_they_are() -> None:
    steps, kept = thin([1, 5], [2.0, None], 2)
    assert steps.tolist() == [1, 5]
    np.testing.assert_array_equal(kept, [2.0, np.nan])
