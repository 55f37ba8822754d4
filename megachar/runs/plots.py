"""Pictures of a run, from its metrics.jsonl: loss curves, and what every layer's own classifiers reach."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from megachar.base import mpl
from megachar.base.files import shown
from megachar.base.pictures import DEPTHS, INK, MARK, SERIES, PictureFormat, depths, save, style
from megachar.losses.auxiliary import silent_from
from megachar.runs.axes import AXES, STEPS, Axis, AxisName, without
from megachar.runs.folder import RunFolder
from megachar.runs.records import Record, read_records


def plot_run(folder: RunFolder, picture_format: PictureFormat = "png", x: AxisName = "step") -> list[Path]:
    """Draw every picture the run's records allow into its plots folder; returns their paths.

    `DataError` where they have no `x`.
    """
    records = read_records(folder, ["train", "validation"])
    axis, everything = AXES[x], records.of("train")
    train, validation = axis.having(everything), axis.having(records.of("validation"))
    if everything and not train:
        raise without(str(folder.metrics_file), axis)
    if not train:
        return []
    folder.plots.mkdir(exist_ok=True)
    figures = {"loss": _draw_loss(folder, train, validation, axis)}
    layers = train[-1].get("layers")
    if layers and (len(layers[-1]) > 1 or _lower_layers_predict(train)):
        figures["layers"] = draw_layers(folder, train, folder.path.name, axis)  # else it would repeat the loss
    over = "" if axis is STEPS else f"-over-{axis.key}"
    return [
        save(figure, folder.plots / f"{name}{over}.{picture_format}", picture_format)
        for name, figure in figures.items()
    ]


def _lower_layers_predict(records: list[Record]) -> bool:
    lower = (row for record in records for row in record.get("layers", [])[:-1])
    return any(value is not None for row in lower for value in row)


@style()
def _draw_loss(folder: RunFolder, train: list[Record], validation: list[Record], axis: Axis) -> "mpl.figure.Figure":
    """Bits per character and learning rate."""
    figure = mpl.figure.Figure(figsize=(8, 6), layout="constrained")
    axes, rate = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot(*_curve(train, "bits_per_character", axis), label="training", color=SERIES[0], linewidth=1)
    if validation:
        measured = _curve(validation, "bits_per_character", axis)
        axes.plot(*measured, "o-", label="validation", color=SERIES[1], markersize=4)
        last = validation[-1]["bits_per_character"]
        place = (measured[0][-1], last)
        axes.annotate(f"{last:.3f}", place, xytext=(6, 0), textcoords="offset points", va="center")  # beside the curves
    axes.set_ylabel(f"{_bits(train)} (last layer)")
    axes.set_title(shown(folder.path.name))
    axes.legend()
    rate.plot(*_curve(train, "learning_rate", axis), color=SERIES[2], linewidth=1)
    rate.set_ylabel("learning rate")
    rate.set_xlabel(axis.label)
    return figure


@style()
def draw_layers(folder: RunFolder, records: list[Record], label: str, axis: Axis = STEPS) -> "mpl.figure.Figure":
    """Bits per character of every layer and target as training goes on, and how far each layer is above the last one.

    A curve ends where its layer falls silent; a dotted line is where the last of them has.

    Args:
        folder: of a transformer's run.
        records: of one kind, at least one, with layers (`read_records`).
        label: of the run, for the title.
        axis: what all records have.
    """
    places = np.array(axis.places(records))
    bits = np.array([record["layers"] for record in records], dtype=float)  # (records, layers, n)
    num_layers, num_columns = bits.shape[1:]
    figure = mpl.figure.Figure(figsize=(1 + 5.5 * num_columns, 7), layout="constrained")
    panels = figure.subplots(2, num_columns, sharex=True, sharey="row", squeeze=False, height_ratios=[3, 2])
    colors = depths(num_layers - 1)
    for target in range(num_columns):
        upper, lower = panels[:, target]
        for layer in range(num_layers - 1):
            upper.plot(places, bits[:, layer, target], color=colors[layer], linewidth=0.9)
            lower.plot(places, bits[:, layer, target] - bits[:, -1, target], color=colors[layer], linewidth=0.9)
        (last,) = upper.plot(
            places, bits[:, -1, target], color=INK, linewidth=1.4, label=f"layer {num_layers}, the last"
        )
        lower.axhline(0, color=INK, linewidth=1.4)
        ahead = f"{target + 1} ahead" if target else f"the next {_unit(records)}"
        upper.set_title(f"target {target + 1}: {ahead}")
        lower.set_xlabel(axis.label)
    panels[0][0].set_ylabel(_bits(records))
    panels[1][0].set_ylabel("bits above the last layer")
    if num_layers > 1:
        colormap = mpl.colors.LinearSegmentedColormap.from_list("", DEPTHS)
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(1, max(num_layers - 1, 2)), colormap)
        layers = mpl.ticker.MaxNLocator(integer=True)
        figure.colorbar(scale, ax=panels.ravel().tolist(), label="intermediate layer", ticks=layers)
    marks = _mark_schedule(folder, panels.flat, axis, records)
    figure.legend(handles=[last, *marks], loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(f"{shown(label)}: what each layer's own classifiers reach")
    return figure


def _mark_schedule(
    folder: RunFolder, panels: Iterable[Any], axis: Axis, records: list[Record]
) -> list["mpl.lines.Line2D"]:
    """A dotted line where the last intermediate layer has fallen silent; what the legend shows of it."""
    experiment = folder.load_experiment()
    num_layers, auxiliary = experiment.model.num_layers, experiment.auxiliary
    if not auxiliary.intermediate_layers or num_layers == 1:
        return []
    end = silent_from(num_layers - 1, num_layers, experiment.training.total_steps, auxiliary.interval_steps)
    if end > records[-1]["step"]:
        return []
    label = f"step {end:,.0f}: from here on no intermediate layer predicts"
    place = axis.place_of(end, records)
    return [axes.axvline(place, color=MARK, linestyle=":", linewidth=1.2, label=label) for axes in panels][:1]


def _unit(records: list[Record]) -> str:
    """What the losses are of; records say so where it is no character."""
    return str(records[-1].get("unit", "character"))


def _bits(records: list[Record]) -> str:
    return f"bits per {_unit(records)}"


def _curve(records: list[Record], name: str, axis: Axis) -> tuple[list[float], list[float | None]]:
    return axis.places(records), [record.get(name) for record in records]
