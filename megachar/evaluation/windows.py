"""Which windows of a text are scored, and where: arithmetic only, imports no torch.

A text of N characters has N - 1 characters with something before them (the first has none). With a context of t and a
stride of s, the first window reads inputs [0, t) and scores what follows each of them; every further window starts s
later and scores only what follows its last s; the last one is moved back so that it ends with the text, and scores
only what is left. So each character is scored once, and from at least t - s + 1 characters unless the text has no more.
With s = 1 that is the protocol of Al-Rfou et al. (2019): each character from the t before it, by the last position.
"""

from dataclasses import dataclass

from megachar.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """Inputs [start, start + length) of the text; its last `num_scored` positions are scored."""

    start: int
    length: int
    num_scored: int


@dataclass(frozen=True)
class WindowPlan:
    """The windows of a text, in its order. Nothing is stored, so the plan of any text is free."""

    num_characters: int
    """Length of the text, N."""
    context: int
    """Longest window, t."""
    stride: int
    """Characters from one window to the next, s."""

    def __post_init__(self) -> None:
        check_stride(self.stride, self.context)

    def __len__(self) -> int:
        """Number of windows: 0 for a text of one character, 1 up to t + 1 characters."""
        if self.num_characters <= 1:
            return 0
        return 1 + -(-max(0, self._num_after_first) // self.stride)

    def window(self, number: int) -> Window:
        """Window `number`, from 0. Only a text of t characters or fewer has a window shorter than t."""
        if number == 0:
            length = min(self.context, self.num_characters - 1)
            return Window(0, length, length)
        num_scored = min(self.stride, self._num_after_first - (number - 1) * self.stride)
        assert num_scored > 0, f"window {number} of {len(self)}"
        return Window(min(number * self.stride, self._num_after_first), self.context, num_scored)

    def num_batches(self, batch_size: int) -> int:
        """Batches of at most `batch_size` windows."""
        return -(-len(self) // batch_size)

    def batch(self, number: int, batch_size: int) -> list[Window]:
        """The windows of batch `number`, from 0; all are of one length."""
        first = number * batch_size
        return [self.window(k) for k in range(first, min(first + batch_size, len(self)))]

    @property
    def _num_after_first(self) -> int:
        """Characters that the first window does not score; negative for a text shorter than one window."""
        return self.num_characters - 1 - self.context


def default_stride(context: int) -> int:
    """An eighth of the context: t/8 times cheaper than the paper's stride of 1, and at least 7/8 of the context."""
    return max(1, context // 8)


def check_stride(stride: int, context: int) -> None:
    """ConfigError unless 1 <= stride <= context (in characters)."""
    if stride < 1:
        raise ConfigError(f"stride = {stride} does not move the window; set 1 (the paper's, exact) up to {context}")
    if stride > context:
        raise ConfigError(
            f"stride = {stride} is more than the model's context of {context} characters, so characters between two "
            f"windows would never be scored; set at most {context} (fastest), or {default_stride(context)}"
        )
