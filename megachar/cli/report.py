"""`megachar report RUN...`: one page about runs, to be opened in a browser, kept, or sent to someone."""

from pathlib import Path
from typing import Annotated

import typer

from megachar.analysis.result import label_sources
from megachar.base.errors import CheckpointError, MegacharError
from megachar.cli.plot import Over
from megachar.cli.shared.corpora import Provenance, open_corpus, say_provenance
from megachar.cli.shared.given_model import loading
from megachar.cli.shared.groups import spread
from megachar.config.experiment import Experiment
from megachar.data.corpus import Corpus
from megachar.report.output import check_output, write_page
from megachar.report.text_settings import TextSettings
from megachar.runs.axes import AXES, without
from megachar.runs.checkpoints.vocabularies import carried_card
from megachar.runs.folder import RunFolder
from megachar.runs.sweep_folder import find_runs, say_not_begun


@spread
def report(
    sources: Annotated[list[Path], typer.Argument(help="Run folders such as runs/small, or folders of sweeps.")],
    output: Annotated[
        Path | None,
        typer.Option(help="HTML file; default: report.html, of one run or sweep in its folder, of several here."),
    ] = None,
    *,
    settings: TextSettings,
    x: Over = "step",
) -> None:
    """Settings, curves, evaluations, checkpoints, samples, analyses and a text colored by surprise, on one page."""
    # All that can be wrong is found before torch is imported, which takes seconds.
    settings.check()
    runs = find_runs(sources)
    experiments = [RunFolder(run).load_experiment() for run in runs]
    labels = label_sources(runs)
    path = output or (sources[0] / "report.html" if len(sources) == 1 else Path("report.html"))
    check_output(path)
    notes = say_not_begun(sources)
    corpora = _find_corpora(list(zip(labels, runs, experiments, strict=True)), settings, notes)

    with loading("torch"):
        from megachar.report.contents import read_runs
        from megachar.report.page import render
        from megachar.report.texts import ModelTexts, read_with_model

    texts: dict[str, ModelTexts] = {}
    for run, label in zip(runs, labels, strict=True):
        if label in corpora:
            typer.echo(f"{label}: its newest checkpoint reads and writes", err=True)
            try:
                texts[label] = read_with_model(run, corpora[label], settings)
            except CheckpointError as error:
                notes.append(f"{label}, text: {error}")
    contents, axis = read_runs(runs), AXES[x]
    notes += [str(without(run.label, axis)) for run in contents if run.train and not axis.having(run.train)]
    write_page(path, render(contents, texts, settings, notes, axis))
    for note in [note for run in contents for note in run.notes] + notes:
        typer.echo(f"not shown: {note}", err=True)
    typer.echo(f"saved {path}")


def _find_corpora(
    runs: list[tuple[str, Path, Experiment]], settings: TextSettings, notes: list[str]
) -> dict[str, Corpus]:
    """The corpus of each run, by label. One that is not here is noted, unless it was asked for."""
    found: dict[str, Corpus] = {}
    for label, run, experiment in runs if settings.needs_models else ():
        parts = experiment.data.parts
        try:
            named = settings.data or (Path(parts[0].path) if parts else None)
            corpus = open_corpus(experiment, carried_card(run), named)
            corpus.split(settings.split)
        except MegacharError as error:
            if settings.data is not None:
                raise
            notes.append(f"{label}, text: {error}")
            continue
        settings.stretch(corpus)
        say_provenance(Provenance.of(corpus, experiment, run))
        found[label] = corpus
    return found
