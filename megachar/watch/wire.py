"""What a rank and its hub say to each other: lines of JSON, of one of these types, of bounded length.

    rank -> hub   Opening
    hub -> rank   Reply            it has the secret
    rank -> hub   Greeting         so has the rank, which says who it is; then any of
                  Beat  Failed  Asked  Left
    hub -> rank   Order            any number of them

A connection that has not come to its greeting is a stranger's, and gets little room and time.
"""

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from megachar.base.files import json_text
from megachar.watch.failure import Failure
from megachar.watch.secret import Secret

STRANGER_BYTES, STRANGER_SECONDS = 1024, 5.0
"""What a connection may send, and how long it may last, until it has shown that it belongs to the run."""
STRANGERS = 64
"""Connections, beside those that are expected, that may stand without it; a further one ends the oldest."""
TRIES = 2
"""Of an address that answers, but not as ours does: strangers may fill its door for a moment."""
MESSAGE_BYTES = 1 << 20
"""And what a line of a rank may have: a failure has a traceback."""

Step = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(max_length=1000)]
Digest = Annotated[str, Field(max_length=128)]
ProcessNumber = Annotated[int, Field(gt=1)]


class Message(BaseModel):
    """What may come over the network: of these types, with nothing else beside them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Opening(Message):
    """A rank's first word: a number that was never used before."""

    nonce: Digest


class Reply(Message):
    """The hub's own, with the proof that it has the secret."""

    nonce: Digest
    proof: Digest


class Greeting(Message):
    """Who a rank is."""

    rank: Annotated[int, Field(ge=0)]
    host: Annotated[str, Field(max_length=255)]
    machine: Annotated[str, Field(max_length=400)]
    """`machine_name` of it."""
    pid: ProcessNumber
    proof: Digest = ""

    def signed(self, secret: Secret, nonces: tuple[str, str]) -> "Greeting":
        """With the proof that whoever says so has the secret."""
        return self.model_copy(update={"proof": secret.proof("rank", *nonces, *self._words())})

    def is_true(self, secret: Secret, nonces: tuple[str, str]) -> bool:
        """Whether it carries that proof."""
        return secret.proves(self.proof, "rank", *nonces, *self._words())

    def _words(self) -> tuple[str, ...]:
        return str(self.rank), self.host, self.machine, str(self.pid)


class Beat(Message):
    """A rank is alive."""

    step: Step | None
    """Steps taken; None before the first."""
    saved: Step | None
    """Step of the newest checkpoint."""
    idle: Annotated[float, Field(ge=0)]
    """Seconds without progress."""
    waits: bool
    """Whether it waits for other ranks."""
    place: Text


class Failed(Message):
    """A rank fails, or sees that what had started it is gone."""

    failure: Failure


class Asked(Message):
    """A rank is asked to leave."""

    preempt: Text


class Left(Message):
    """A rank ends of its own accord, with this status."""

    left: Annotated[int, Field(ge=0, le=255)]


class Order(Message):
    """What the hub says: nothing, which is a heartbeat, or one of these."""

    verdict: Failure | None = None
    """End now, because of this;"""
    abort: tuple[ProcessNumber, ...] = ()
    """and abort those processes of your machine."""
    preempt: Text | None = None
    """Save and leave."""
    released: bool = False
    """Go on without the hub."""
    refused: Text | None = None
    """Why this rank is not taken."""


FROM_RANK: TypeAdapter[Beat | Failed | Asked | Left] = TypeAdapter(Beat | Failed | Asked | Left)


def encode(message: BaseModel) -> bytes:
    """A message as its line."""
    return message.model_dump_json(exclude_defaults=True).encode() + b"\n"


def greet(connection: socket.socket, who: Greeting, secret: Secret) -> None:
    """Say who connects to a hub, once it has shown that it has the secret.

    Raises:
        OSError: it does not answer.
        ValueError: it is another program.
    """
    own = secrets.token_hex(16)
    connection.settimeout(STRANGER_SECONDS)
    connection.sendall(encode(Opening(nonce=own)))
    reply = Reply.model_validate_json(receive_line(connection))
    if not secret.proves(reply.proof, "hub", own, reply.nonce):
        raise ValueError("what answers does not have the secret of the run")
    connection.sendall(encode(who.signed(secret, (own, reply.nonce))))


def receive_line(connection: socket.socket) -> bytes:
    """What a stranger says until the end of its line, or as much as it may say. `OSError` if it says nothing more."""
    line = b""
    while not line.endswith(b"\n") and len(line) <= STRANGER_BYTES:
        data = connection.recv(STRANGER_BYTES)
        if not data:
            raise ConnectionResetError("it ended the connection")
        line += data
    return line


class Lines:
    """The lines of a connection, none of them longer than it may be."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader, self._received = reader, b""

    async def next(self, limit: int) -> bytes:
        """The next line; nothing once there is none.

        Raises:
            ValueError: it has more than `limit` bytes.
        """
        while b"\n" not in self._received:
            if len(self._received) > limit:
                raise ValueError(f"a line of more than {limit} bytes")
            data = await self._reader.read(min(limit, 1 << 16))
            if not data:
                return b""
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line


class Strangers:
    """The connections of a listener that have not yet shown that they belong to the run."""

    def __init__(self, num_expected: int) -> None:
        """`num_expected` of ours may come at once."""
        self._most = num_expected + STRANGERS
        self._writers: dict[asyncio.StreamWriter, None] = {}

    @contextmanager
    def with_one(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        """While a connection shows it. The oldest makes room where there are too many."""
        while len(self._writers) >= self._most:
            oldest = next(iter(self._writers))
            del self._writers[oldest]
            oldest.transport.abort()
        self._writers[writer] = None
        try:
            yield
        finally:
            self._writers.pop(writer, None)


def plain(error: Exception) -> str:
    """Why a message was not understood, in one short line that a terminal can show, whatever was sent."""
    text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return json_text(text[:200])[1:-1]
