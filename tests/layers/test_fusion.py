"""Recurrent steps are compiled where there is a compiler that works, and run as they stand elsewhere."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch

from megachar.layers import fusion


def test_without_a_compiler_steps_run_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Callable[..., None], dynamic: bool, fullgraph: bool) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC.")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match=r"not fused: Failed to find C compiler\.$"):
        chosen = fusion.compiled_or_plain(fusion.step_forward, fusion.example("forward", "cpu"))
    assert chosen is fusion.step_forward


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_with_one_they_are_compiled_and_tried(
    direction: Literal["forward", "backward"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arguments of the trial fit the step."""
    calls = []

    def compiler(function: Callable[..., None], dynamic: bool, fullgraph: bool) -> Callable[..., None]:
        def compiled(*arguments: Any) -> None:
            calls.append(function(*arguments))

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    step = {"forward": fusion.step_forward, "backward": fusion.step_backward}[direction]
    chosen = fusion.compiled_or_plain(step, fusion.example(direction, "cpu"))
    assert chosen is not step
    assert len(calls) == 1


def test_a_cpu_needs_no_compiler() -> None:
    assert fusion.fused("forward", "cpu") is fusion.step_forward
    assert fusion.fused("backward", "cpu") is fusion.step_backward
