"""Pictures of a run, from its metrics.jsonl: loss curves, and what every layer's own classifiers reach."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megachar.files import shown
from megachar.losses.auxiliary import silent_from
from megachar.training.axes import AXES, STEPS, Axis, AxisName, without
from megachar.training.records import Record, read_records
from megachar.training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_run(folder: RunFolder, x: AxisName = "step") -> list[Path]:
    """Draw every picture the run's records allow, as PNG in its plots folder; returns their paths.

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
    paths = [_plot_loss(folder, train, validation, axis)]
    auxiliary = folder.load_experiment().auxiliary
    if not train[-1].get("layers"):
        return paths
    if auxiliary.num_targets > 1 or (auxiliary.intermediate_layers and len(train[-1]["layers"]) > 1):
        paths.append(_plot_layers(folder, train, axis))  # else it would repeat the loss
    return paths


def _plot_loss(folder: RunFolder, train: list[Record], validation: list[Record], axis: Axis) -> Path:
    """Bits per character and learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes, rate = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot(*_curve(train, "bits_per_character", axis), label="training", color="tab:blue", linewidth=1)
    if validation:
        measured = _curve(validation, "bits_per_character", axis)
        axes.plot(*measured, "o-", label="validation", color="tab:orange", markersize=4)
        last = validation[-1]["bits_per_character"]
        axes.annotate(f"{last:.3f}", (measured[0][-1], last), xytext=(0, 8), textcoords="offset points", ha="right")
    axes.set_ylabel(f"{_bits(train)} (last layer)")
    axes.set_title(shown(folder.path.name), parse_math=False)  # a name may hold a $
    axes.grid(alpha=0.3)
    axes.legend()
    rate.plot(*_curve(train, "learning_rate", axis), color="tab:green", linewidth=1)
    rate.set_ylabel("learning rate")
    rate.set_xlabel(axis.label)
    rate.grid(alpha=0.3)
    return _save(figure, folder.plots / f"loss{_over(axis)}.png")


def _plot_layers(folder: RunFolder, train: list[Record], axis: Axis) -> Path:
    return _save(draw_layers(folder, train, folder.path.name, axis), folder.plots / f"layers{_over(axis)}.png")


def _over(axis: Axis) -> str:
    """What the name of a picture says of its axis: nothing of the usual one."""
    return "" if axis is STEPS else f"-over-{axis.key}"


def draw_layers(folder: RunFolder, records: list[Record], label: str, axis: Axis = STEPS) -> "Figure":
    """Bits per character of every layer and target as training goes on, and how far each layer is above the last one.

    A curve ends where its layer falls silent.

    Args:
        folder: of a transformer's run.
        records: of one kind, at least one, with layers (`read_records`).
        label: of the run, for the title.
        axis: what all records have.
    """
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    places = np.array(axis.places(records))
    bits = np.array([record["layers"] for record in records], dtype=float)  # (records, layers, n)
    num_layers, num_targets = bits.shape[1:]
    figure = Figure(figsize=(1 + 5.5 * num_targets, 7), layout="constrained")
    panels = figure.subplots(2, num_targets, sharex=True, sharey="row", squeeze=False, height_ratios=[3, 2])
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.95, max(num_layers - 1, 1)))
    for target in range(num_targets):
        upper, lower = panels[:, target]
        for layer in range(num_layers - 1):
            upper.plot(places, bits[:, layer, target], color=colors[layer], linewidth=0.9)
            lower.plot(places, bits[:, layer, target] - bits[:, -1, target], color=colors[layer], linewidth=0.9)
        upper.plot(places, bits[:, -1, target], color="tab:red", linewidth=1.4)
        lower.axhline(0, color="tab:red", linewidth=1.4)
        ahead = f"{target + 1} ahead" if target else f"the next {_unit(records)}"
        upper.set_title(f"target {target + 1}: {ahead}")
        lower.set_xlabel(axis.label)
    panels[0][0].set_ylabel(_bits(records))
    panels[1][0].set_ylabel("bits above the last layer")
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    if num_layers > 1:
        scale = ScalarMappable(Normalize(1, max(num_layers - 1, 2)), "viridis")
        figure.colorbar(scale, ax=panels.ravel().tolist(), label="intermediate layer (red: the last layer)")
    _mark_schedule(folder, panels.flat, axis, records)
    figure.suptitle(f"{shown(label)}: what each layer's own classifiers reach", parse_math=False)
    return figure


def _mark_schedule(folder: RunFolder, panels: Any, axis: Axis, records: list[Record]) -> None:
    """A dotted line where the last intermediate layer falls silent."""
    experiment = folder.load_experiment()
    num_layers, auxiliary = experiment.model.num_layers, experiment.auxiliary
    if not auxiliary.intermediate_layers or num_layers == 1:
        return
    end = silent_from(num_layers - 1, num_layers, experiment.training.total_steps, auxiliary.interval_steps)
    # Elsewhere than over steps, a place is known only between records.
    if end <= (experiment.training.total_steps if axis is STEPS else records[-1]["step"]):
        for axes in panels:
            axes.axvline(axis.place_of(end, records), color="gray", linestyle=":", linewidth=1)


def _unit(records: list[Record]) -> str:
    """What the losses are of; records say so where it is no character."""
    return str(records[-1].get("unit", "character"))


def _bits(records: list[Record]) -> str:
    return f"bits per {_unit(records)}"


def _curve(records: list[Record], name: str, axis: Axis) -> tuple[list[float], list[float | None]]:
    return axis.places(records), [record.get(name) for record in records]


def _save(figure: "Figure", path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
