"""Which windows of a text are scored, and where: arithmetic only, imports no torch.

A text of N characters has N - 1 characters with something before them (the first has none). With a context of t and a
stride of s, the first window reads inputs [0, t) and scores what follows each of them; every further window starts s
later and scores only what follows its last s; the last one is moved back so that it ends with the text, and scores
only what is left. So each character is scored once, and from at least t - s + 1 characters unless the text has no more.
With s = 1 that is the protocol of Al-Rfou et al. (2019): each character from the t before it, by the last position.
"""

from dataclasses import dataclass

from megachar.base.errors import ConfigError

STREAMS, WARM_UP = 32, 1000
"""Of a recurrent model by default: streams side by side, and characters that a stream reads before it is scored."""


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


def stream_plan(num_characters: int, streams: int, warm_up: int) -> WindowPlan:
    """The plan of a text that is read in contiguous streams side by side: few windows, as long as they come out.

    Every stream but the first reads at least `warm_up` characters before those it scores. Of these streams the text
    gets as many as leave none with more to warm up on than to score, and at least one, which reads all of it.
    """
    check_streams(streams, warm_up)
    num_scored = num_characters - 1
    room = num_scored // warm_up - 1 if warm_up else num_scored
    count = max(1, min(streams, room))
    if count == 1:
        return WindowPlan(num_characters, max(1, num_scored), max(1, num_scored))
    stride = -(-(num_scored - warm_up) // count)
    return WindowPlan(num_characters, stride + warm_up, stride)


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


def check_batch_size(batch_size: int) -> None:
    """ConfigError unless a batch has a window."""
    if batch_size < 1:
        raise ConfigError(f"batch size = {batch_size}: a batch needs a window; set 1 or more, such as 32")


def check_streams(streams: int, warm_up: int) -> None:
    """ConfigError unless there is a stream, and its warm-up (in characters) is not negative."""
    if streams < 1:
        raise ConfigError(f"streams = {streams}: nothing would be read; set 1 (exact) or more, such as {STREAMS}")
    if warm_up < 0:
        raise ConfigError(f"warm-up = {warm_up} is no number of characters; set 0 (off) or more, such as {WARM_UP}")
