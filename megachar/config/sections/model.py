"""What the settings of every family of models have in common. Imports no torch."""

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

from megachar.config.sections.section import Role, Section


class ModelConfig(Section):
    """The settings of a model. Its family is the folder they are defined in, `megachar/families/FAMILY/`."""

    unmarked: ClassVar = Role.SHAPES
    family: str
    num_layers: int
    vocabulary_size: int

    dynamic_rates: ClassVar[Mapping[str, float]]
    """Learning rates of dynamic evaluation by its rule, sgd or rms: those that served small models of Shakespeare best,
    of several a factor of 3 to 5 apart. With three to five times the rate the figure was worse than the static one, but
    for `rms` on the recurrent model."""
    has_rules_of_scale: ClassVar[bool] = False
    """Whether rates and initial weights can be those of a smaller model: a `base_width`, a `base_layers`."""
    folds: ClassVar[bool] = False
    """Whether a model in use is computed from all that was trained, so that its files hold all of that."""

    @property
    def width_ratio(self) -> float:
        """r: the width over that of the model whose rates and initial weights it takes over; 1 where there is none."""
        return 1.0

    @property
    def depth_ratio(self) -> float:
        """q: the number of layers over that of the model whose rates and initial weights it takes over."""
        return 1.0

    @property
    def base(self) -> "ModelConfig":
        """The model whose rates and initial weights it takes over; itself where there is none."""
        return self

    @property
    def window_length(self) -> int:
        """Characters of one row of a batch."""
        raise NotImplementedError

    @property
    def context_limit(self) -> int | None:
        """The most characters that one is predicted from; None where a state is carried on without bound."""
        raise NotImplementedError

    @property
    def drops_out(self) -> bool:
        """Whether training draws masks."""
        raise NotImplementedError

    def shapes(self) -> dict[str, Any]:
        """See `Section`; the family is left out, since the other keys tell which it is."""
        return {name: value for name, value in super().shapes().items() if name != "family"}

    def carried_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of what a stream of text carries on from one step of training to the next; here nothing."""
        return {}

    def part(self, name: str) -> Any:
        """The module `name` of the family's folder; `docs/design.md` says what each of them has to offer."""
        return importlib.import_module(f"{type(self).__module__.rpartition('.')[0]}.{name}")
