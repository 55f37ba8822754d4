"""How the batch and the model are cut over processes. Imports no torch."""

from pydantic import Field

from megachar.config.sections.section import MAX_LAYERS, MAX_RANKS, MAX_SIZE, MAX_WINDOWS, Section


class BatchConfig(Section):
    """Batch arithmetic. A step has global_size / micro_size micro-batches, whatever the layout."""

    micro_size: int = Field(default=16, ge=1, le=MAX_SIZE)
    """Windows in one micro-batch, b: what one forward pass sees."""
    global_size: int = Field(default=16, ge=1, le=MAX_WINDOWS)
    """Windows in one step over all data ranks."""

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step, over all data ranks."""
        return self.global_size // self.micro_size


class ParallelConfig(Section):
    """How the model and the batch are cut over processes: pipe x tensor x data of them."""

    pipe: int = Field(default=1, ge=1, le=MAX_RANKS)
    """Pipeline stages the layers are cut into."""
    tensor: int = Field(default=1, ge=1, le=MAX_RANKS)
    """Ranks every matrix is cut over; must divide the heads."""
    data: int = Field(default=1, ge=1, le=MAX_RANKS)
    """Replicas that share the micro-batches of a step."""
    activation_checkpoint_interval: int = Field(default=0, ge=0, le=MAX_LAYERS)
    """Recompute activations in the backward pass, in groups of this many blocks; 0 is off."""

    @property
    def world_size(self) -> int:
        """Processes the layout needs."""
        return self.pipe * self.tensor * self.data
