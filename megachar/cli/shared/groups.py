"""Options that go together, as one parameter of a command."""

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from typing import Any


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """As a decorator of a command: its parameters that are dataclasses become an option for each of their fields.

    The fields are annotated as options are, and their options stand where the parameter does.
    """
    own = inspect.signature(command).parameters
    groups: dict[str, Any] = {name: one.annotation for name, one in own.items() if is_dataclass(one.annotation)}
    options = {name: inspect.signature(group).parameters for name, group in groups.items()}

    @wraps(command)
    def called(*arguments: Any, **given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{option: given.pop(option) for option in options[name] if option in given})
        command(*arguments, **given)

    every = [option for name in own for option in options.get(name, {name: own[name]}).values()]
    by_name = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in every]
    called.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    called.__annotations__ = {option.name: option.annotation for option in every}
    return called
