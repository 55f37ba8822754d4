"""Options that go together, as one parameter of a command: a dataclass with a field for each."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any

import typer

KEYWORD = inspect.Parameter.KEYWORD_ONLY


def option(default: Any, help: str, *names: str, **more: Any) -> Any:
    """A field that is an option. A field without this is annotated as a parameter of a command is.

    Args:
        default: where it is not given.
        help: on what it is.
        names: where they are not the field's.
        more: what else `typer.Option` takes.
    """
    return field(default=default, metadata={"option": typer.Option(*names, help=help, **more)})


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """As a decorator of a command: where a parameter is a dataclass, it has an option for each field of that."""
    own = inspect.signature(command).parameters
    groups: dict[str, Any] = {name: one.annotation for name, one in own.items() if is_dataclass(one.annotation)}

    @wraps(command)
    def called(*arguments: Any, **given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{one.name: given.pop(one.name) for one in fields(group) if one.name in given})
        command(*arguments, **given)

    every: list[inspect.Parameter] = []
    for name, parameter in own.items():
        every += map(_parameter, fields(groups[name])) if name in groups else [parameter.replace(kind=KEYWORD)]
    called.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
    return called


def _parameter(of: Field[Any]) -> inspect.Parameter:
    annotation = Annotated[of.type, of.metadata["option"]] if of.metadata else of.type
    default = inspect.Parameter.empty if of.default is MISSING else of.default
    return inspect.Parameter(of.name, KEYWORD, default=default, annotation=annotation)
