"""All that a table of runs says about scaling: laws, intervals, predictions, and alarms, in one call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from megachar.scaling.alarms import Alarm, raise_alarms
from megachar.scaling.bootstrap import Bootstrap, resample
from megachar.scaling.edges import edge_alarms
from megachar.scaling.isoflop import IsoFlop, find_isoflops
from megachar.scaling.joint import Budget, JointLaw, fit_joint
from megachar.scaling.least_squares import Interval
from megachar.scaling.noise import Noise, seed_noise
from megachar.scaling.points import Points, Run, best_settings, group_names
from megachar.scaling.published import Published, fit_published, random_starts
from megachar.scaling.repeated import Repetition, fit_repetition
from megachar.scaling.shapes import ShapeLaw, fit_shapes
from megachar.scaling.single import SingleLaw, fit_single_laws
from megachar.scaling.tuning import SETTINGS, Tuning, find_tuning

LEAST_RUNS: Final = 8
SHARED_TRUNKS: Final = (
    "runs share trunks, which Student's t takes to be independent, so that intervals, above all that of alpha, may be "
    "too short; see --bootstrap 1000 as well, and take the wider ones"
)
FARTHER: Final = (1.0, 10.0)
"""Budgets that are shown unless others are asked for, in multiples of the largest fitted compute."""


@dataclass(frozen=True)
class Options:
    """How a table is studied."""

    level: float = 0.9
    """How often intervals hold the truth."""
    noise: float | None = None
    """Standard deviation of log L between seeds, known from elsewhere; None: estimated, where seeds were repeated."""
    budgets: tuple[float, ...] = ()
    """Operations for which the best N and D are asked."""
    starts: int = 20
    """Random starts of the published fit; at least one."""
    resamples: int = 0
    """Of the bootstrap; 0: none is made."""
    seed: int = 0
    """Of the random starts and the bootstrap."""


DEFAULT_OPTIONS: Final = Options()


@dataclass(frozen=True)
class Prediction:
    """A run that was not fitted, and what the law says of it."""

    run: Run
    loss: Interval

    @property
    def error(self) -> float:
        """Relative: what was measured over what was predicted, minus 1."""
        return self.run.loss / self.loss.value - 1

    @property
    def holds(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.loss.holds(self.run.loss)


@dataclass(frozen=True)
class Study:
    """What was found."""

    table: Points
    """All runs, held-out ones and those with other rates and batches included."""
    options: Options
    law: JointLaw
    """Of the fitted runs: not held out, and each with its best rate and batch."""
    published: Published
    """The same law fitted as published."""
    noise: Noise | None
    singles: Mapping[str, SingleLaw]
    """`L(N)`, `L(D)` and `L(C)`, those that have enough runs."""
    isoflops: tuple[IsoFlop, ...]
    tunings: tuple[Tuning, ...]
    shapes: ShapeLaw | None
    repetition: Repetition | None
    bootstrap: Bootstrap | None
    budgets: tuple[Budget, ...]
    predictions: tuple[Prediction, ...]
    """Of the held-out runs."""
    alarms: tuple[Alarm, ...]
    remarks: tuple[str, ...]
    """What is left out, and why."""

    @property
    def caution(self) -> str:
        """What is to be said first of a table that is too small or leaves the law untested; else empty."""
        few = len(self.law.points) < LEAST_RUNS
        parts = [f"only {len(self.law.points)} runs are fitted, fewer than {LEAST_RUNS}"] if few else []
        parts += [] if self.predictions else ["no run is held out, so the law is not tested"]
        return f"CAUTION: {'; '.join(parts)}." if parts else ""


def share_trunks(points: Points) -> bool:
    """Whether several runs come from one trunk with one seed."""
    named = points.where(lambda run: run.trunk != "")
    return len(set(group_names(named.runs))) < len(named)


def study(table: Points, options: Options = DEFAULT_OPTIONS) -> Study:
    """Fit every law that the table allows.

    Raises:
        DataError: it has too few runs, sizes, or lengths for the joint law, or the bootstrap cannot be made.
    """
    tuned = best_settings(table)
    points = tuned.fitted
    law = fit_joint(points)
    logs, log_losses = points.logs("N", "D"), points.log_losses
    published = fit_published(logs, log_losses, random_starts(options.starts, 2, options.seed))
    from_law = fit_published(logs, log_losses, [law.fit.projected])
    noise = seed_noise(points) if options.noise is None else Noise(options.noise, None)
    singles, remarks = fit_single_laws(points)
    if share_trunks(points) and not options.resamples:
        remarks.append(SHARED_TRUNKS)
    isoflops = find_isoflops(points)
    found = (find_tuning(table.fitted, setting, options.level) for setting in SETTINGS)
    tunings = [tuning for tuning in found if tuning is not None]
    largest = float(points.column("compute").max())
    budgets = options.budgets or tuple(largest * times for times in FARTHER)
    return Study(
        table=table,
        options=options,
        law=law,
        published=min(published, from_law, key=lambda one: one.objective),
        noise=noise,
        singles=singles,
        isoflops=tuple(isoflops),
        tunings=tuple(tunings),
        shapes=fit_shapes(points),
        repetition=fit_repetition(points, law, options.level),
        bootstrap=resample(law, options.resamples, options.seed, options.level) if options.resamples else None,
        budgets=tuple(law.budget(compute, options.level) for compute in budgets),
        predictions=tuple(Prediction(run, law.predict(run.N, run.D, options.level)) for run in tuned.held_out.runs),
        alarms=(*raise_alarms(law, noise, published, from_law), *edge_alarms(isoflops, tunings)),
        remarks=tuple(remarks),
    )
