"""The commands of `megachar analyze` that compare the runs of a sweep, from their records."""

from pathlib import Path
from typing import Annotated

import typer

from megachar.cli.pictures import Format
from megachar.cli.results import Output, finish

Sources = Annotated[list[Path], typer.Argument(help="The folder of a sweep, such as runs/ablation, or run folders.")]


def ablation(sources: Sources, output: Output = None, picture_format: Format = "png") -> None:
    """What each part of the model and its training is worth: runs that lack one (Al-Rfou et al. 2019)."""
    from megachar.analysis.ablation import analyze_ablation
    from megachar.analysis.result import result_folder
    from megachar.analysis.sweeps import find_runs, read_runs

    analysis = analyze_ablation(read_runs(find_runs(sources)))
    finish(analysis, result_folder(sources[0], output), picture_format)


def sizes(sources: Sources, output: Output = None, picture_format: Format = "png") -> None:
    """Which architecture makes more of its parameters, at several sizes (Krause et al. 2016, figure 3 left)."""
    from megachar.analysis.result import result_folder
    from megachar.analysis.sizes import analyze_sizes
    from megachar.analysis.sweeps import find_runs, read_runs

    analysis = analyze_sizes(read_runs(find_runs(sources)))
    finish(analysis, result_folder(sources[0], output), picture_format)
