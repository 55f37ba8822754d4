"""Paths among the settings, made independent of the working folder."""

from pathlib import Path

from megachar.base.errors import ConfigError
from megachar.base.files import describe, expanded, is_utf8, shown
from megachar.config.experiment import DeepSpeedFile, Experiment


def with_absolute_paths(experiment: Experiment) -> Experiment:
    """The experiment with all its paths absolute and `~` expanded; names of DeepSpeed JSONs that ship stay names."""
    data, deepspeed = experiment.data, experiment.deepspeed
    parts = tuple(part.model_copy(update={"path": absolute(part.path)}) for part in data.blend)
    path = absolute(data.path) if data.path else ""
    return experiment.model_copy(
        update={
            "output": absolute(experiment.output),
            "deepspeed": _absolute_json(deepspeed),
            "data": data.model_copy(update={"path": path, "blend": parts}),
        }
    )


def _absolute_json(given: str | DeepSpeedFile) -> str | DeepSpeedFile:
    if isinstance(given, DeepSpeedFile):
        return given.model_copy(update={"path": absolute(given.path)})
    return absolute(given) if given.endswith(".json") else given


def absolute(path: str) -> str:
    """The absolute form of a path. Symbolic links stay, unless it has a `..`, whose meaning depends on them.

    ConfigError where it begins with the `~` of a user whom this machine does not know, or is not UTF-8.
    """
    try:
        written_out = expanded(Path(path))
    except OSError as error:
        raise ConfigError(describe(error)) from error
    found = str(written_out.resolve() if ".." in written_out.parts else written_out.absolute())
    if not is_utf8(found):
        raise ConfigError(f"{shown(found)} is not UTF-8, as the files that name it are; rename the folder")
    return found
