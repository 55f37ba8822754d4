"""What ranks tell each other beside tensors: JSON in tensors of bytes, of a type that is checked.

torch's own collectives of objects unpickle what peers send, and whoever writes a pickle has its reader run a program.
"""

from typing import TypeVar

import torch
import torch.distributed as dist
from pydantic import TypeAdapter, ValidationError

from megachar.base import errors
from megachar.base.errors import MegacharError, PlatformError

MAX_MESSAGE_BYTES = 64 << 20
"""The longest are the records of a checkpoint's files, some 150 bytes each."""
Message = TypeVar("Message")
TEXT_OR_NONE: TypeAdapter[str | None] = TypeAdapter(str | None)


def gather(kind: TypeAdapter[Message], value: Message, group: dist.ProcessGroup) -> list[Message]:
    """What every rank of a group has given, in their order. Every rank must call it, and gets the same.

    Args:
        kind: of what is sent; what comes is held against it.
        value: this rank's.
        group: over gloo.

    Raises:
        PlatformError: a rank has sent something else, or too much.
    """
    own = torch.frombuffer(bytearray(kind.dump_json(value)), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(lengths, torch.tensor([len(own)]), group=group)
    sizes = [int(length) for length in lengths]
    for rank, size in enumerate(sizes):
        if not 0 < size <= MAX_MESSAGE_BYTES:
            raise _stranger(rank, f"announces a message of {size} bytes, and at most {MAX_MESSAGE_BYTES} are taken")
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(own)] = own
    everyone = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(everyone, padded, group=group)
    return [_decode(kind, rank, text[:size]) for rank, (text, size) in enumerate(zip(everyone, sizes, strict=True))]


def error_as_json(error: MegacharError | None) -> tuple[str, str] | None:
    """Kind and text of an error, for the wire."""
    return None if error is None else (type(error).__name__, str(error))


def error_from_json(kind: str, text: str) -> MegacharError:
    """The inverse of `error_as_json`; a kind that is none of ours becomes the base of them."""
    found = getattr(errors, kind, None)
    return (found if isinstance(found, type) and issubclass(found, MegacharError) else MegacharError)(text)


def _decode(kind: TypeAdapter[Message], rank: int, text: torch.Tensor) -> Message:
    try:
        return kind.validate_json(text.numpy().tobytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _stranger(rank, f"sent what is not understood ({first['msg']})") from error


def _stranger(rank: int, what: str) -> PlatformError:
    return PlatformError(f"rank {rank} {what}; is it a rank of this run, and of the same megachar?")
