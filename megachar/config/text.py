"""YAML in which text stays as it was written: `007`, `1.10` and `2024_11_27` are names where a name is asked for.

Keys are always text. Values are where the setting they are given to is one of text: a string or a choice of words.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from megachar.base.errors import ConfigError
from megachar.config.experiment import Experiment
from megachar.config.sections.kinds import Kinds

IsText = Callable[[tuple[str, ...]], bool]
"""Whether the value at this path of keys is text; the places of a list are not part of the path."""
_DEEPEST: Final = 100
STRING, NULL, MERGE = (f"tag:yaml.org,2002:{name}" for name in ("str", "null", "merge"))


class _Loader(yaml.SafeLoader):
    """Of YAML that is not nested so deep that its library would crash."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As the class above it; `RecursionError` where it is too deep."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise RecursionError
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _text_settings(section: type[BaseModel], above: str = "") -> Iterator[str]:
    """Those of a section and the sections in it, each as `section.key`."""
    for name, field in section.model_fields.items():
        marks = [section for mark in field.metadata if isinstance(mark, Kinds) for section in mark.sections.values()]
        for kind in marks or _kinds(field.annotation):
            if kind is str:
                yield f"{above}{name}"
            else:
                yield from _text_settings(kind, f"{above}{name}.")


def _kinds(annotation: Any) -> Iterator[Any]:
    """The sections in a type, and `str` where it is text."""
    words = get_args(annotation)
    if annotation is str or (get_origin(annotation) is Literal and all(isinstance(word, str) for word in words)):
        yield str
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for part in words:
            yield from _kinds(part)


TEXT_SETTINGS = frozenset(_text_settings(Experiment))


def is_text_setting(path: tuple[str, ...]) -> bool:
    """Whether an experiment's setting is text."""
    return ".".join(path) in TEXT_SETTINGS


def parse_yaml(document: str, is_text: IsText) -> Any:
    """The plain values of a YAML document, `${interpolations}` resolved; {} for an empty one, text for a lone scalar.

    Raises:
        ConfigError: it is no YAML, or an interpolation leads nowhere; the message says what, and not where.
    """
    try:
        node = yaml.compose(document, _Loader)
        if not isinstance(node, yaml.CollectionNode):
            return {} if node is None else node.value
        return OmegaConf.to_container(OmegaConf.create(_marked(node, is_text)), resolve=True)
    except RecursionError as error:
        raise ConfigError("it is nested too deeply") from error
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(str(error)) from error


def parse_override(override: str) -> dict[str, Any]:
    """`section.key=value` as sections: text as it stands, whatever is in it, and other values as YAML.

    Raises:
        ConfigError: it has another form, or the value is no YAML.
    """
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} is not of the form key=value, such as training.total_steps=1000")
    path = tuple(part.strip() for part in key.split("."))
    values: Any = value if is_text_setting(path) else _parse_value(override, value, path)
    for part in reversed(path):
        values = {part: values}
    return dict(values)


def escape_interpolations(values: Any) -> Any:
    """The same values, in which `parse_yaml` finds no interpolation where somebody has written `${`."""
    if isinstance(values, dict):
        return {key: escape_interpolations(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [escape_interpolations(value) for value in values]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", values) if isinstance(values, str) else values


def _parse_value(override: str, value: str, path: tuple[str, ...]) -> Any:
    try:
        node = yaml.compose(value, _Loader)
        if node is None:
            return ""
        named = yaml.MappingNode("tag:yaml.org,2002:map", [(yaml.ScalarNode(STRING, "value"), node)])
        read = OmegaConf.create(_marked(named, lambda inner: is_text_setting((*path, *inner[1:]))))
        return OmegaConf.to_container(read, resolve=False)["value"]
    except RecursionError as error:
        raise ConfigError(f"override {override[:40]!r}... is nested too deeply") from error
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"override {override!r} is not readable: {error}") from error


def _marked(node: yaml.Node, is_text: IsText) -> str:
    """A document again, in which all that is text stands in quotes."""
    _quote_text(node, is_text, ())
    return yaml.serialize(node, Dumper=yaml.SafeDumper, allow_unicode=True, width=float("inf"))


def _quote_text(node: yaml.Node, is_text: IsText, path: tuple[str, ...]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == MERGE:
                _quote_text(value, is_text, path)
                continue
            if isinstance(key, yaml.ScalarNode):
                key.tag, key.style = STRING, '"'
            _quote_text(value, is_text, (*path, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _quote_text(value, is_text, path)
    elif isinstance(node, yaml.ScalarNode) and node.tag != NULL and is_text(path):
        node.tag, node.style = STRING, '"'
