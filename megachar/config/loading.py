"""The one way an experiment is read: defaults < preset < file < `key=value` overrides."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from megachar.config.checks import check_experiment
from megachar.config.recurrent import RecurrentConfig
from megachar.config.schema import AdamWConfig, Experiment, NormalizedRMSpropConfig, SgdConfig, TransformerConfig
from megachar.errors import ConfigError
from megachar.files import atomic_write, read_regular

_MOST_BYTES: Final = 1 << 24
_DEEPEST: Final = 100
PRESETS = Path(__file__).parent / "presets"


class _Kinds(NamedTuple):
    """A section of several kinds, told apart by one of its keys."""

    key: str
    default: str
    sections: dict[str, type[BaseModel]]


_KINDS = {
    "model": _Kinds("family", "transformer", {"transformer": TransformerConfig, "recurrent": RecurrentConfig}),
    "optimizer": _Kinds(
        "name", "adamw", {"sgd": SgdConfig, "adamw": AdamWConfig, "normalized_rmsprop": NormalizedRMSpropConfig}
    ),
}


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
    layers, overrides = _read_layers(source), [override for group in groups for override in group]
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"override {override!r} is not of the form key=value, such as training.total_steps=1000")
    try:
        values: Any = {}
        size_is_given = False
        for layer in (*layers, *(_Layer(OmegaConf.from_dotlist(list(group)), ships=False) for group in groups)):
            kind = _kind_of("model", values)
            values = _merge(values, layer.settings)
            was_kept = _kind_of("model", values) == kind
            size_is_given = (size_is_given and was_kept) or layer.gives_vocabulary_size
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source} with overrides {overrides} cannot be merged: {error}") from error
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


def read_yaml(path: Path) -> dict[str, Any]:
    """The plain values of a YAML file; `ConfigError` if it is unreadable or holds no sections."""
    try:
        _check_depth(read_regular(path, _MOST_BYTES))
        document = OmegaConf.load(path)
        values = OmegaConf.to_container(document, resolve=True) if OmegaConf.is_dict(document) else None
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path} is not readable YAML: {error}") from error
    except AssertionError:  # OmegaConf's, of a document that is a quoted word and nothing else
        values = None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no sections of settings such as `model:`")
    return values


def _check_depth(data: bytes) -> None:
    """ValueError where YAML is nested so deep that its library would crash."""
    depth = 0
    for event in yaml.parse(data, Loader=yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError("it is nested too deep")


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Write the resolved experiment as YAML that `load_experiment` reads back to an equal one."""
    with atomic_write(path) as part:
        part.write_text(OmegaConf.to_yaml(OmegaConf.create(experiment.model_dump())), encoding="utf-8")


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
    path, names = Path(source), sorted(found.stem for found in folder.glob("*.yaml"))
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

    settings: Any
    ships: bool
    """Whether it ships with megachar."""

    @property
    def gives_vocabulary_size(self) -> bool:
        """Whether the user gives `model.vocabulary_size` here."""
        model = self.settings.get("model")
        return not self.ships and OmegaConf.is_dict(model) and "vocabulary_size" in model


def _read_layers(source: str, above: tuple[Path, ...] = ()) -> list[_Layer]:
    """The YAML documents `source` stands for, the most general first; `above` are the files that start from it."""
    path = find_yaml(source, PRESETS, "preset", "experiment")
    if path.resolve() in above:
        raise ConfigError(f"{path} starts from itself through `preset:`; name another there")
    layer = OmegaConf.create(read_yaml(path))
    base = layer.pop("preset", None)
    return [*(_read_layers(str(base), (*above, path.resolve())) if base else []), _Layer(layer, path.parent == PRESETS)]


def _merge(values: dict[str, Any], layer: Any) -> Any:
    """Lay one document over the values so far. Naming another optimizer or family drops the one before's settings."""
    for name, kinds in _KINDS.items():
        section = layer.get(name)
        if OmegaConf.is_dict(section) and section.get(kinds.key) not in (None, _kind_of(name, values)):
            values = {**values, name: {}}
    return OmegaConf.to_container(OmegaConf.merge(values, layer), resolve=True)


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
