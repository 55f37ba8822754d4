"""Settings that do not fit a recurrent model. Imports no torch."""

from megachar.base.errors import ConfigError
from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.config.sections.data import DataConfig
from megachar.config.sections.layout import ParallelConfig
from megachar.families.recurrent.settings import RecurrentConfig


def check(model: RecurrentConfig, data: DataConfig, auxiliary: AuxiliaryConfig, parallel: ParallelConfig) -> None:
    """`ConfigError` for the first setting that does not fit the model."""
    if parallel.pipe > 1 or parallel.tensor > 1:
        raise ConfigError(
            f"parallel.pipe = {parallel.pipe} and parallel.tensor = {parallel.tensor}: a recurrent model is not cut, "
            f"for every character waits for the one before it, in every stage and on every tensor rank; set "
            f"parallel.pipe=1 parallel.tensor=1, and more parallel.data"
        )
    if parallel.activation_checkpoint_interval:
        raise ConfigError(
            f"parallel.activation_checkpoint_interval = {parallel.activation_checkpoint_interval} counts blocks of a "
            f"transformer; set it to 0, and a shorter model.segment_length or batch.micro_size to save memory"
        )
    if auxiliary.intermediate_layers or auxiliary.num_targets > 1 or not auxiliary.multiple_positions:
        raise ConfigError(
            "a recurrent model predicts the next character at every position with its last layer, and has no auxiliary "
            "losses; set auxiliary.intermediate_layers=false auxiliary.num_targets=1 auxiliary.multiple_positions=true"
        )
    if data.order != "streams" or data.windows != "stream" or data.blend:
        raise ConfigError(
            f"data.order = {data.order}, data.windows = {data.windows}, data.blend of {len(data.blend)}: a recurrent "
            f"model reads contiguous streams of one text; set data.order=streams data.windows=stream data.blend=[]"
        )
    if model.embedding_dropout and not model.embedding_size:
        raise ConfigError(
            f"model.embedding_dropout = {model.embedding_dropout} drops dimensions of an embedding, and "
            f"model.embedding_size = 0 means there is none; set model.embedding_dropout=0 or model.embedding_size=400"
        )
