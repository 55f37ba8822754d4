"""What each part of the transformer's training is worth: runs that lack one part against the full one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megachar.analysis.result import Analysis, Cell, Column, Table
from megachar.analysis.sweeps import NOT_COMPARED, RunRecord, Variant, group_by_seed, unfinished
from megachar.config.differences import differences
from megachar.config.schema import Experiment, TransformerConfig
from megachar.errors import DataError
from megachar.pictures import MARK, SERIES, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Differences = dict[str, tuple[Any, Any]]
PAPER = "T64 on text8 dev"
LINEAR_WITHIN = 0.01
"""Bits within which the picture's scale of differences is linear."""


@dataclass(frozen=True)
class Ablation:
    """A variant beside the full model."""

    variant: Variant
    changed: Differences
    """Settings, by `section.key`: the full model's value and its own."""
    difference: float
    """Final bits per character above the full model's."""
    paper_bits: float | None
    """What the paper's T64 reaches without the same part (Al-Rfou et al. 2019), on other data; None: not told."""

    @property
    def what_differs(self) -> str:
        """Its own values of those settings that it has and the full model has otherwise."""
        return " ".join(f"{key}={now}" for key, (_, now) in self.changed.items() if now is not None)


def compare_with_full(runs: Sequence[RunRecord]) -> list[Ablation]:
    """The full model first, then the others, the best first.

    Raises:
        DataError: there is nothing to compare, or which of the models is the full one is not clear.
    """
    variants = group_by_seed(runs)
    if len(variants) < 2:
        raise DataError(f"{len(variants)} model cannot be compared; name the full run and one or more that lack a part")
    full = _find_full(variants)
    others = sorted((variant for variant in variants if variant is not full), key=lambda variant: variant.final_bits)
    compared = []
    for variant in (full, *others):
        changed = differences(full.experiment, variant.experiment, (*NOT_COMPARED, "seed"))
        above = variant.final_bits - full.final_bits
        paper = paper_bits(changed) if has_every_part(full.experiment) else None
        compared.append(Ablation(variant, changed, above, paper))
    return compared


def has_every_part(experiment: Experiment) -> bool:
    """Whether it trains with everything that the paper's ablation takes away."""
    auxiliary, optimizer = experiment.auxiliary, experiment.optimizer
    return (
        isinstance(experiment.model, TransformerConfig)
        and auxiliary.multiple_positions
        and auxiliary.intermediate_layers
        and auxiliary.num_targets > 1
        and experiment.model.positions == "learned"
        and not (optimizer.name == "sgd" and optimizer.momentum == 0)
    )


def paper_bits(changed: Differences) -> float | None:
    """The paper's figure for a model that differs from the full one in these settings alone; None: it has none."""
    now = {key: values[1] for key, values in changed.items()}
    if not now:
        return 1.062
    if now == {"auxiliary.multiple_positions": False}:
        return 2.482
    if now == {"auxiliary.intermediate_layers": False}:
        return 1.158
    if now == {"auxiliary.num_targets": 1}:
        return 1.068
    if now == {"model.positions": "sinusoidal"}:
        return 1.069
    if now.get("optimizer.momentum") == 0 and all(key.startswith("optimizer.") for key in now):
        return 1.065
    return None


def analyze_ablation(runs: Sequence[RunRecord]) -> Analysis:
    """The analysis of the runs of an ablation.

    Raises:
        DataError: as `compare_with_full`.
    """
    compared = compare_with_full(runs)
    full = compared[0]
    several = any(len(ablation.variant.runs) > 1 for ablation in compared)
    spread = (Column("+- (bits)", ".4f"),) if several else ()
    columns = (
        Column("run"), Column("final (bits)", ".4f"), *spread,
        Column("difference (bits)", "+.4f"), Column("best (bits)", ".4f"), Column("parameters", ","),
        Column("training (s)", ",.0f"), Column("paper (bits)", ".3f"), Column("paper: difference (bits)", "+.3f"),
    )  # fmt: skip

    def row(ablation: Ablation) -> tuple[Cell, ...]:
        variant, paper = ablation.variant, ablation.paper_bits
        above = None if paper is None or full.paper_bits is None else paper - full.paper_bits
        deviation = (variant.deviation,) if several else ()
        return (variant.label, variant.final_bits, *deviation, ablation.difference,
                variant.best_bits, variant.runs[0].parameters, variant.training_seconds, paper, above)  # fmt: skip

    reading = (
        f"A dot to the right of 0 is what leaving that part out costs; the diamonds are the paper's ({PAPER}), a far "
        f"deeper model on other text, so only their order and rough size compare. That scale is linear within "
        f"{LINEAR_WITHIN} bits and logarithmic beyond."
        + (" Lines: one standard deviation over the seeds." if several else "")
        + unfinished(runs)
    )
    table = Table(columns, tuple(map(row, compared)))
    details = Table((*columns, Column("what differs")),
                    tuple((*row(ablation), ablation.what_differs) for ablation in compared))  # fmt: skip
    return Analysis("ablation", f"What each part is worth: {full.variant.label} and models that lack one",
                    tuple(run.subject for run in runs), table, _draw(compared, several), reading,
                    details=details)  # fmt: skip


def _find_full(variants: Sequence[Variant]) -> Variant:
    """The model with every part; of several, or where none has, the one that is called `full`."""
    whole = [variant for variant in variants if has_every_part(variant.experiment)]
    if len(whole) != 1:
        whole = [variant for variant in whole or variants if variant.experiment.name.partition("-")[0] == "full"]
    if len(whole) != 1:
        names = ", ".join(variant.label for variant in variants)
        raise DataError(f"which of {names} is the full model is not clear; name the runs of one sweep, one of which is "
                        f"called full")  # fmt: skip
    return whole[0]


@style()
def _draw(compared: Sequence[Ablation], several: bool) -> "Figure":
    """Left: bits of every variant; right: how far above the full model, with the paper's."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = Figure(figsize=(11, 1.9 + 0.55 * len(compared)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colors = [MARK, *[SERIES[0]] * (len(compared) - 1)]
    errors = [ablation.variant.deviation or 0.0 for ablation in compared] if several else None
    places, full = range(len(compared)), compared[0]
    finals = [ablation.variant.final_bits for ablation in compared]
    left.barh(places, finals, xerr=errors, color=colors, capsize=3)
    above = [ablation.difference for ablation in compared]
    right.hlines(places, 0, above, color=colors, linewidth=1.2)
    right.errorbar(above, places, xerr=errors, fmt="none", ecolor="black", elinewidth=1, capsize=3)
    right.scatter(above, places, color=colors, s=45, zorder=3)
    for place, bits in zip(places, finals, strict=True):
        left.annotate(f" {bits:.3f}", (0, place), ha="left", va="center", color="white", fontweight="bold")
    told = [
        (ablation.paper_bits - full.paper_bits, place)
        for place, ablation in zip(places, compared, strict=True)
        if full.paper_bits is not None and ablation.paper_bits is not None and ablation is not full
    ]
    if told:
        right.plot(*zip(*told, strict=True), "D", color=SERIES[1], markersize=6, label=f"the paper's {PAPER}")
        right.legend(loc="upper right")
    left.set_yticks(places, [ablation.variant.label for ablation in compared])
    left.invert_yaxis()
    left.set_xlabel(f"validation at the end (bits per {full.variant.runs[0].unit})")
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xscale("symlog", linthresh=LINEAR_WITHIN)
    right.xaxis.set_major_locator(FixedLocator([-1, -0.1, -0.01, 0, 0.01, 0.1, 1]))
    right.xaxis.set_minor_locator(NullLocator())
    right.xaxis.set_major_formatter("{x:g}")
    right.margins(x=0.1)
    right.set_xlabel(f"bits per {full.variant.runs[0].unit} above {full.variant.label}")
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
    figure.suptitle("What each part is worth")
    return figure
