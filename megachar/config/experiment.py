"""One experiment: every setting, in frozen, typed sections. This file imports no torch.

A setting lives here or in the DeepSpeed JSON (see `megachar.config.deepspeed`), never in both.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from megachar.base.discovery import modules_in
from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.config.sections.data import DataConfig
from megachar.config.sections.kinds import Kinds
from megachar.config.sections.layout import BatchConfig, ParallelConfig
from megachar.config.sections.model import ModelConfig
from megachar.config.sections.section import Role, Section
from megachar.config.sections.training import FaultToleranceConfig, GuardConfig, TrainingConfig
from megachar.optimizers.optimizer import OptimizerConfig
from megachar.optimizers.schedules import ScheduleConfig

FAMILIES: Final = Kinds(ModelConfig, "family", "transformer", modules_in("megachar.families", "settings"))
"""Of models: a folder of `megachar/families/` each."""
RUN_NAME: Final = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"
"""Pattern of what a run may be called."""
OPTIMIZERS: Final = Kinds(OptimizerConfig, "name", "adamw", modules_in("megachar.optimizers"))
"""A file of `megachar/optimizers/` each."""


class DeepSpeedFile(Section):
    """A DeepSpeed JSON of the user's own, as a run keeps it."""

    path: str
    """Where it was read."""
    content: dict[str, Any]
    """What it held then, which counts."""

    def __str__(self) -> str:
        return self.path


class Experiment(Section):
    """One experiment: what `megachar launch` runs and what is saved beside the run as resolved.yaml."""

    name: Annotated[str, Role.NAMES] = Field(default="experiment", max_length=255, pattern=RUN_NAME)
    """Name of the run; its folder is `output`/`name`."""
    output: Annotated[str, Role.NAMES] = "runs"
    """Folder in which run folders are made."""
    seed: int = Field(default=1, ge=0, lt=2**63)
    """Seed of initial weights, windows and dropout masks."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Role.COMPUTES] = "auto"
    """Where to train; `auto` takes CUDA where there is one."""
    kernels: Annotated[Literal["torch", "apex"], Role.COMPUTES] = "torch"
    """Layer norm and fused optimizers: torch's, or NVIDIA apex's where importable. The run says which it took."""
    deepspeed: Annotated[str | DeepSpeedFile, Role.COMPUTES] = "fp32"
    """DeepSpeed JSON: a name in ds_configs/ or a path. It owns ZeRO, precision, offload and communication. A run keeps
    what a file of your own held when it was started."""
    data: DataConfig = DataConfig()
    model: Annotated[ModelConfig, FAMILIES] = FAMILIES.make_default()
    auxiliary: AuxiliaryConfig = AuxiliaryConfig()
    optimizer: Annotated[OptimizerConfig, OPTIMIZERS] = OPTIMIZERS.make_default()
    schedule: ScheduleConfig = ScheduleConfig()
    batch: BatchConfig = BatchConfig()
    parallel: Annotated[ParallelConfig, Role.COMPUTES] = ParallelConfig()
    training: TrainingConfig = TrainingConfig()
    guard: GuardConfig = GuardConfig()
    fault_tolerance: Annotated[FaultToleranceConfig, Role.COMPUTES] = FaultToleranceConfig()
