"""Settings of the recurrent models. Imports no torch."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from megachar.config.sections.model import ModelConfig
from megachar.config.sections.section import MAX_LAYERS, MAX_SIZE, Role


class RecurrentConfig(ModelConfig):
    """The multiplicative LSTM of Krause et al. (2016) and the models it is compared with."""

    family: Literal["recurrent"] = "recurrent"
    """Tells this section from that of the transformer, `transformer`."""
    cell: Literal["mlstm", "lstm", "milstm"] = "mlstm"
    """`mlstm`: multiplicative LSTM; `lstm`; `milstm`: LSTM with multiplicative integration (Wu et al. 2016)."""
    output_gate: Literal["outside", "inside"] = "outside"
    """`outside`: h = tanh(c) * o, the standard cell; `inside`: h = tanh(c * o), as in the paper's first experiments."""
    num_layers: int = Field(default=1, ge=1, le=MAX_LAYERS)
    """Layers stacked on each other; the last one predicts."""
    hidden_size: int = Field(default=1900, ge=1, le=MAX_SIZE)
    """Hidden units of a layer, n."""
    embedding_size: int = Field(default=0, ge=0, le=MAX_SIZE)
    """Size of the linear embedding, e. Off (0): symbols enter as one-hot vectors."""
    vocabulary_size: int = Field(default=256, ge=2, le=MAX_SIZE)
    """Number of symbols, V. Without it that of the corpus which is trained on; given, it must be the corpus'."""
    segment_length: int = Field(default=100, ge=1, le=MAX_SIZE)
    """Characters gradients flow back over, t: truncated back-propagation. The state is carried on beyond."""
    softmax_bias: bool = True
    """Whether the classifier has a bias."""
    weight_norm: bool = False
    """Weight normalization, one gain per row, of all matrices but the embedding and the classifier."""
    forget_bias: Annotated[float, Role.TRAINS] = 0.0
    """Initial bias of the forget gate; 0 is off."""
    orthogonal_scale: Annotated[float, Role.TRAINS] = Field(default=0.0, ge=0.0)
    """Hidden weights start as orthogonal n x n matrices times this. Off (0): normal, of standard deviation
    1 / sqrt(n)."""
    hidden_dropout: Annotated[float, Role.TRAINS] = Field(default=0.0, ge=0.0, lt=1.0)
    """Drop probability of hidden units, one mask for a whole segment (variational dropout); 0 is off."""
    embedding_dropout: Annotated[float, Role.TRAINS] = Field(default=0.0, ge=0.0, lt=1.0)
    """Drop probability of the embedding's dimensions, one mask for a whole segment; 0 is off."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_base(cls, values: Any) -> Any:
        if isinstance(values, dict) and {"base_width", "base_layers", "base_head_width"} & values.keys():
            raise ValueError(
                "the rules for width and depth (base_width, base_layers) are the transformer's; leave them out"
            )
        return values

    folds: ClassVar = True
    dynamic_rates: ClassVar = {"sgd": 0.03, "rms": 1e-4}

    @property
    def window_length(self) -> int:
        """See `ModelConfig`."""
        return self.segment_length

    @property
    def context_limit(self) -> None:
        """See `ModelConfig`."""
        return None

    def carried_shapes(self) -> dict[str, tuple[int, ...]]:
        """See `ModelConfig`."""
        return dict.fromkeys(("hidden", "cell"), (self.num_layers, self.hidden_size))

    @property
    def drops_out(self) -> bool:
        """See `ModelConfig`."""
        return self.hidden_dropout > 0 or self.embedding_dropout > 0
