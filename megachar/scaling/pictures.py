"""Pictures of a study: loss against compute, the best N and D, residuals, IsoFLOP parabolas; intervals are bands."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from megachar.base import mpl
from megachar.base.errors import ConfigError
from megachar.base.files import shown
from megachar.base.pictures import DEPTHS, INK, MARK, SERIES, PictureFormat, legend, save, series, style
from megachar.scaling.points import OPERATIONS, Floats, Points
from megachar.scaling.study import Study

PLACES: Final = 60
"""Points of a curve."""
MOST_CURVES: Final = 8
"""Sizes whose own curves are drawn."""
BEYOND: Final = 3.0
"""Curves reach so much farther than the largest compute."""


def draw_study(study: Study) -> "Mapping[str, mpl.figure.Figure]":
    """Name -> picture; IsoFLOP parabolas where there are runs of equal compute."""
    drawn = {"loss": _draw_loss(study), "optimum": _draw_optimum(study), "residuals": _draw_residuals(study)}
    return {**drawn, "isoflop": _draw_isoflops(study)} if study.isoflops else drawn


def save_pictures(study: Study, folder: Path, picture_format: PictureFormat = "png") -> list[Path]:
    """Write all pictures into a folder, which is made; returns their paths. ConfigError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [save(figure, folder / f"{name}.{picture_format}", picture_format)
                for name, figure in draw_study(study).items()]  # fmt: skip
    except OSError as error:
        raise ConfigError(f"{shown(folder)} cannot be written: {error.strerror}; name a folder that can") from error


@style()
def _draw_loss(study: Study) -> "mpl.figure.Figure":
    """Runs by their size, the law's curve of some sizes, and the lowest loss of each budget with its interval."""
    figure, axes = _figure()
    fitted, held_out = study.law.points, study.table.held_out
    colors = _size_colors(figure, axes, study.table)
    computes = _computes(study)
    sizes = np.unique(fitted.column("N"))
    for n in sizes[np.linspace(0, len(sizes) - 1, min(len(sizes), MOST_CURVES)).round().astype(int)]:
        own = fitted.column("compute")[fitted.column("N") == n]
        reach = np.geomspace(own.min(), own.max() * BEYOND, PLACES)
        losses = study.law.fit.log_loss(np.log(np.stack([np.full(PLACES, n), reach / OPERATIONS / n], axis=1)))
        axes.plot(reach, np.exp(losses), color=colors(n), linewidth=0.9)
    ends = np.array([_ends(study.law.budget(compute, study.options.level).loss) for compute in computes])
    _band(axes, computes, ends, INK, f"best N and D, {study.options.level:.0%} interval of a run")
    axes.scatter(fitted.column("compute"), fitted.column("loss"), c=[colors(n) for n in fitted.column("N")], s=22)
    if held_out.runs:
        axes.scatter(held_out.column("compute"), held_out.column("loss"), facecolors="none", marker="s", s=45,
                     edgecolors=[colors(n) for n in held_out.column("N")], label="held out")  # fmt: skip
    axes.set_yscale("log")
    _loss_ticks(axes.yaxis)
    _compute_ticks(axes.xaxis)
    axes.set_xlabel("training operations C")
    axes.set_ylabel("loss")
    axes.set_title("Loss against compute")
    legend(axes)
    return figure


@style()
def _draw_optimum(study: Study) -> "mpl.figure.Figure":
    """The best N and D of each budget with their intervals, where runs lie, and minima of IsoFLOP parabolas."""
    figure, axes = _figure()
    computes = _computes(study)
    budgets = [study.law.budget(compute, study.options.level) for compute in computes]
    level = f"{study.options.level:.0%} interval"
    _band(axes, computes, np.array([_ends(budget.n) for budget in budgets]), SERIES[0], f"best N, {level}")
    _band(axes, computes, np.array([_ends(budget.d) for budget in budgets]), SERIES[1], f"best D, {level}")
    points = study.law.points
    axes.scatter(points.column("compute"), points.column("N"), color=MARK, s=12, label="N of the runs")
    minima = [(isoflop.compute, isoflop.minimum) for isoflop in study.isoflops if np.isfinite(isoflop.minimum)]
    if minima:
        axes.plot(*zip(*minima, strict=True), "D", color=INK, markersize=5, label="minima of IsoFLOP parabolas")
    axes.set_yscale("log")
    _compute_ticks(axes.xaxis)
    _amount_ticks(axes.yaxis)
    axes.set_xlabel("training operations C")
    axes.set_ylabel("parameters N, characters D")
    axes.set_title("The best N and D for a budget")
    legend(axes)
    return figure


@style()
def _draw_residuals(study: Study) -> "mpl.figure.Figure":
    """What the law leaves, over N and over D, against the noise between seeds."""
    figure = mpl.figure.Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    points, residuals = study.law.points, 100 * study.law.fit.residuals
    for axes, column, what in zip(panels, ("N", "D"), ("parameters N", "characters D"), strict=True):
        if study.noise is not None:
            seeds = 200 * study.noise.deviation
            axes.axhspan(-seeds, seeds, color=MARK, alpha=0.2, linewidth=0,
                         label="two standard deviations between seeds")  # fmt: skip
        axes.axhline(0, color=INK, linewidth=1)
        axes.plot(points.column(column), residuals, "o", color=SERIES[0], markersize=4.5, label="fitted runs")
        held_out = [one for one in study.predictions if np.isfinite(one.error)]
        if held_out:
            axes.plot([getattr(one.run, column) for one in held_out], [100 * one.error for one in held_out], "s",
                      color=SERIES[1], markerfacecolor="none", label="held out")  # fmt: skip
        axes.set_xscale("log")
        _amount_ticks(axes.xaxis)
        axes.set_xlabel(what)
    panels[0].set_ylabel("loss above the law (%)")
    legend(panels[1])
    figure.suptitle("Residuals")
    return figure


@style()
def _draw_isoflops(study: Study) -> "mpl.figure.Figure":
    """Loss over N for each budget, with its parabola; a minimum at the edge is none, and is not marked."""
    figure, axes = _figure()
    for number, isoflop in enumerate(study.isoflops):
        look = {**series(number).line(), "linestyle": ""}
        n = isoflop.points.column("N")
        axes.plot(n, isoflop.points.column("loss"), **look, label=f"C = {isoflop.compute:.2g}")
        reach = np.geomspace(n.min(), n.max(), PLACES)
        axes.plot(reach, np.polyval(isoflop.parabola, np.log(reach)), color=look["color"], linewidth=1)
        if np.isfinite(isoflop.minimum):
            lowest = np.polyval(isoflop.parabola, np.log(isoflop.minimum))
            axes.plot([isoflop.minimum], [lowest], "x", color=INK, markersize=8)
    _amount_ticks(axes.xaxis)
    axes.set_xlabel("parameters N")
    axes.set_ylabel("loss")
    axes.set_title("Runs of equal compute (the minima are biased)")
    legend(axes)
    return figure


def _figure() -> "tuple[mpl.figure.Figure, mpl.axes.Axes]":
    figure = mpl.figure.Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    return figure, axes


def _computes(study: Study) -> Floats:
    """From the smallest compute of the table to somewhat beyond the largest."""
    computes = study.table.column("compute")
    return np.geomspace(computes.min(), BEYOND * computes.max(), PLACES)


def _ends(interval: Any) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _band(axes: "mpl.axes.Axes", places: Floats, ends: Floats, color: str, label: str) -> None:
    """A line, and around it the interval (places, 3: value, low, high) where there is one."""
    axes.plot(places, ends[:, 0], color=color, linewidth=1.3, label=label)
    axes.fill_between(places, ends[:, 1], ends[:, 2], color=color, alpha=0.15, linewidth=0)


def _size_colors(figure: "mpl.figure.Figure", axes: "mpl.axes.Axes", points: Points) -> Callable[[float], Any]:
    """N -> its color, and a bar that says which."""
    n = points.column("N")
    scale = mpl.cm.ScalarMappable(
        mpl.colors.LogNorm(n.min(), n.max()), mpl.colors.LinearSegmentedColormap.from_list("sizes", DEPTHS)
    )
    bar = figure.colorbar(scale, ax=axes, label="parameters N")
    _amount_ticks(bar.ax.yaxis)
    return lambda n: scale.to_rgba(np.array(n))


def _compute_ticks(axis: Any) -> None:
    """Powers of ten as 1e12: the style takes no mathematics, which matplotlib writes them in."""
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+", "e")))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def _amount_ticks(axis: Any) -> None:
    """Powers of ten as 100k and 1M."""
    axis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def _loss_ticks(axis: Any) -> None:
    """Plain numbers, also between powers of ten, as losses seldom span one."""
    axis.set_major_locator(mpl.ticker.LogLocator(10, subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_major_formatter(mpl.ticker.ScalarFormatter())
    axis.set_minor_locator(mpl.ticker.LogLocator(10, subs=()))
