"""Which architecture makes more of its parameters (Krause et al. 2016, figure 3 left)."""

from collections.abc import Iterable, Sequence

from megachar.analysis.finish import Saving, finish
from megachar.analysis.result import Analysis, Column, Table
from megachar.analysis.sweeps import RunRecord, Sources, Variant, caveats, group_by_seed, read_given_runs
from megachar.base import mpl
from megachar.base.errors import DataError
from megachar.base.pictures import legend, series, style
from megachar.cli.shared.groups import spread
from megachar.families.counting import describe_architecture, describe_size

SAME_SIZE = 1.05
"""Models of one architecture count as one size up to this ratio of their parameters."""
MOST_TICKS = 10


def analyze_sizes(runs: Sequence[RunRecord]) -> Analysis:
    """The analysis of runs of one or more architectures at several sizes.

    Raises:
        DataError: there is one size only.
    """
    lines = lines_by_architecture(group_by_seed(runs))
    if all(len(group_by_size(line)) < 2 for line in lines.values()):
        raise DataError("no architecture is there at two sizes; name the runs of a sweep over sizes")
    rows = tuple(
        (name, describe_size(variant.experiment.model), variant.runs[0].parameters, variant.label, variant.best_bits,
         variant.final_bits, variant.deviation, variant.training_seconds)
        for name, line in lines.items()
        for variant in line
    )  # fmt: skip
    columns = (Column("architecture"), Column("size"), Column("parameters", ","), Column("run"),
               Column("best validation (bits)", ".4f"), Column("final (bits)", ".4f"), Column("+- (bits)", ".4f"),
               Column("training (s)", ",.0f"))  # fmt: skip
    reading = (
        "At equal parameters (the same place from left to right) the lower line makes more of them; each point is the "
        "best validation of its run, and parameters are those in training. A line joins the best run of each size; "
        f"hollow points are the others, and sizes within {SAME_SIZE - 1:.0%} of each other count as one."
        + caveats(runs)
    )
    return Analysis("sizes", "Validation by number of parameters", tuple(run.subject for run in runs),
                    Table(columns, rows), _draw(lines), reading)  # fmt: skip


def lines_by_architecture(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    """The variants of each architecture, the smallest first."""
    lines: dict[str, list[Variant]] = {}
    for variant in variants:
        lines.setdefault(describe_architecture(variant.experiment.model), []).append(variant)
    return {name: sorted(line, key=lambda variant: variant.runs[0].parameters) for name, line in lines.items()}


def group_by_size(line: Sequence[Variant]) -> list[list[Variant]]:
    """The variants of one architecture, the smallest first, in groups of one size each; the best of each is first."""
    groups: list[list[Variant]] = []
    for variant in line:
        if groups and variant.runs[0].parameters <= SAME_SIZE * groups[-1][0].runs[0].parameters:
            groups[-1].append(variant)
        else:
            groups.append([variant])
    return [sorted(group, key=lambda variant: variant.best_bits) for group in groups]


@style()
def _draw(lines: dict[str, list[Variant]]) -> "mpl.figure.Figure":
    """A line through the best of each size of an architecture, the other models as hollow points."""
    figure = mpl.figure.Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, line) in enumerate(lines.items()):
        look, groups = series(number).line(), group_by_size(line)
        axes.plot(*_points([group[0] for group in groups]), **look, label=name)
        others = [variant for group in groups for variant in group[1:]]
        axes.plot(*_points(others), **{**look, "linestyle": "", "markerfacecolor": "none"})
        for variant in line:  # each seed
            if len(variant.runs) > 1:
                seeds = [run.best_bits for run in variant.runs]
                axes.plot([variant.runs[0].parameters] * len(seeds), seeds, "_", color=look["color"])
    axes.set_xscale("log")
    axes.set_xticks(_ticks(variant.runs[0].parameters for line in lines.values() for variant in line))
    axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(places=1, sep=""))
    axes.minorticks_off()
    axes.set_xlabel("parameters")
    axes.set_ylabel(f"best validation (bits per {next(iter(lines.values()))[0].runs[0].unit})")
    axes.set_title("Validation by number of parameters")
    legend(axes)
    return figure


def _points(variants: Sequence[Variant]) -> tuple[list[int], list[float]]:
    return [variant.runs[0].parameters for variant in variants], [variant.best_bits for variant in variants]


def _ticks(parameters: Iterable[int]) -> list[int]:
    """Of these numbers as many as have room on a logarithmic axis."""
    numbers = sorted(set(parameters))
    least = (numbers[-1] / numbers[0]) ** (1 / MOST_TICKS)  # ratio of neighbours
    ticks = numbers[:1]
    for number in numbers[1:]:
        if number >= least * ticks[-1]:
            ticks.append(number)
    return ticks


@spread
def sizes(sources: Sources, *, saving: Saving) -> None:
    """Which architecture makes more of its parameters, at several sizes (Krause et al. 2016, figure 3 left)."""
    analysis = analyze_sizes(read_given_runs(sources))
    finish(analysis, saving.folder(sources[0]), saving.picture_format)
