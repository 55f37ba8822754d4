"""Which curves a report shows: of all runs in one picture each, and of the layers of each transformer."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from megachar.base.pictures import depths
from megachar.losses.auxiliary import silent_from
from megachar.report.charts import INK, Chart, Curve, series_style, thin
from megachar.report.contents import Record, RunContents
from megachar.runs.axes import STEPS, Axis

_MOST_POINTS: Final = 500  # of a curve
_MOST_LAYER_POINTS: Final = 120
_SKIP: Final = 0.05  # of a loss curve: its start would leave the rest flat


def unit_of(runs: Sequence[RunContents]) -> str:
    """What the losses are of: a character, unless records say otherwise."""
    units = {str(run.train[-1].get("unit", "character")) for run in runs if run.train}
    return " or ".join(sorted(units)) or "character"


def run_charts(runs: Sequence[RunContents], axis: Axis = STEPS) -> list[Chart]:
    """Pictures in which every run has a curve; those without any curve are left out.

    Losses are drawn over `axis`, by the records that have it; what is no loss, over steps.
    """
    training = _curves(runs, "bits_per_character", axis, width=1.0, alpha=0.55)
    validation = [
        Curve(*_thinned(axis, records, _value("bits_per_character"), _MOST_POINTS), **series_style(index),
              width=1.6, marker="o")
        for index, run in enumerate(runs)
        if (records := axis.having(run.validation))
    ]  # fmt: skip
    charts = [
        Chart(f"Loss (bits per {unit_of(runs)})", [*training, *validation],
              "Thin: training; with dots: validation. The first twentieth may run out of the picture.",
              skip_start=_SKIP, over=axis.label),
        Chart(f"Speed ({unit_of(runs)}s per second)", _curves(runs, "characters_per_second")),
        Chart("Learning rate", _curves(runs, "learning_rate")),
        Chart("Gradient norm", _curves(runs, "gradient_norm"), "Before clipping; recorded where DeepSpeed computes it.",
              skip_start=_SKIP),
    ]  # fmt: skip
    return [chart for chart in charts if chart.curves]


def layer_charts(run: RunContents, axis: Axis = STEPS) -> list[Chart]:
    """Bits of each layer and target, and how far they are above the last layer's; none for a single layer."""
    train = axis.having(run.train)
    shapes = {(len(record["layers"]), len(record["layers"][0])) for record in train if record.get("layers")}
    if len(shapes) != 1:
        return []
    num_layers, num_charts = shapes.pop()
    if num_layers == 1 or all(row[0] is None for record in train for row in record["layers"][:-1]):
        return []
    charts, unit, marks = [], unit_of([run]), _silence(run, axis)
    for target in range(num_charts):
        words = f"the next {unit}" if target == 0 else f"the {unit} {target + 1} ahead"
        for title, value in ((f"Bits for {words}", _layer_value),
                             (f"Bits above the last layer, for {words}", _layer_distance)):  # fmt: skip
            curves = [_layer_curve(run, axis, layer, value(layer, target)) for layer in range(num_layers)]
            charts.append(Chart(title, curves, skip_start=_SKIP, marks=marks, over=axis.label))
    return charts


def _curves(runs: Sequence[RunContents], name: str, axis: Axis = STEPS, **style: Any) -> list[Curve]:
    """One of each run's training records that have a value: a gradient norm may not be known at every step."""
    known = [[record for record in axis.having(run.train) if record.get(name) is not None] for run in runs]
    return [
        Curve(*_thinned(axis, records, _value(name), _MOST_POINTS), **{**series_style(index), **style})
        for index, records in enumerate(known)
        if records
    ]


def _layer_curve(run: RunContents, axis: Axis, layer: int, value: Callable[[Record], float | None]) -> Curve:
    num_layers = len(run.train[0]["layers"])
    points = _thinned(axis, axis.having(run.train), value, _MOST_LAYER_POINTS)
    if layer == num_layers - 1:
        return Curve(*points, color=INK, width=1.8)
    return Curve(*points, color=depths(num_layers - 1)[layer], width=0.8)


def _thinned(
    axis: Axis, records: Sequence[Record], value: Callable[[Record], float | None], most: int
) -> tuple[list[float], list[float | None]]:
    places, values = thin(axis.places(records), [value(record) for record in records], most)
    return places.tolist(), [None if number != number else number for number in values.tolist()]


def _value(name: str) -> Callable[[Record], float | None]:
    return lambda record: record.get(name)


def _layer_value(layer: int, target: int) -> Callable[[Record], float | None]:
    return lambda record: record["layers"][layer][target]


def _layer_distance(layer: int, target: int) -> Callable[[Record], float | None]:
    def distance(record: Record) -> float | None:
        own, last = record["layers"][layer][target], record["layers"][-1][target]
        return None if own is None or last is None else own - last

    return distance


def _silence(run: RunContents, axis: Axis) -> list[float]:
    """The place from which no intermediate layer predicts, if there is one."""
    auxiliary, total = run.experiment.auxiliary, run.experiment.training.total_steps
    num_layers = len(run.train[0]["layers"])
    end = silent_from(num_layers - 1, num_layers, total, auxiliary.interval_steps)
    if not auxiliary.intermediate_layers or end > run.train[-1]["step"]:
        return []
    return [axis.place_of(end, axis.having(run.train))]
