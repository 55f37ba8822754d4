"""Paths among the settings, made independent of the working folder."""

from pathlib import Path

from megachar.config.schema import DeepSpeedFile, Experiment
from megachar.errors import ConfigError


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

    ConfigError where it begins with the `~` of a user whom this machine does not know.
    """
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: {error}; write the folder out") from error
    return str(expanded.resolve() if ".." in expanded.parts else expanded.absolute())
