"""What `megachar plan` shows."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from megachar.base.tables import print_table
from megachar.planning import memory, times
from megachar.planning.devices import Device
from megachar.planning.planner import Estimate, Plan, describe

BEST = 6
"""Layouts that are shown, each of another grid."""


def print_plan(plan: Plan, everything: bool, console: Console) -> None:
    """The best layouts, the parts of the best one, and why others were refused; `everything`: all of either kind."""
    cluster, best = plan.cluster, plan.best
    shown = list(plan.estimates) if everything else plan.best_of_each_grid()[:BEST]
    title = (
        f"{plan.experiment.name} on {cluster.devices:,} x {cluster.device.description}: "
        f"{len(plan.estimates):,} layout{'s fit' if len(plan.estimates) > 1 else ' fits'}, "
        f"{len(plan.refusals):,} refused"
    )
    print_table(_layouts(shown, title), console)
    print_table(_memory(plan), console)
    print_table(_times(best), console)
    if everything:
        for refusal in plan.refusals:
            console.print(f"refused: {describe(refusal.layout)}: {refusal.reason}", soft_wrap=True, markup=False)
    elif plan.refusals:
        table = Table("refused", "why, in one of them", title="what was refused")
        for reason, count in plan.reasons():
            table.add_row(f"{count:,}", Text(reason))
        print_table(table, console)


def print_calibration(name: str, device: Device, console: Console) -> None:
    """What was measured of the machine at hand."""
    table = Table("figure", Column("measured", justify="right"), title=Text(f"{name}: {device.description}"))
    for figure, value in _figures(device):
        table.add_row(figure, value)
    print_table(table, console)


def _layouts(estimates: list[Estimate], title: str) -> Table:
    right = (Column(name, justify="right") for name in ("GB", "char/s", "days", "device hours"))
    table = Table("pipe x tensor x data", "DeepSpeed", "micro batch", "recom- puted", *right, title=title)
    for one in estimates:
        interval = one.layout.parallel.activation_checkpoint_interval
        table.add_row(
            "x".join(map(str, one.layout.grid)), Text(str(one.layout.deepspeed)), str(one.layout.micro_size),
            str(interval) if interval else "", f"{one.memory.total / 1e9:.1f}", f"{one.characters_per_second:,.0f}",
            f"{one.days:,.2f}", f"{one.device_hours:,.0f}",
        )  # fmt: skip
    return table


def _memory(plan: Plan) -> Table:
    best = plan.best.memory
    table = Table("part", Column("GB", justify="right"), title=f"memory of the fullest device, stage {best.stage}")
    for part, name in memory.PARTS.items():
        if getattr(best, part):
            table.add_row(name, f"{getattr(best, part) / 1e9:.3f}")
    table.add_row("all", f"{best.total / 1e9:.3f}")
    table.add_row("there is", f"{plan.cluster.device.memory_bytes / 1e9:.3f}")
    return table


def _times(best: Estimate) -> Table:
    start, half = best.times.start, best.times.half
    right = (Column(name, justify="right") for name in ("at the start", "at half"))
    share = f", {best.share_of_peak:.1%} of the peak" if best.share_of_peak is not None else ""
    title = f"time of a step; averaged over training: {_seconds(best.times.average)}{share}"
    table = Table("part", *right, title=title)
    for part, name in times.PARTS.items():
        if getattr(start, part) or getattr(half, part):
            table.add_row(name, _seconds(getattr(start, part)), _seconds(getattr(half, part)))
    table.add_row("all", _seconds(start.total), _seconds(half.total))
    return table


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"


def _figures(device: Device) -> Iterator[tuple[str, str]]:
    for precision, flops in device.product_flops.items():
        yield f"products in {precision}", f"{flops / 1e9:,.1f} GFLOP/s"
    yield "memory-bound work", f"{device.moved_bytes_per_second / 1e9:,.2f} GB/s"
    yield "start of an operation", f"{1e6 * device.kernel_seconds:,.1f} us"
    yield "engine, for a step", f"{1e3 * device.step_seconds:,.2f} ms"
    yield "engine, for a micro-batch", f"{1e3 * device.micro_batch_seconds:,.2f} ms"
    yield "engine, for an exchange of stages", f"{1e3 * device.exchange_seconds:,.2f} ms"
    yield "link", f"{device.link.bytes_per_second / 1e9:,.2f} GB/s, {1e6 * device.link.seconds:,.0f} us"
    yield "memory", f"{device.memory_bytes / 1e9:,.1f} GB"
