"""The commands of `megachar analyze` that compare the runs of a sweep, from their records."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megachar.cli.pictures import Format
from megachar.cli.results import Output, finish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from megachar.analysis.sweeps import RunRecord

Sources = Annotated[list[Path], typer.Argument(help="The folder of a sweep, such as runs/ablation, or run folders.")]


def ablation(sources: Sources, output: Output = None, picture_format: Format = "png") -> None:
    """What each part of the model and its training is worth: runs that lack one (Al-Rfou et al. 2019)."""
    from megachar.analysis.ablation import analyze_ablation
    from megachar.analysis.result import result_folder

    analysis = analyze_ablation(_read(sources))
    finish(analysis, result_folder(sources[0], output), picture_format)


def sizes(sources: Sources, output: Output = None, picture_format: Format = "png") -> None:
    """Which architecture makes more of its parameters, at several sizes (Krause et al. 2016, figure 3 left)."""
    from megachar.analysis.result import result_folder
    from megachar.analysis.sizes import analyze_sizes

    analysis = analyze_sizes(_read(sources))
    finish(analysis, result_folder(sources[0], output), picture_format)


def _read(sources: "Sequence[Path]") -> "list[RunRecord]":
    """The runs that some folders stand for; those without a validation are left out, and said to be."""
    from megachar.analysis.sweeps import read_runs
    from megachar.runs.sweep_folder import find_runs, say_not_begun

    folders = find_runs(sources)
    for sentence in say_not_begun(sources):
        typer.echo(sentence, err=True)
    runs = read_runs(folders)
    read = {run.subject.path for run in runs}
    for folder in folders:
        if str(folder.resolve()) not in read:
            typer.echo(f"left out: {folder} has no validation yet", err=True)
    return runs
