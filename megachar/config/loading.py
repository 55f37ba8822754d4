"""The one way an experiment is read: defaults < preset < file < `key=value` overrides."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

from omegaconf import OmegaConf
from pydantic import BaseModel, ValidationError

from megachar.base.errors import ConfigError
from megachar.base.files import atomic_write, read_regular
from megachar.config.checks import check_experiment
from megachar.config.experiment import FAMILIES, OPTIMIZERS, Experiment
from megachar.config.paths import absolute
from megachar.config.sections.kinds import Kinds
from megachar.config.text import IsText, escape_interpolations, is_text_setting, parse_override, parse_yaml

_MOST_BYTES: Final = 1 << 24
PRESETS = Path(__file__).parent / "presets"
_START, _END = "---\n", "...\n"


_KINDS: Final[dict[str, Kinds[Any]]] = {"model": FAMILIES, "optimizer": OPTIMIZERS}


def preset_names() -> list[str]:
    """Names of the presets that ship with megachar, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


@dataclass(frozen=True)
class UncheckedExperiment:
    """Settings that are valid alone; whether they fit each other is not yet checked."""

    experiment: Experiment
    vocabulary_size_is_given: bool
    """Whether `model.vocabulary_size` is the user's: from a file of their own or an override, not from a preset that
    ships with megachar."""


def load_experiment(source: str, *groups: Sequence[str]) -> Experiment:
    """Read, merge and check an experiment.

    Args:
        source: the name of a preset or the path of a YAML file. A file may start from a preset with `preset: NAME`.
        groups: overrides, `section.key=value` strings; each group is laid over all before it.

    Raises:
        ConfigError: unknown preset, file or key, a value out of range, or settings that do not fit each other.
    """
    experiment = read_experiment(source, *groups).experiment
    check_experiment(experiment)
    return experiment


def read_experiment(source: str, *groups: Sequence[str]) -> UncheckedExperiment:
    """Read and merge an experiment, as `load_experiment` does, but leave `check_experiment` to the caller."""
    values: dict[str, Any] = {}
    size_is_given = False
    for layer in (*_read_layers(source), *(_Layer(_read_group(group), ships=False) for group in groups)):
        kind = _kind_of("model", values)
        values = _merge(values, layer.settings)
        was_kept = _kind_of("model", values) == kind
        size_is_given = (size_is_given and was_kept) or layer.gives_vocabulary_size
    experiment = parse_experiment(values, source)
    return UncheckedExperiment(experiment, size_is_given)


def parse_experiment(values: Any, source: str) -> Experiment:
    """Turn plain values into an `Experiment`, with every problem of types, ranges and unknown keys in one message."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source} holds {type(values).__name__}, not sections of settings such as `model:`")
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(dict(problem))}" for problem in error.errors())
        raise ConfigError(f"{source} does not make a valid experiment:\n{problems}") from error


def read_yaml(path: Path, is_text: IsText = is_text_setting) -> dict[str, Any]:
    """The plain values of a YAML file; `ConfigError` if it is unreadable or holds no sections."""
    try:
        values = parse_yaml(read_regular(path, _MOST_BYTES).decode(), is_text)
    except (ConfigError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no sections of settings such as `model:`")
    return values


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Write the resolved experiment as YAML that `load_experiment` reads back to an equal one.

    It stands between YAML's marks of a document's start and end, by which `load_saved` knows that it is whole.
    """
    values = escape_interpolations(experiment.model_dump())
    with atomic_write(path) as part:
        text = OmegaConf.to_yaml(OmegaConf.create(values))
        part.write_text(f"{_START}{text}{_END}", encoding="utf-8")


def load_saved(path: Path) -> Experiment:
    """The experiment that `save_experiment` wrote; `ConfigError` where a part of it is missing, or it is none."""
    values = read_yaml(path)
    with path.open("rb") as file:
        start, end = file.read(len(_START)), file.read()[-len(_END) :]
    # An older megachar set no marks, and wrote the section of training as the last but the optional ones.
    whole = end == _END.encode() if start == _START.encode() else end.endswith(b"\n") and "training" in values
    if not whole:
        raise ConfigError(f"{path} is cut off: it ends before the experiment does; put a whole copy in its place, such "
                          f"as launch/experiment.yaml of the run")  # fmt: skip
    return parse_experiment(values, str(path))


def find_yaml(source: str, folder: Path, named: str, file: str) -> Path:
    """The file `source` stands for: a path that ends in .yaml, or a name in `folder`.

    Args:
        source: what the user wrote.
        folder: of the files that ship with megachar.
        named: what they are called, such as "preset".
        file: what a user's own file is called, such as "experiment".

    Raises:
        ConfigError: there is none.
    """
    path, names = (
        Path(absolute(source)) if source.startswith("~") else Path(source),
        sorted(found.stem for found in folder.glob("*.yaml")),
    )
    if path.suffix not in {".yaml", ".yml"}:
        if source not in names:
            close = difflib.get_close_matches(source, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(
                f"no {named} is called {source!r}; {hint}{named}s: {', '.join(names)}; a file must end in .yaml"
            )
        path = folder / f"{source}.yaml"
    if not path.is_file():
        raise ConfigError(f"{file} file {source} does not exist; write one or name a {named}: {', '.join(names)}")
    return path


class _Layer(NamedTuple):
    """A document that is laid over others."""

    settings: dict[str, Any]
    ships: bool
    """Whether it ships with megachar."""

    @property
    def gives_vocabulary_size(self) -> bool:
        """Whether the user gives `model.vocabulary_size` here."""
        model = self.settings.get("model")
        return not self.ships and isinstance(model, dict) and "vocabulary_size" in model


def _read_layers(source: str, above: tuple[Path, ...] = ()) -> list[_Layer]:
    """The YAML documents `source` stands for, the most general first; `above` are the files that start from it."""
    path = find_yaml(source, PRESETS, "preset", "experiment")
    if path.resolve() in above:
        raise ConfigError(f"{path} starts from itself through `preset:`; name another there")
    layer = read_yaml(path, lambda key: key == ("preset",) or is_text_setting(key))
    base = layer.pop("preset", None)
    return [*(_read_layers(str(base), (*above, path.resolve())) if base else []), _Layer(layer, path.parent == PRESETS)]


def _read_group(overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides set, as one document."""
    values: dict[str, Any] = {}
    for override in overrides:
        values = laid_over(values, parse_override(override))
    return values


def _merge(values: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    """Lay one document over the values so far. Naming another optimizer or family drops the one before's settings."""
    for name, kinds in _KINDS.items():
        section = layer.get(name)
        if isinstance(section, dict) and section.get(kinds.key) not in (None, _kind_of(name, values)):
            values = {**values, name: {}}
    return laid_over(values, layer)


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections are joined, and all else is replaced."""
    both = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            both[key] = laid_over(below[key], above[key])
    return both


def _kind_of(name: str, values: dict[str, Any]) -> str:
    """Which kind the section `name` of these values is."""
    section, kinds = values.get(name), _KINDS[name]
    return str(section.get(kinds.key, kinds.default)) if isinstance(section, dict) else kinds.default


def _explain(problem: dict[str, Any]) -> str:
    """One pydantic problem as one line: the key, the value and the mend."""
    location = [str(part) for part in problem["loc"]]
    kind = ""
    if location[0] in _KINDS and len(location) > 1 and location[1] in _KINDS[location[0]].sections:
        kind = location.pop(1)
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(location[:-1], kind)
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if problem["type"] == "union_tag_invalid":
        kinds = _KINDS[location[0]]
        return f"{key}.{kinds.key} = {problem['ctx']['tag']!r}: it must be one of {', '.join(kinds.sections)}"
    return f"{key} = {problem['input']!r}: {problem['msg']}"


def _known_keys(location: list[str], kind: str) -> list[str]:
    """Keys of the section at `location`; `kind`: of a section that has several."""
    section: Any = Experiment
    for part in location:
        if part in _KINDS:
            return sorted(_KINDS[part].sections[kind].model_fields)
        if part.isdigit():  # a place in a list of sections, which the step before has gone into
            continue
        field = section.model_fields.get(part)
        # Of a list of sections, tuple[Section, ...], the section.
        annotation = next(iter(get_args(field.annotation)), field.annotation) if field is not None else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return sorted(section.model_fields)
