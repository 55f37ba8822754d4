"""A sweep: one experiment, and how its runs differ. Imports no torch."""

import difflib
import functools
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from megachar.base.errors import ConfigError
from megachar.config.differences import differences, flatten, short_names
from megachar.config.experiment import Experiment
from megachar.config.loading import find_yaml, read_yaml
from megachar.config.sections.section import Role, Section
from megachar.config.text import is_text_setting
from megachar.data.corpus import Corpus
from megachar.runs.preflight import load_run
from megachar.runs.sweep_folder import RunName

SWEEPS = Path(__file__).parent / "presets"


class Sweep(Section):
    """A sweep file. Its runs are the variants, or every point of the grid, or every variant at every point.

    Settings are `section.key: value`, or sections. They are laid over each other in this order: the base, `shared`,
    those of the command line, the variant's, and the point's.
    """

    name: RunName
    """Name of the folder, in `output`, that holds the run folders."""
    base: str = ""
    """A preset or experiment file that all runs start from. Off (""): it must be given with --base."""
    shared: dict[str, Any] = Field(default_factory=dict)
    """Settings of all runs."""
    variants: dict[RunName, dict[str, Any] | None] = Field(default_factory=dict)
    """Name of a run -> its own settings."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Setting -> its values."""

    @property
    def points(self) -> list[str]:
        """Settings of the grid, where every variant is trained at each point of it."""
        return list(self.grid) if self.variants else []


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    name: str
    """Its run folder is OUTPUT / name of the sweep / this name."""
    experiment: Experiment
    source: str
    """The preset or file it starts from."""
    overrides: tuple[str, ...]
    """All settings laid over `source`, `section.key=value`."""
    own: tuple[str, ...]
    """Those that only this run is given."""


def sweep_names() -> list[str]:
    """Names of the sweeps that ship with megachar, sorted."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def load_sweep(source: str) -> Sweep:
    """Read a sweep.

    Args:
        source: the name of a sweep that ships with megachar, or the path of a YAML file.

    Raises:
        ConfigError: there is no such sweep, its file is not readable, or something in it is wrong.
    """
    path = find_yaml(source, SWEEPS, "sweep", "sweep")
    try:
        sweep = Sweep.model_validate(read_yaml(path, _is_text))
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(dict(problem))}" for problem in error.errors())
        raise ConfigError(f"{source} does not make a valid sweep:\n{problems}") from error
    if not sweep.variants and not sweep.grid:
        raise ConfigError(f"{source} has no runs; give it `variants:` or `grid:`")
    for key in _misplaced_keys(sweep):
        raise ConfigError(f"{source} sets {key}, which the sweep gives each of its runs; set the sweep's own `name:`, "
                          f"and output=FOLDER on the command line or in `shared:`")  # fmt: skip
    return sweep


def plan_runs(sweep: Sweep, base: str | None, overrides: Sequence[str]) -> tuple[SweepRun, ...]:
    """Every run of a sweep, loaded and checked, in order.

    Args:
        sweep: what to run.
        base: the preset or file to start from in place of the sweep's.
        overrides: `section.key=value` of all runs; `name=` names the sweep.

    Raises:
        ConfigError: a run's settings are wrong, one of `overrides` reaches no run, or two runs are the same.
        DataError: a run's corpus is missing or damaged.
    """
    source = base or sweep.base
    if not source:
        raise ConfigError(f"the sweep {sweep.name} names no base; give it a preset or an experiment file with --base")
    runs, open_corpus = [], functools.cache(Corpus.open)
    for name, own in _points(sweep):
        try:
            groups = (overrides_of(flatten(sweep.shared)), list(overrides), overrides_of(own))
            experiment = load_run(source, *groups, open_corpus=open_corpus)
            runs.append(_run(sweep, name, experiment, source, groups))
        except ConfigError as error:
            raise ConfigError(f"run {name} of the sweep {sweep.name}: {error}") from error
    _check_reach(sweep, overrides)
    _check_distinct(runs)
    return tuple(runs)


def _run(
    sweep: Sweep, name: str, experiment: Experiment, source: str, groups: tuple[list[str], list[str], list[str]]
) -> SweepRun:
    """A run of the sweep from its own loaded experiment."""
    named = any(override.partition("=")[0] == "name" for override in groups[1])
    output = str(Path(experiment.output) / (experiment.name if named else sweep.name))
    placed = experiment.model_copy(update={"name": name, "output": output})
    given = tuple(override for group in groups for override in group)
    return SweepRun(name, placed, source, (*given, f"output={output}", f"name={name}"), tuple(groups[2]))


def _points(sweep: Sweep) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and own settings of every run."""
    short = short_names(sweep.grid)
    seen: dict[str, dict[str, Any]] = {}
    for variant, settings in (sweep.variants or {"": {}}).items():
        own = flatten(settings or {})
        twice = sorted(own.keys() & sweep.grid.keys())
        if twice:
            raise ConfigError(f"the grid and the variant {variant} of the sweep {sweep.name} both set {twice[0]}; "
                              f"leave one out")  # fmt: skip
        for values in itertools.product(*sweep.grid.values()):
            point = dict(zip(sweep.grid, values, strict=True))
            parts = [f"{short[key]}-{_as_name(value)}" for key, value in point.items()]
            name = "-".join([variant, *parts] if variant else parts)
            if name in seen:
                raise ConfigError(f"two runs of the sweep {sweep.name} would be called {name}: {seen[name]} and "
                                  f"{point}; make them variants with names of their own")  # fmt: skip
            seen[name] = point
            yield name, own | flatten(point)


def _check_reach(sweep: Sweep, overrides: Sequence[str]) -> None:
    """Refuse a setting of the command line that every run sets for itself."""
    keys_by_run = [own.keys() for _, own in _points(sweep)]
    for override in overrides:
        key = override.partition("=")[0]
        if all(any(key == own or key.startswith(f"{own}.") for own in keys) for keys in keys_by_run):
            raise ConfigError(f"{override} reaches no run: every run of the sweep {sweep.name} sets {key} for itself; "
                              f"leave it out, or change a copy of the sweep's file")  # fmt: skip


def _check_distinct(runs: Sequence[SweepRun]) -> None:
    for one, other in itertools.combinations(runs, 2):
        if not differences(one.experiment, other.experiment, Role.NAMES):
            raise ConfigError(
                f"the runs {one.name} and {other.name} have the same settings; leave out the override that makes them "
                f"so, or one of them"
            )


def _misplaced_keys(sweep: Sweep) -> list[str]:
    """Settings of the run folder's place where they cannot be."""
    own = [key for settings in sweep.variants.values() for key in settings or {}]
    return [key for key in (*own, *sweep.grid) if key in {"name", "output"}] + ["name"] * ("name" in sweep.shared)


def overrides_of(settings: dict[str, Any]) -> list[str]:
    """Settings by their keys as `section.key=value`."""
    return [_override(key, value) for key, value in settings.items()]


def _override(key: str, value: Any) -> str:
    """`key=value` that is read back as this value."""
    if not is_text_setting(tuple(key.split("."))):
        return f"{key}={json.dumps(value)}"
    if not isinstance(value, str):
        raise ConfigError(f"{key} = {json.dumps(value)} is no text; write one, or leave the setting out")
    return f"{key}={value}"


def _is_text(path: tuple[str, ...]) -> bool:
    """Whether the value at a path of keys of a sweep's file is text."""
    section, *setting = path or ("",)
    if section in ("shared", "grid"):
        return is_text_setting(tuple(".".join(setting).split(".")))
    if section == "variants":
        return is_text_setting(tuple(".".join(setting[1:]).split(".")))
    return section in ("name", "base")


def _as_name(value: Any) -> str:
    """A setting's value as part of the name of a folder."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "none"


def _explain(problem: dict[str, Any]) -> str:
    """One pydantic problem as one line: the key, the value and the mend."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, Sweep.model_fields, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(Sweep.model_fields)}"
        return f"{key}: unknown key; {hint}"
    return f"{key} = {problem['input']!r}: {problem['msg']}"
