"""How every picture looks and is saved: colours, marks, formats."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from megachar.base import mpl

SERIES: Final = ("#0068f8", "#d87020", "#005838", "#904878", "#706000", "#1898a8", "#482898", "#780010")
"""Colours of things that are compared, on white. The first four are far apart to every eye, the others far enough for
what has another dash or marker as well; `tests/test_pictures.py` says how far.
"""
SERIES_ON_BLACK: Final = ("#6880f8", "#f09048", "#c8f8c8", "#b04088", "#f0d828", "#30a898", "#b8a8f8", "#e05058")
"""Likewise, for a page that is dark."""
DEPTHS: Final = ("#d9480f", "#a0608a", "#2a86d8")
"""From the lowest layer to the highest intermediate one: in this order for every eye, on white and on black."""
INK: Final = "black"
"""Of what the others are compared with: the last layer, the entropy, all characters."""
MARK: Final = "#6b7280"
"""Of lines that are no data: a schedule, a context, a band of reference."""
DASHES: Final = ((), (5.0, 2.0), (1.5, 1.5), (7.0, 2.0, 1.5, 2.0), (10.0, 2.0))
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_PLAIN = 4  # series that are drawn without dashes, and named inside the axes
_DOTS_PER_INCH = 150

PictureFormat = Literal["png", "pdf", "svg"]
"""What a picture is saved as: its file's ending."""
_WITHOUT_DATE: Final[dict[str, dict[str, None]]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


@dataclass(frozen=True)
class SeriesStyle:
    """What tells one of several series from the others."""

    color: int
    """Its place in SERIES."""
    dashes: tuple[float, ...]
    """Lengths of dashes and gaps in points; () for a solid line."""
    marker: str

    def line(self) -> dict[str, Any]:
        """Arguments of `Axes.plot`, for points that are joined."""
        return {"color": SERIES[self.color], "linestyle": (0, self.dashes) if self.dashes else "-",
                "marker": self.marker, "linewidth": 1.3, "markersize": 5}  # fmt: skip


def series(index: int) -> SeriesStyle:
    """Of series `index`, from 0. The first four are solid, each of the next four has dashes of its own, and all eight
    have markers of their own. More series than colours take these again with other dashes: forty in all.
    """
    color, again = index % len(SERIES), index // len(SERIES)
    dashes = max(0, color - _PLAIN + 1) + again
    return SeriesStyle(color, DASHES[dashes % len(DASHES)], MARKERS[(color + again) % len(MARKERS)])


@contextmanager
def style() -> Iterator[None]:
    """As a decorator of what draws a figure: its colours and lines; names stay as they are, with a $ or without."""
    settings: Any = {
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.useoffset": False,
        "text.parse_math": False,
        "svg.fonttype": "none",  # text stays text
        "pdf.fonttype": 42,
        "svg.hashsalt": "megachar",  # the same file from the same figure
    }
    with mpl.rc_context(settings):
        yield


def legend(axes: "mpl.axes.Axes") -> None:
    """Name the series: inside, or where they are many, beside the axes, so as to cover none."""
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) <= _PLAIN:
        axes.legend(handlelength=3.5)
    else:
        axes.legend(handlelength=3.5, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize="small")


def depths(number: int) -> list[str]:
    """Colours of so many intermediate layers, from the lowest to the highest."""
    colors = mpl.colors.LinearSegmentedColormap.from_list("depths", DEPTHS)
    return [str(mpl.colors.to_hex(colors(layer / max(number - 1, 1)))) for layer in range(number)]


def save(figure: "mpl.figure.Figure", path: Path, picture_format: PictureFormat = "png") -> Path:
    """Write the figure, and return its path: the same bytes for the same figure, whenever it is drawn."""
    with style():
        figure.savefig(path, format=picture_format, dpi=_DOTS_PER_INCH, metadata=_WITHOUT_DATE[picture_format])
    return path
