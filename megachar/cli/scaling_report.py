"""What `megachar scaling` shows of a study."""

import math
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from megachar.base.files import shown
from megachar.base.tables import print_table
from megachar.scaling.alarms import Alarm
from megachar.scaling.joint import QUANTITIES, Budget, JointLaw, quantities
from megachar.scaling.least_squares import Interval
from megachar.scaling.points import OPERATIONS
from megachar.scaling.study import Study


def print_study(study: Study, console: Console) -> None:
    """Print what a table says: first a caution where it says little, last the alarms."""
    if study.caution:
        console.print(Text(study.caution, style="bold"), soft_wrap=True)
    _print_law(study, console)
    _print_others(study, console)
    for budget in study.budgets:
        print_budget(budget, study.options.level, console)
    if study.predictions:
        _print_held_out(study, console)
    _print_alarms(study, console)
    for remark in study.remarks:
        typer.echo(f"megachar: {remark}", err=True)


def print_budget(budget: Budget, level: float, console: Console) -> None:
    """The best way to spend so many operations, in one line."""
    console.print(Text(f"C = {budget.compute:.3g}: best N {_interval(budget.n)}, best D {_interval(budget.d)}, loss "
                       f"{_interval(budget.loss, 5)} ({level:.0%} intervals)"), soft_wrap=True)  # fmt: skip


def print_prediction(law: JointLaw, n: float, d: float, level: float, console: Console) -> None:
    """The loss of a new run, in one line."""
    loss = law.predict(n, d, level)
    farther = OPERATIONS * n * d / law.points.column("compute").max()
    console.print(Text(f"N = {n:.4g}, D = {d:.4g}: loss {_interval(loss, 5)} ({level:.0%} interval of a run; "
                       f"{farther:.2g} times the largest fitted compute)"), soft_wrap=True)  # fmt: skip


def _print_law(study: Study, console: Console) -> None:
    level = f"{study.options.level:.0%} interval"
    fit, published = study.law.fit, quantities(study.published.theta)
    title = (f"L = E + A N^-alpha + B D^-beta from {len(study.law.points)} runs; log L scatters by "
             f"{fit.deviation:.2%}, {fit.degrees} degrees of freedom")  # fmt: skip
    columns: list[Column | str] = [
        "",
        Column("value", justify="right"),
        Column(level, no_wrap=True),
        Column("as published", justify="right"),
    ]
    columns += [] if study.bootstrap is None else [Column("bootstrap", no_wrap=True)]
    table = Table(*columns, title=Text(title, style="italic"))
    for name in QUANTITIES:
        interval = study.law.interval(name, study.options.level)
        row = [name, _number(interval.value), _ends(interval), _number(published[name])]
        table.add_row(*row, *([] if study.bootstrap is None else [_ends(study.bootstrap.intervals[name])]))
    print_table(table, console)
    if study.bootstrap is not None:
        drawn = study.bootstrap
        console.print(Text(f"Bootstrap: {drawn.resamples} tables of {drawn.groups} groups of runs that share a trunk "
                           f"and a seed, {drawn.unusable} unusable."), soft_wrap=True)  # fmt: skip


def _print_others(study: Study, console: Console) -> None:
    """The other laws, a line each."""
    table = Table("law", "runs", "exponent", "", title=Text("Other laws", style="italic"))
    for name, *cells in _others(study):
        table.add_row(Text(name), *map(Text, cells))
    if table.row_count:
        print_table(table, console)


def _others(study: Study) -> Iterator[tuple[str, str, str, str]]:
    level = study.options.level
    for name, law in study.singles.items():
        yield name, str(len(law.points)), _interval(law.exponent(level)), f"E {_interval(law.offset(level))}"
    if study.shapes is not None:
        tied = f"width and depth trade off at {study.shapes.trade_off:.2f}"
        for name, interval in study.shapes.exponents(level).items():
            yield f"L(width, depth, D): {name}", str(len(study.shapes.points)), _interval(interval), tied
    for tuning in study.tunings:
        exponent = "-" if tuning.exponent is None else _interval(tuning.exponent)
        largest = study.budgets[0].compute
        best = tuning.at(largest)
        tail = "" if best is None else f"{best:.3g} at C = {largest:.3g}"
        yield f"best {tuning.setting}(C)", f"{len(tuning.optima)} optima", exponent, tail
    if study.repetition is not None:
        yield "repeated text", "", "-", f"R* {_interval(study.repetition.characters)}"


def _print_held_out(study: Study, console: Console) -> None:
    right = [Column(name, justify="right") for name in ("N", "D", "predicted", "measured", "error")]
    table = Table("held out", *right, Column(f"{study.options.level:.0%} interval", no_wrap=True), "inside")
    for number, one in enumerate(study.predictions, start=1):
        run = one.run
        cells = (f"{run.N:.4g}", f"{run.D:.4g}", f"{one.loss.value:.4f}", f"{run.loss:.4f}", f"{one.error:+.2%}",
                 _ends(one.loss, 5), "yes" if one.holds else "no")  # fmt: skip
        table.add_row(Text(shown(run.name) or str(number)), *cells)
    print_table(table, console)


def _print_alarms(study: Study, console: Console) -> None:
    fired = sum(alarm.fired for alarm in study.alarms)
    right = [Column(name, justify="right") for name in ("number", "limit")]
    table = Table("alarm", "state", *right, "what it says", title=Text(f"Alarms: {fired} fired", style="italic"))
    for alarm in sorted(study.alarms, key=lambda alarm: not alarm.fired):
        table.add_row(alarm.name, _state(alarm), _number(alarm.value, 3), _number(alarm.limit, 3), alarm.sentence)
    print_table(table, console)


def _state(alarm: Alarm) -> str:
    return "FIRED" if alarm.fired else "not tested" if math.isnan(alarm.value) else "quiet"


def _interval(interval: Interval, digits: int = 4) -> str:
    return f"{_number(interval.value, digits)} [{_ends(interval, digits)}]"


def _ends(interval: Interval, digits: int = 4) -> str:
    return f"{_number(interval.low, digits)} to {_number(interval.high, digits)}"


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}g}" if math.isfinite(value) else "-"
