"""What each part of the transformer's training is worth: runs that lack one part against the full one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megachar.analysis.finish import Saving, finish
from megachar.analysis.result import Analysis, Cell, Column, Table
from megachar.analysis.sweeps import RunRecord, Sources, Variant, caveats, group_by_seed, read_given_runs
from megachar.base import mpl
from megachar.base.errors import DataError
from megachar.base.pictures import MARK, SERIES, style
from megachar.cli.shared.groups import spread
from megachar.config.differences import differences, settings_of, short_names
from megachar.config.experiment import Experiment
from megachar.config.sections.section import Role

Differences = dict[str, tuple[Any, Any]]
PAPER = "T64 on text8 dev"
PAPER_BITS: tuple[tuple[dict[str, Any], float], ...] = (
    ({}, 1.062),
    ({"auxiliary.multiple_positions": False}, 2.482),
    ({"auxiliary.intermediate_layers": False}, 1.158),
    ({"auxiliary.num_targets": 1}, 1.068),
    ({"model.positions": "sinusoidal"}, 1.069),
)
"""Settings that differ from the full model's, and what the paper's T64 reaches with them."""
LINEAR_WITHIN = 0.01
"""Bits within which the picture's scale of differences is linear."""


@dataclass(frozen=True)
class Ablation:
    """A variant beside the full model."""

    variant: Variant
    full: Variant
    """The full model at the same point of the grid."""
    point: str
    """The settings of the grid there; empty where there is no grid."""
    changed: Differences
    """Settings, by `section.key`: the full model's value and its own."""
    difference: float
    """Final bits per character above the full model's."""
    paper_bits: float | None
    """What the paper's T64 reaches without the same part (Al-Rfou et al. 2019), on other data; None: not told."""

    @property
    def is_full(self) -> bool:
        """Whether it is the full model itself."""
        return self.variant is self.full

    @property
    def paper_difference(self) -> float | None:
        """The paper's figure above the one of the full model; None where it does not tell both."""
        full = paper_bits({}) if has_every_part(self.full.experiment) else None
        return None if self.paper_bits is None or full is None else self.paper_bits - full

    @property
    def what_differs(self) -> str:
        """Its own values of those settings that it has and the full model has otherwise."""
        return " ".join(f"{key}={now}" for key, (_, now) in self.changed.items() if now is not None)


def compare_with_full(runs: Sequence[RunRecord]) -> list[Ablation]:
    """The full model first, then the others, the best first; so at every point of a grid, one after another.

    A point without a full model is left out.

    Raises:
        DataError: there is nothing to compare, or which of the models is the full one is not clear.
    """
    variants = group_by_seed(runs)
    if len(variants) < 2:
        raise DataError(f"{len(variants)} model cannot be compared; name the full run and one or more that lack a part")
    keys = _point_keys(variants)
    points = _by_point(variants, keys)
    by_name = _named_full([there for _, there in points])
    compared = []
    for point, there in points:
        full = _find_full(there, by_name)
        if full is None:
            continue
        others = sorted((variant for variant in there if variant is not full), key=lambda variant: variant.final_bits)
        for variant in (full, *others):
            changed = differences(full.experiment, variant.experiment, Role.NAMES, Role.COMPUTES)
            changed.pop("seed", None)
            above = variant.final_bits - full.final_bits
            paper = paper_bits(changed) if has_every_part(full.experiment) else None
            compared.append(Ablation(variant, full, point, changed, above, paper))
    if not compared:
        raise _unclear(variants)
    if all(ablation.is_full for ablation in compared):
        raise DataError(f"at no point of the grid ({', '.join(keys)}) is there a model that lacks a part; name a sweep "
                        f"with variants")  # fmt: skip
    return compared


def has_every_part(experiment: Experiment) -> bool:
    """Whether it trains with everything that the paper's ablation takes away."""
    auxiliary, optimizer = experiment.auxiliary, experiment.optimizer
    return (
        auxiliary.multiple_positions
        and auxiliary.intermediate_layers
        and auxiliary.num_targets > 1
        and getattr(experiment.model, "positions", None) == "learned"
        and not (optimizer.name == "sgd" and getattr(optimizer, "momentum", 0) == 0)
    )


def paper_bits(changed: Differences) -> float | None:
    """The paper's figure for a model that differs from the full one in these settings alone; None: it has none."""
    now = {key: values[1] for key, values in changed.items()}
    if now.get("optimizer.momentum") == 0 and all(key.startswith("optimizer.") for key in now):
        return 1.065
    return next((bits for lacking, bits in PAPER_BITS if now == lacking), None)


def analyze_ablation(runs: Sequence[RunRecord]) -> Analysis:
    """The analysis of the runs of an ablation.

    Raises:
        DataError: as `compare_with_full`.
    """
    compared = compare_with_full(runs)
    several_seeds = any(len(ablation.variant.runs) > 1 for ablation in compared)
    several_points = any(ablation.point != compared[0].point for ablation in compared)
    spread = (Column("+- (bits)", ".4f"),) if several_seeds else ()
    place = (Column("point of the grid"),) if several_points else ()
    columns = (
        Column("run"), *place, Column("final (bits)", ".4f"), *spread,
        Column("difference (bits)", "+.4f"), Column("best (bits)", ".4f"), Column("parameters", ","),
        Column("training (s)", ",.0f"), Column("paper (bits)", ".3f"), Column("paper: difference (bits)", "+.3f"),
    )  # fmt: skip

    def row(ablation: Ablation) -> tuple[Cell, ...]:
        variant = ablation.variant
        point, deviation = (ablation.point,) * several_points, (variant.deviation,) * several_seeds
        return (variant.label, *point, variant.final_bits, *deviation, ablation.difference, variant.best_bits,
                variant.runs[0].parameters, variant.training_seconds, ablation.paper_bits,
                ablation.paper_difference)  # fmt: skip

    reading = (
        f"A dot to the right of 0 is what leaving that part out costs"
        f"{' against the full model at the same point of the grid' if several_points else ''}; the diamonds are the "
        f"paper's ({PAPER}), a far deeper model on other text, so only their order and rough size compare. That scale "
        f"is linear within {LINEAR_WITHIN} bits and logarithmic beyond."
        + (" Lines: one standard deviation over the seeds." if several_seeds else "")
        + _without_full(runs, compared)
        + caveats(runs)
    )
    table = Table(columns, tuple(map(row, compared)))
    details = Table((*columns, Column("what differs")),
                    tuple((*row(ablation), ablation.what_differs) for ablation in compared))  # fmt: skip
    name = "the full model" if several_points else compared[0].variant.label
    return Analysis("ablation", f"What each part is worth: {name} and models that lack one",
                    tuple(run.subject for run in runs), table, _draw(compared, several_seeds), reading,
                    details=details)  # fmt: skip


def _without_full(runs: Sequence[RunRecord], compared: Sequence[Ablation]) -> str:
    """A sentence on the runs at points of the grid where there is no full model; empty where there is one at all."""
    found = {run.subject.path for ablation in compared for run in ablation.variant.runs}
    names = [run.subject.label for run in runs if run.subject.path not in found]
    return f" Left out, for there is no full model at the same point of the grid: {', '.join(names)}." if names else ""


def _point_keys(variants: Sequence[Variant]) -> list[str]:
    """Settings by which the variants fall into points of a grid; none where there is one full model.

    Those that the sweep says; without its word, those in which models called `full` differ.
    """
    told = dict.fromkeys(key for variant in variants for run in variant.runs for key in run.points)
    if not told:
        first, *more = [variant for variant in variants if _is_called_full(variant)] or variants[:1]
        told = dict.fromkeys(key for other in more for key in differences(first.experiment, other.experiment,
                                                                          Role.NAMES, Role.COMPUTES))  # fmt: skip
    return [key for key in told if key != "seed"]  # whose runs are one variant


def _by_point(variants: Sequence[Variant], keys: Sequence[str]) -> list[tuple[str, list[Variant]]]:
    """The variants at each point of a grid, which is told in a few words; numbers in their order."""
    short, groups = short_names(keys), dict[tuple[Any, ...], list[Variant]]()
    for variant in variants:
        settings = settings_of(variant.experiment)
        groups.setdefault(tuple(map(_sortable, map(settings.get, keys))), []).append(variant)
    return [(" ".join(f"{short[key]}={value}" for key, (*_, value) in zip(keys, point, strict=True)), groups[point])
            for point in sorted(groups)]  # fmt: skip


def _sortable(value: Any) -> tuple[float, str]:
    """A setting's value, before which smaller numbers come, and its text."""
    return (value if isinstance(value, int | float) else math.inf, str(value))


def _named_full(groups: Sequence[Sequence[Variant]]) -> bool:
    """Whether the full model of each group is the one that is called so: its settings do not tell it everywhere."""
    counts = [sum(has_every_part(variant.experiment) for variant in there) for there in groups]
    named = any(_is_called_full(variant) for there in groups for variant in there)
    return max(counts) > 1 or (min(counts) == 0 and named)


def _find_full(variants: Sequence[Variant], by_name: bool) -> Variant | None:
    """The model with every part; with `by_name`, of these or where none has, the one that is called `full`.

    None where there is none; DataError where there are several.
    """
    whole = [variant for variant in variants if has_every_part(variant.experiment)]
    found = [variant for variant in whole or variants if _is_called_full(variant)] if by_name else whole
    if len(found) > 1:
        raise _unclear(variants)
    return found[0] if found else None


def _is_called_full(variant: Variant) -> bool:
    return variant.experiment.name.partition("-")[0] == "full"


def _unclear(variants: Sequence[Variant]) -> DataError:
    names = ", ".join(variant.label for variant in variants)
    return DataError(f"which of {names} is the full model is not clear; name the runs of one sweep, one of which is "
                     f"called full")  # fmt: skip


@style()
def _draw(compared: Sequence[Ablation], several_seeds: bool) -> "mpl.figure.Figure":
    """Left: bits of every variant; right: how far above the full model, with the paper's. A row for each point."""
    points = list(dict.fromkeys(ablation.point for ablation in compared))
    groups = [[ablation for ablation in compared if ablation.point == point] for point in points]
    heights = [len(group) + 1 for group in groups]
    figure = mpl.figure.Figure(figsize=(11, 1.4 + 0.55 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 2, sharex="col", sharey="row", squeeze=False, height_ratios=heights)
    for (left, right), point, group in zip(panels, points, groups, strict=True):
        _draw_group(left, right, group, several_seeds)
        left.set_title(point, loc="left", fontsize="medium")
        for axes in (left, right):
            axes.grid(visible=False, axis="y")
    left, right = panels[-1]
    unit = compared[0].variant.runs[0].unit
    left.set_xlabel(f"validation at the end (bits per {unit})")
    right.set_xscale("symlog", linthresh=LINEAR_WITHIN)
    right.xaxis.set_major_locator(mpl.ticker.FixedLocator([-1, -0.1, -0.01, 0, 0.01, 0.1, 1]))
    right.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    right.xaxis.set_major_formatter("{x:g}")
    right.margins(x=0.1)
    right.set_xlabel(f"bits per {unit} above {'the full model' if len(groups) > 1 else compared[0].variant.label}")
    figure.suptitle("What each part is worth")
    handles = [handle for axes in panels[:, 1] for handle in axes.get_legend_handles_labels()[0]]
    if handles:
        figure.legend(handles=handles[:1], loc="outside upper right")
    return figure


def _draw_group(
    left: "mpl.axes.Axes", right: "mpl.axes.Axes", compared: Sequence[Ablation], several_seeds: bool
) -> None:
    """The models at one point of the grid, the full one first."""
    colors = [MARK, *[SERIES[0]] * (len(compared) - 1)]
    errors = [ablation.variant.deviation or 0.0 for ablation in compared] if several_seeds else None
    places = range(len(compared))
    finals = [ablation.variant.final_bits for ablation in compared]
    left.barh(places, finals, xerr=errors, color=colors, capsize=3)
    above = [ablation.difference for ablation in compared]
    right.hlines(places, 0, above, color=colors, linewidth=1.2)
    right.errorbar(above, places, xerr=errors, fmt="none", ecolor="black", elinewidth=1, capsize=3)
    right.scatter(above, places, color=colors, s=45, zorder=3)
    for place, bits in zip(places, finals, strict=True):
        left.annotate(f" {bits:.3f}", (0, place), ha="left", va="center", color="white", fontweight="bold")
    told = [
        (ablation.paper_difference, place)
        for place, ablation in zip(places, compared, strict=True)
        if ablation.paper_difference is not None and not ablation.is_full
    ]
    if told:
        right.plot(*zip(*told, strict=True), "D", color=SERIES[1], markersize=6, label=f"the paper's {PAPER}")
    left.set_yticks(places, [ablation.variant.label for ablation in compared])
    left.invert_yaxis()
    right.axvline(0, color="black", linewidth=0.8)


@spread
def ablation(sources: Sources, *, saving: Saving) -> None:
    """What each part of the model and its training is worth: runs that lack one (Al-Rfou et al. 2019)."""
    analysis = analyze_ablation(read_given_runs(sources))
    finish(analysis, saving.folder(sources[0]), saving.picture_format)
