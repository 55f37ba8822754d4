"""The straight way: plain text under the byte vocabulary is its own tokens, so it is copied, hashed and counted."""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from megachar.corpora.inputs import open_text
from megachar.corpora.joining import NUM_BUFFERS, Digest, SplitWriter, pump
from megachar.corpora.plan import SourceFile
from megachar.corpora.words import WordCounter
from megachar.data.corpus import SplitName


def copy_text(
    number: int,
    source: SourceFile,
    writers: Mapping[SplitName, SplitWriter],
    digest: Digest,
    counting: ThreadPoolExecutor,
    progress: Callable[[int], None],
    block_bytes: int,
) -> str:
    """Copy the pieces of source `number`, a plain text, to their splits; its sha256. `digest` is a new one.

    Words are counted by `counting`, a thread beside reading and writing. DataError where the text ends too early. A
    text that begins a split is hashed once for both: its hash and that of the split are the same up to the end of that
    piece.
    """
    with open_text(source.text) as file:
        for place, (split, size) in enumerate(source.pieces):
            assert size is not None
            writer = writers[split]
            writer.begin_source(number)
            shared = place == 0 and writer.tally.num_tokens == 0
            counts: deque[Future[WordCounter]] = deque()
            for buffer in pump(file, size, str(source.text), block_bytes):
                buffer.hashed_by(writer.digest)
                if not shared:
                    buffer.hashed_by(digest)
                counts.append(buffer.used_by(counting.submit(_words_of, buffer.data)))
                writer.append_bytes(buffer.data)
                progress(len(buffer.data))
                if len(counts) > NUM_BUFFERS:  # that buffer is filled anew by now
                    writer.tally.words.join(counts.popleft().result())
            for count in counts:
                writer.tally.words.join(count.result())
            if shared:
                digest.begin_as(writer.digest)
    return digest.hexdigest()


def _words_of(text: memoryview) -> WordCounter:
    words = WordCounter()
    words.update(np.frombuffer(text, dtype=np.uint8))
    return words
