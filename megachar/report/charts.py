"""Curves as SVG that lies inside a page: its text takes the page's font, its colours the page's light or dark ones."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from megachar.base.pictures import SERIES, SERIES_ON_BLACK, series, style

INK: Final = "#00fe01"
"""The page's own colour of text."""
_WIDTH, _HEIGHT = 5.2, 2.9  # inches: a phone's width at the size at which it is drawn
_LINE = "#00fe02"  # like INK, stands for the page's colour until the picture is drawn
_SERIES = "#00fd{:02x}"
_DIGITS = re.compile(r"(\.\d\d)\d+")  # a hundredth of a point is enough
_SETTINGS: Final[Any] = {
    "font.size": 8,
    "path.simplify_threshold": 0.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.edgecolor": _LINE,
    "grid.color": _LINE,
    "grid.alpha": 1.0,
    "grid.linewidth": 0.5,
}


@dataclass(frozen=True)
class Curve:
    """Values as training goes on; None where there is none."""

    places: Sequence[float]
    """Steps, or what else the chart is over."""
    values: Sequence[float | None]
    color: str
    dashes: tuple[float, ...] = ()
    width: float = 1.2
    alpha: float = 1.0
    marker: str = ""


@dataclass(frozen=True)
class Chart:
    """A picture of curves."""

    title: str
    """In plain words, with the unit."""
    curves: Sequence[Curve]
    caption: str = ""
    skip_start: float = 0.0
    """Share of each curve's records whose large values do not stretch the axis."""
    marks: Sequence[float] = field(default=())
    """Places with a dotted line."""
    over: str = "step"
    """What is measured along it, with the unit."""

    def svg(self, number: int) -> Markup:
        """The picture, with names inside that no other number gives."""
        with style(), mpl.rc_context(_SETTINGS):
            return _as_markup(_draw(self), f"c{number}-", self.title)


def series_style(index: int) -> dict[str, Any]:
    """Colour and dashes of run `index`, as `Curve` takes them."""
    return {"color": _SERIES.format(series(index).color), "dashes": series(index).dashes}


def palette() -> str:
    """The colours of series as CSS, for light pages and for dark ones."""
    light, dark = (
        "; ".join(f"--series-{place}: {color}" for place, color in enumerate(colors))
        for colors in (SERIES, SERIES_ON_BLACK)
    )
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def thin(
    places: Sequence[float], values: Sequence[float | None], most: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """At most `most` points of a curve that show its course: the lowest and the highest of each stretch."""
    x, y = np.asarray(places, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.size <= most:
        return x, y
    kept: list[int] = []
    for stretch in np.array_split(np.arange(x.size), most // 2):
        if np.isnan(y[stretch]).all():
            kept.append(int(stretch[0]))  # a gap stays one
        else:
            kept.extend(sorted({int(stretch[np.nanargmin(y[stretch])]), int(stretch[np.nanargmax(y[stretch])])}))
    return x[kept], y[kept]


def _draw(chart: Chart) -> str:
    """The SVG as matplotlib writes it."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(_number)
    axes.set_xlabel(chart.over)
    for place in chart.marks:
        axes.axvline(place, color=INK, alpha=0.6, linestyle=":", linewidth=1)
    for curve in chart.curves:
        dashes: dict[str, Any] = {"dashes": curve.dashes} if curve.dashes else {}
        axes.plot(curve.places, np.asarray(curve.values, dtype=float), color=curve.color, linewidth=curve.width,
                  alpha=curve.alpha, marker=curve.marker, markersize=3, **dashes)  # fmt: skip
    _limit(axes, chart)
    picture = io.StringIO()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    FigureCanvasSVG(figure).print_svg(picture, metadata={"Date": None})
    return picture.getvalue()


def _limit(axes: Any, chart: Chart) -> None:
    """Let the first losses, which are of no interest, run out of the picture."""
    later = [
        value
        for curve in chart.curves
        for value in list(curve.values)[math.ceil(len(curve.values) * chart.skip_start) :]
        if value is not None and math.isfinite(value)
    ]
    if not later or not chart.skip_start:
        return
    margin = 0.05 * (max(later) - min(later)) or 0.1
    axes.set_ylim(min(later) - margin, max(later) + margin)


def _number(value: float, _: float) -> str:
    """For an axis: 0.0003 stays as it is, 12,000 becomes 12k."""
    return EngFormatter(sep="")(value) if abs(value) >= 10_000 else f"{value:.4g}"


def _as_markup(svg: str, prefix: str, label: str) -> Markup:
    """Matplotlib's SVG as an element of HTML: no metadata or styles for the whole page, names with a prefix."""
    root = ElementTree.fromstring(svg)  # what matplotlib wrote a moment ago, not a stranger's
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(name): value for name, value in element.attrib.items()}
        if "id" in attributes:
            attributes["id"] = prefix + attributes["id"]
        if attributes.get("href", "").startswith("#"):
            attributes["href"] = f"#{prefix}{attributes['href'][1:]}"
        if "clip-path" in attributes:
            attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{prefix}")
        for name in ("d", "x", "y", "transform"):
            if name in attributes:
                attributes[name] = _DIGITS.sub(r"\1", attributes[name])
        if "style" in attributes:
            attributes["style"] = _page_style(attributes["style"])
        element.attrib.clear()
        element.attrib.update(attributes)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"role": "img", "aria-label": label})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _page_style(style: str) -> str:
    """Without matplotlib's fonts, and with the page's colours."""
    style = re.sub(r"font: [^;]*;?\s*|font-size: [^;]*;?\s*|font-family: [^;]*;?\s*", "", style)
    style = style.replace(INK, "currentColor").replace(_LINE, "var(--line)")
    return re.sub(r"#00fd([0-9a-f]{2})", lambda match: f"var(--series-{int(match[1], 16)})", style)


def _local(name: str) -> str:
    """Without its namespace, which inside HTML is known."""
    return name.rpartition("}")[2]
