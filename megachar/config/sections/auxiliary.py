"""The auxiliary losses. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from megachar.config.sections.section import MAX_SIZE, MAX_STEPS, Role, Section


class AuxiliaryConfig(Section):
    """The auxiliary losses (Al-Rfou et al. 2019, section 3). Each can be switched off on its own."""

    multiple_positions: bool = True
    """Every position of the window predicts; off: only the last one."""
    intermediate_layers: Annotated[bool, Role.SHAPES] = True
    """Layers below the last predict through classifiers of their own, until their schedule silences them."""
    decay: Literal["drop", "linear"] = "drop"
    """Weight of an intermediate layer until it falls silent: 1 throughout, or falling linearly to 0."""
    interval_steps: float | None = Field(default=None, gt=0, le=MAX_STEPS)
    """Steps between two layers falling silent: layer l is silent from step l * interval.
    Off (null): total_steps / (2 n), so that layer l stops after l/(2n) of training."""
    num_targets: Annotated[int, Role.SHAPES] = Field(default=2, ge=1, le=MAX_SIZE)
    """How many following characters each position predicts; 1 switches multiple targets off."""
    extra_target_weight: float = Field(default=0.5, ge=0.0)
    """Weight of the losses of the second and later targets."""
    reduction: Literal["sum", "mean"] = "sum"
    """How the active intermediate layers' losses are added to the last layer's."""

    def classifiers_per_character(self, num_layers: float, window_length: int) -> float:
        """How often a classifier is computed for each character of a window where so many layers predict."""
        classifiers = num_layers * self.num_targets
        return classifiers if self.multiple_positions else classifiers / window_length
