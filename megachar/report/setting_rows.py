"""Settings of runs side by side, as plain texts: those that differ first. Imports no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from megachar.config.differences import settings_of
from megachar.config.experiment import Experiment

Settings = dict[str, str]
"""Key such as `model.width` -> value as JSON."""
ABSENT = "-"
"""Where a run has no such setting."""


@dataclass(frozen=True)
class SettingRow:
    """One setting of all runs."""

    key: str
    values: tuple[str, ...]
    default: str | None = None
    """None where it is not compared with."""


def flatten(experiment: Experiment) -> Settings:
    """All settings of an experiment."""
    return {key: _as_text(value) for key, value in settings_of(experiment).items()}


def defaults_of(experiment: Experiment) -> Settings:
    """What each would be if nobody had set it; for the optimizer and the model family that were chosen."""
    sections = {name: type(value)() for name, value in experiment if isinstance(value, BaseModel)}
    return flatten(Experiment().model_copy(update=sections))


def flatten_json(values: Mapping[str, Any], prefix: str) -> Settings:
    """The leaves of a JSON object, keys after `prefix`."""
    found: Settings = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flatten_json(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = _as_text(value)
    return found


def rows(settings: Sequence[Settings]) -> list[SettingRow]:
    """Every setting that any run has, in the order of the first one that has it."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [SettingRow(key, tuple(one.get(key, ABSENT) for one in settings)) for key in keys]


def differing(settings: Sequence[Settings]) -> list[SettingRow]:
    """Only those that are not the same for all runs; their names aside, which tell them apart already."""
    return [row for row in rows(settings) if len(set(row.values)) > 1 and row.key != "name"]


def chosen(experiment: Experiment) -> list[SettingRow]:
    """What one run set otherwise than the defaults."""
    defaults = defaults_of(experiment)
    return [
        SettingRow(key, (value,), defaults[key])
        for key, value in flatten(experiment).items()
        if value != defaults[key] and key != "name"
    ]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
