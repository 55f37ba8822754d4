"""Experiments compared setting by setting."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from megachar.config.experiment import Experiment
from megachar.config.sections.section import Role, role_of


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections within sections -> `section.key` -> value. Lists are values; an empty section is left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """Every setting by its `section.key`, of JSON's types."""
    return flatten(experiment.model_dump(mode="json"))


def settings_but(experiment: Experiment, *ignored: Role) -> dict[str, Any]:
    """Those of other roles than these, by their `section.key`."""
    fields = Experiment.model_fields.items()
    left_out = {name for name, field in fields if role_of(field, Role.TRAINS) in ignored}
    return {key: value for key, value in settings_of(experiment).items() if key.partition(".")[0] not in left_out}


def differences(old: Experiment, new: Experiment, *ignored: Role) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, by `section.key`: old and new value, None where one has no such setting.

    `ignored`: roles of settings that are not compared.
    """
    before, after = settings_but(old, *ignored), settings_but(new, *ignored)
    return {
        key: (before.get(key), after.get(key))
        for key in dict.fromkeys((*before, *after))
        if before.get(key) != after.get(key)
    }


def short_names(keys: Collection[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """`section.key` -> the last part of it, or all of it where another one, or one that is `taken`, ends alike."""
    ends = [key.rpartition(".")[2] for key in keys]
    counts = Counter(ends) + Counter(set(taken))
    return {key: end if counts[end] == 1 else key for key, end in zip(keys, ends, strict=True)}
