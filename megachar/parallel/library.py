"""DeepSpeed as it is used here: one place imports it, checks its version, and replaces what costs seconds for nothing.

Nothing under an engine is compiled by torch.compile. Yet torch's optimizers import its compiler (1.0 s of CPU for
`torch._dynamo`) to mark what it should leave alone, DeepSpeed has it set up for Muon's kernels, which no configuration
of ours uses (0.9 s), and collects garbage several times to print memory figures (1.0 s).
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch

from megachar.base.errors import ConfigError, PlatformError

SUPPORTED = ((0, 19, 8), (0, 20, 0))
MARKED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""Methods of torch.optim.Optimizer that import the compiler when they are first called; so does `step`."""


def load_deepspeed() -> Any:
    """The package. DS_ACCELERATOR must say by now which device it is for.

    Raises:
        PlatformError: it is not a supported version.
    """
    import deepspeed
    from deepspeed.runtime import bf16_optimizer, compiler

    check_deepspeed_version(deepspeed.__version__)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Asked only for a shared-memory all-reduce for inference, which DeepSpeed would compile for a minute on every CPU
    # machine. Left to itself it would try a compiler for each of its operations first (0.6 s).
    deepspeed.ops.__compatible_ops__ = {}
    bf16_optimizer.see_memory_usage = _say_nothing
    compiler.compile = _compile_nothing
    _spare_the_compiler()
    return deepspeed


def check_engine_settings(rendered: dict[str, Any]) -> None:
    """Build DeepSpeed's own model of a rendered configuration; no process group is needed.

    Raises:
        ConfigError: DeepSpeed refuses it.
    """
    from deepspeed.runtime.config import DeepSpeedConfig

    # Without a process group it takes itself for one rank.
    size = rendered["train_micro_batch_size_per_gpu"] * rendered["gradient_accumulation_steps"]
    try:
        DeepSpeedConfig({**rendered, "train_batch_size": size})
    except Exception as error:  # whatever it may be: it is about what the user wrote
        raise ConfigError(f"DeepSpeed refuses its settings: {error}") from error


def check_deepspeed_version(version: str) -> None:
    """Raise `PlatformError` for a DeepSpeed whose pipeline scales gradients otherwise than ours expects."""
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:3])
    lowest, beyond = SUPPORTED
    if not lowest <= numbers < beyond:
        raise PlatformError(f"deepspeed {version} is not supported; install deepspeed>=0.19.8,<0.20")


def _spare_the_compiler() -> None:
    """Have torch's optimizers work without importing its compiler.

    What the marks prevent is the compiler's looking into these methods, which nobody asks of it here.
    """
    for name in MARKED:
        plain = inspect.unwrap(getattr(torch.optim.Optimizer, name))
        plain.__dynamo_disable = plain  # where torch keeps the marked method, once it has one
    kind: Any
    for kind in (torch.optim.AdamW, torch.optim.SGD):
        kind.step = torch.no_grad()(inspect.unwrap(kind.step))


def _say_nothing(message: str, force: bool = False) -> None:
    """In place of `see_memory_usage`."""


def _compile_nothing() -> Callable[[Any], Any]:
    """In place of a decorator that compiles."""
    return lambda function: function
