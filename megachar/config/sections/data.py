"""Where the text comes from. Imports no torch."""

from typing import Literal

from pydantic import Field

from megachar.config.sections.section import Section


class BlendPart(Section):
    """One of several corpora that are read together."""

    path: str = Field(min_length=1)
    """Folder of a prepared corpus."""
    weight: float = Field(gt=0, allow_inf_nan=False)
    """Its part of the windows, in any unit: weights 7 and 3 are 0.7 and 0.3, exactly."""


class DataConfig(Section):
    """Where the text comes from and in which order it is read."""

    path: str = ""
    """Folder of a prepared corpus (train/valid/test .bin and .idx, dataset.json). A run keeps absolute paths."""
    blend: tuple[BlendPart, ...] = ()
    """Several corpora instead of `path`: [{path: a, weight: 7}, {path: b, weight: 3}]. After any number of windows each
    corpus is less than one window off its share; validation windows are shared out likewise. Off: []."""
    order: Literal["random", "epoch", "streams"] = "random"
    """`random`: independent random windows, as in the paper; `epoch`: one shuffled pass after another; `streams`: the
    text cut into `batch.global_size` streams that are read side by side, for recurrent models, which carry their state
    from one step to the next, and only for them."""
    windows: Literal["stream", "document"] = "stream"
    """`stream`: windows lie anywhere in the text; `document`: inside one document each, and documents shorter than a
    window (context plus targets) are left out."""

    @property
    def parts(self) -> tuple[BlendPart, ...]:
        """The corpora to read, whichever of `path` and `blend` names them; none where neither does."""
        return self.blend or ((BlendPart(path=self.path, weight=1),) if self.path else ())
