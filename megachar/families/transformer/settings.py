"""Settings of the transformer. Imports no torch."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from megachar.config.sections.model import ModelConfig
from megachar.config.sections.section import MAX_LAYERS, MAX_SIZE, Role


class TransformerConfig(ModelConfig):
    """The transformer of Al-Rfou et al. (2019), section 2."""

    family: Literal["transformer"] = "transformer"
    """Tells this section from that of the recurrent models, `recurrent`."""
    num_layers: int = Field(default=12, ge=1, le=MAX_LAYERS)
    """Number of transformer blocks."""
    width: int = Field(default=512, ge=1, le=MAX_SIZE)
    """Size of the hidden state, d."""
    num_heads: int = Field(default=2, ge=1, le=MAX_SIZE)
    """Attention heads per block; must divide `width`."""
    feed_forward_width: int = Field(default=2048, ge=1, le=MAX_SIZE)
    """Size of the ReLU layer, f."""
    context: int = Field(default=512, ge=1, le=MAX_SIZE)
    """Window in characters, t."""
    vocabulary_size: int = Field(default=256, ge=2, le=MAX_SIZE)
    """Number of symbols, V. Without it that of the corpus which is trained on; given, it must be the corpus'."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """`learned`: a table per layer added to the input of every layer; `sinusoidal`: the fixed table instead."""
    local_offsets: Annotated[tuple[tuple[int, ...], ...], Role.TRAINS] = ()
    """Per layer, how many characters back each of its first heads starts out looking: [[1, 2], [1, 4]] sets two heads
    of the first two layers. A way to start training (see `initialization`), not a constraint. Off: []."""
    base_width: int | None = Field(default=None, ge=1, le=MAX_SIZE)
    """Width of a smaller model whose learning rate, epsilon, decay and initial weights hold for this one, by the rules
    for width; its feed-forward layer is as many times wider. Off: null."""
    base_layers: int | None = Field(default=None, ge=1, le=MAX_LAYERS)
    """The same for its number of layers, by the rules for depth. Off: null."""
    base_head_width: int | None = Field(default=None, ge=1, le=MAX_SIZE)
    """Width of that model's attention heads. Off (null): that of these heads, of which it has fewer."""
    dropout: Annotated[float, Role.TRAINS] = Field(default=0.0, ge=0.0, lt=1.0)
    """Drop probability on the attention weights and on the ReLU layer; 0 is off."""

    has_rules_of_scale: ClassVar = True
    dynamic_rates: ClassVar = {"sgd": 0.001, "rms": 5e-5}

    @property
    def width_ratio(self) -> float:
        """See `ModelConfig`."""
        return self.width / (self.base_width or self.width)

    @property
    def depth_ratio(self) -> float:
        """See `ModelConfig`."""
        return self.num_layers / (self.base_layers or self.num_layers)

    @property
    def base(self) -> ModelConfig:
        """See `ModelConfig`."""
        if self.base_width is None and self.base_layers is None and self.base_head_width is None:
            return self
        width, num_layers = self.base_width or self.width, self.base_layers or self.num_layers
        return self.model_copy(update={"width": width, "num_layers": num_layers})

    @property
    def attention_scale(self) -> float | None:
        """What scores are multiplied by: sqrt(base k) / k in place of 1 / sqrt(k) for heads of width k; None: that."""
        head_width = self.width // self.num_heads
        return None if self.base_head_width is None else self.base_head_width**0.5 / head_width

    @property
    def window_length(self) -> int:
        """See `ModelConfig`."""
        return self.context

    @property
    def context_limit(self) -> int:
        """See `ModelConfig`."""
        return self.context

    @property
    def drops_out(self) -> bool:
        """See `ModelConfig`."""
        return self.dropout > 0
