"""What the runs of a sweep have come to: one table, for people and as CSV. Imports no torch."""

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from megachar.base.errors import MegacharError
from megachar.base.files import atomic_write, json_text, shown
from megachar.config.differences import settings_but, short_names
from megachar.config.experiment import Experiment
from megachar.config.sections.section import Role
from megachar.runs.checkpoints.format import MANIFEST, checkpoint_folders
from megachar.runs.folder import RunFolder, runs_inside
from megachar.runs.outcome import Outcome, read_outcome
from megachar.runs.ownership import is_at_work
from megachar.runs.sweep_folder import read_plan
from megachar.training.early_stopping import is_finished


class End(str, Enum):
    """How a run stands."""

    FINISHED = "finished"
    AT_WORK = "at work"
    FAILED = "failed"
    STOPPED = "stopped"
    UNREADABLE = "unreadable"
    NOT_BEGUN = "not begun"


@dataclass(frozen=True)
class Result:
    """A row of the table."""

    run: str
    own: tuple[str, ...]
    """What differs: `setting=value`, short."""
    end: End
    outcome: Outcome | None
    """None of a run that has no readable folder."""

    @property
    def bits(self) -> float | None:
        """Of the best validation, per `unit`."""
        best = self.outcome.best if self.outcome is not None else None
        return None if best is None else float(best["bits_per_character"])

    @property
    def unit(self) -> str | None:
        """What its bits are of."""
        best = self.outcome.best if self.outcome is not None else None
        return None if best is None else shown(str(best.get("unit", "character")))


@dataclass(frozen=True)
class Results:
    """The table."""

    rows: tuple[Result, ...]
    """Finished runs first, by their best validation; then the others as the sweep lists them."""
    remarks: tuple[str, ...]
    """What could not be read, and why."""

    def write(self, path: Path) -> None:
        """Write the table as CSV, whole or not at all; OSError where that fails."""
        with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("run", "what differs", "best validation (bits)", "unit", "characters", "time (s)", "step",
                             "state"))  # fmt: skip
            for row in self.rows:
                run, figures = row.outcome, [""] * 3
                if run is not None:
                    figures = [str(run.characters), f"{run.seconds:.3f}", str(run.step)]
                writer.writerow((shown(row.run), " ".join(row.own), row.bits, row.unit, *figures, row.end.value))


def results_file(folder: Path) -> Path:
    """Where the table of the sweep in `folder` is written."""
    return folder / "results.csv"


def read_results(folder: Path, failed: Collection[str] = ()) -> Results:
    """The results of the sweep in `folder`, however far it is.

    Args:
        folder: of a sweep; where it has no plan, of runs, compared by their settings.
        failed: runs that are known to have failed, also where they left no trace in the folder.

    Raises:
        OSError: the folder cannot be looked into.
    """
    remarks: list[str] = []
    try:
        plan = read_plan(folder)
    except MegacharError as error:
        remarks.append(str(error))
        plan = None
    own = {} if plan is None else plan.runs
    names = list(dict.fromkeys([*own, *(path.name for path in runs_inside(folder))]))
    experiments = _load((folder / name for name in names), remarks)
    differing = _short(_own(experiments) | own)
    rows = []
    for name in names:
        run = RunFolder(folder / name)
        outcome, end = None, End.UNREADABLE if run.experiment_file.is_file() else End.NOT_BEGUN
        if name in experiments:
            try:
                outcome, end = read_outcome(run, experiments[name]), _end(run, experiments[name])
                remarks += [outcome.remark] if outcome.remark is not None else []
            except MegacharError as error:
                remarks.append(str(error))
        if name in failed and end not in (End.FINISHED, End.AT_WORK):
            end = End.FAILED
        rows.append(Result(name, differing.get(name, ()), end, outcome))
    return Results(tuple(sorted(rows, key=_order)), tuple(remarks))


def _order(row: Result) -> tuple[bool, bool, float]:
    """The best of the finished ones first; the others stay as they are."""
    finished = row.end is End.FINISHED
    bits = row.bits if finished else None
    return not finished, bits is None, bits or 0.0


def _load(paths: Iterable[Path], remarks: list[str]) -> dict[str, Experiment]:
    """The experiment of each run that has one that can be read, by the run's name."""
    found = {}
    for path in paths:
        try:
            if RunFolder(path).experiment_file.is_file():
                found[path.name] = RunFolder(path).load_experiment()
        except MegacharError as error:
            remarks.append(str(error))
    return found


def _end(run: RunFolder, experiment: Experiment) -> End:
    if is_finished(run, experiment):
        return End.FINISHED
    if is_at_work(run):
        return End.AT_WORK
    failures = [path for path in run.failures.glob("[!.]*.json") if "-preemption-" not in path.name]
    return End.FAILED if failures and not _has_gone_on(run, max(map(_changed, failures))) else End.STOPPED


def _has_gone_on(run: RunFolder, failed: float) -> bool:
    """Whether the run went on since a failure at that time: has newer records and a newer checkpoint.

    Either alone may come from a rank that did not know of the failure yet.
    """
    manifests = [path / MANIFEST for path in checkpoint_folders(run)[-1:]]
    return bool(manifests) and all(_changed(path) > failed for path in (run.metrics_file, *manifests))


def _changed(path: Path) -> float:
    """When a file was changed last, in seconds since 1970; 0 where there is none."""
    return path.stat().st_mtime if path.is_file() else 0.0


def _own(experiments: Mapping[str, Experiment]) -> dict[str, list[str]]:
    """What each run is trained with that is not the same in most of them."""
    settings = {name: settings_but(experiment, Role.NAMES, Role.COMPUTES) for name, experiment in experiments.items()}
    usual = dict[str, str]()
    for key in dict.fromkeys(key for values in settings.values() for key in values):
        [(value, count)] = Counter(json_text(values.get(key)) for values in settings.values()).most_common(1)
        if 2 * count > len(settings):
            usual[key] = value
    return {name: [f"{key}={_value(value)}" for key, value in values.items()
                   if json_text(value) != usual.get(key)]
            for name, values in settings.items()}  # fmt: skip


def _value(value: Any) -> str:
    """As it is written on the command line."""
    return value if isinstance(value, str) else json_text(value)


def _short(own: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The same settings by the last parts of their names, where these are clear."""
    split = {name: [setting.partition("=") for setting in settings] for name, settings in own.items()}
    keys = list(dict.fromkeys(key for settings in split.values() for key, _, _ in settings))
    short = short_names(keys, Experiment.model_fields)
    return {name: tuple(shown(f"{short[key]}={value}") for key, _, value in settings)
            for name, settings in split.items()}  # fmt: skip
