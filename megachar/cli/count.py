"""`megachar count`: parameters by part and operations per character."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from megachar.base.tables import print_table
from megachar.families.counting import count_parameters, forward_flops_per_character, step_flops
from megachar.runs.preflight import load_run


def count(
    experiment: Annotated[str, typer.Argument(help="a preset or a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value")] = None,
) -> None:
    """Print the table of parameters by part, in training and at inference, and FLOPs per character."""
    loaded = load_run(experiment, overrides or [])
    model, auxiliary = loaded.model, loaded.auxiliary
    parts = count_parameters(model, auxiliary)
    table = Table(title=Text(f"{experiment}: parameters", style="italic"), show_footer=True)
    table.add_column("part", footer="total")
    table.add_column("training", justify="right", footer=f"{sum(part.training for part in parts):,}")
    table.add_column("inference", justify="right", footer=f"{sum(part.inference for part in parts):,}")
    for part in parts:
        table.add_row(part.name, f"{part.training:,}", f"{part.inference:,}")
    console = Console()
    print_table(table, console)

    layers = model.num_layers if auxiliary.intermediate_layers else 1
    first, last = (step_flops(model, auxiliary, 1, predicting) / model.window_length for predicting in (layers, 1))
    flops = Table(
        "pass", Column("FLOPs", justify="right"), title="floating-point operations per character, full window"
    )
    if first == last:
        flops.add_row("training", f"{first:,.0f}")
    else:
        flops.add_row("training, all intermediate layers predicting", f"{first:,.0f}")
        flops.add_row("training, all intermediate layers silent", f"{last:,.0f}")
    flops.add_row("inference", f"{forward_flops_per_character(model):,.0f}")
    print_table(flops, console)
