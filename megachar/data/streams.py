"""Where contiguous streams of a text stand at a step: pure functions of integers, with no state to save.

A text of N characters is cut into S streams of equal length. At step k every stream reads its k-th segment of t
characters, so that a recurrent model can carry its state from one to the next; at the end of the streams all begin
anew. Resuming needs only the step, and any number of data ranks reads the same segments.
"""

import numpy as np

from megachar.base.errors import DataError
from megachar.data.sampler import Int64, UInt64


class Streams:
    """S streams over a text of N characters, in segments of t. Window k S + s of a run is segment k of stream s.

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

    def window_starts(self, windows: UInt64) -> Int64:
        """First input character of the windows with these numbers (b,); the targets are one further on."""
        steps, streams = np.divmod(windows, np.uint64(self.num_streams))
        places = steps % np.uint64(self.segments_per_epoch)
        return streams.astype(np.int64) * self.characters_per_stream + places.astype(np.int64) * self.segment_length

    def epoch(self, step: int) -> int:
        """How often the streams were read to their end before `step`. What was carried on in one ends with it."""
        return step // self.segments_per_epoch
