"""`megachar plan`: which layout fits the devices, and how fast it will be."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from megachar.cli.plan_report import print_calibration, print_plan
from megachar.cli.shared.given_model import loading
from megachar.config.experiment import Experiment
from megachar.launching.hostfile import read_hostfile
from megachar.planning.cluster import Cluster
from megachar.planning.devices import load_device, own_devices_file, save_device
from megachar.planning.layouts import LAYOUT_SETTINGS
from megachar.planning.planner import draw_plan, make_plan
from megachar.planning.schedule import picture_format
from megachar.planning.writing import write_layout
from megachar.runs.preflight import read_run

HERE = "here"
"""What the machine at hand is called unless it is named."""


def plan(
    experiment: Annotated[str, typer.Argument(help="a preset or a YAML file")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value; a setting of the layout is kept as it is given")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(min=1, max=16_384, help="How many there are; default: as many as the experiment asks for."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Their kind, by its name in the file of devices; default: h100.")
    ] = None,
    hostfile: Annotated[
        Path | None, typer.Option(help="Hosts, one `HOST slots=GPUS` a line; default: --devices as one host.")
    ] = None,
    devices_file: Annotated[
        Path | None, typer.Option(help="YAML of devices, laid over those that ship; default: what --calibrate wrote.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="List every layout, and why it was refused.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw a step of the best layout's pipeline: a .png, .svg or .pdf; default: none."),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write the best layout: a .yaml for `megachar launch`; default: none.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine on the experiment's model, and keep the figures.")
    ] = False,
) -> None:
    """Every layout on some devices: memory and time by part, the fastest first, and why the others do not fit."""
    loaded, console = read_run(experiment, overrides or []), Console(highlight=False)
    if calibrate:
        _calibrate(loaded, device or HERE, devices_file, console)
        return
    if picture is not None:
        picture_format(picture)
    facts = load_device(device or "h100", devices_file)
    if hostfile is not None:
        cluster = Cluster.of_hosts(facts, [host.slots for host in read_hostfile(hostfile)])
    else:
        cluster = Cluster.of(facts, devices or loaded.parallel.world_size)
    given = [override.partition("=")[0].strip() for override in overrides or []]
    found = make_plan(loaded, cluster, [name for name in given if name in LAYOUT_SETTINGS])
    print_plan(found, everything, console)
    if write is not None:
        write_layout(found.best.layout, experiment, overrides or [], write)
        typer.echo(f"wrote {write}; start it with: megachar launch {write}")
    if picture is not None:
        typer.echo(f"wrote {draw_plan(found, picture)}")


def _calibrate(experiment: Experiment, name: str, devices_file: Path | None, console: Console) -> None:
    path = devices_file or own_devices_file()
    with loading():
        from megachar.planning.calibration import measure_device
    measured = measure_device(experiment)
    save_device(name, measured, path)
    print_calibration(name, measured, console)
    typer.echo(f"wrote {path}; plan for it with: --device {name}")
