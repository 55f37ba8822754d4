"""Where contiguous streams of a text stand at a step: pure functions of integers, with no state to save.

A text of N characters is cut into S streams of equal length. At step k every stream reads its k-th segment of t
characters, so that a recurrent model can carry its state from one to the next; at the end of the streams all begin
anew. Resuming needs only the step, and any number of data ranks reads the same segments.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megachar.errors import DataError

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """The segments that some streams read at one step, (b,) each."""

    streams: Int64
    """Numbers of the streams."""
    starts: Int64
    """First input character in the text; the targets are one further on."""
    epochs: Int64
    """How often the stream has been read to its end before."""
    resets: npt.NDArray[np.bool_]
    """Where the stream begins anew: what was carried on does not belong to this text, and the state is zero."""


class Streams:
    """S streams over a text of N characters, in segments of t.

    A stream has (N - 1) // S characters, each with one after it as its target, of which whole segments are read: of a
    text, at most S t characters are left out.
    """

    def __init__(self, num_characters: int, num_streams: int, segment_length: int) -> None:
        """DataError where a stream is shorter than one segment."""
        assert num_streams >= 1, num_streams
        assert segment_length >= 1, segment_length
        self.num_streams, self.segment_length = num_streams, segment_length
        self.characters_per_stream = max(0, num_characters - 1) // num_streams
        """Inputs of a stream, read or left out."""
        self.segments_per_epoch = self.characters_per_stream // segment_length
        """Steps until every stream begins anew."""
        if not self.segments_per_epoch:
            raise DataError(
                f"the split has {num_characters:,} characters, too few for {num_streams:,} streams of at least one "
                f"segment of {segment_length:,} characters ({num_streams * segment_length + 1:,} in all): use fewer "
                "streams (batch.global_size), shorter segments (model.segment_length) or a longer text"
            )

    def segments(self, step: int, streams: Int64) -> Segments:
        """What the streams with these numbers (b,) read at `step`, from 0."""
        assert step >= 0, step
        assert streams.size == 0 or 0 <= streams.min() <= streams.max() < self.num_streams, "no such stream"
        epoch, place = divmod(step, self.segments_per_epoch)
        starts = streams * self.characters_per_stream + place * self.segment_length
        return Segments(streams, starts, np.full(streams.size, epoch), np.full(streams.size, place == 0))


def streams_of_rank(num_streams: int, data_rank: int, data_size: int) -> Int64:
    """Numbers, in ascending order, of the streams that data rank `data_rank` of `data_size` reads: number % size."""
    assert 0 <= data_rank < data_size, (data_rank, data_size)
    return np.arange(data_rank, num_streams, data_size, dtype=np.int64)
