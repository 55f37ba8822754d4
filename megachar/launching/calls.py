"""Without ssh the other hosts call the first one before a start, and both show that they have the same run folder.

host -> first host   Call
first host -> host   Answer     with the proof that it has a secret, which is in the run folder
host -> first host   Proof      so has the host; from now on it answers questions (`megachar.launching.probe`)
"""

import asyncio
import secrets
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

from pydantic import Field

from megachar.base.errors import PlatformError
from megachar.base.strict_json import checksum
from megachar.launching.plan import LaunchPlan
from megachar.watch.secret import SEEN_SECONDS, Secret
from megachar.watch.wire import (
    STRANGER_BYTES,
    STRANGER_SECONDS,
    Digest,
    Lines,
    Message,
    Strangers,
    encode,
    receive_line,
)

TakeCall = Callable[["Call", asyncio.StreamReader, asyncio.StreamWriter], None]


class Call(Message):
    """Which host calls."""

    node_rank: Annotated[int, Field(ge=0)]
    host_name: Annotated[str, Field(max_length=255)]
    settings: Digest
    """Of what it was told to start."""
    nonce: Digest


class Answer(Message):
    """Name of the secret, and the proof."""

    secret: Digest
    nonce: Digest
    proof: Digest


class Proof(Message):
    """The caller's."""

    proof: Digest


def settings_of(plan: LaunchPlan) -> str:
    """What has to be the same on all hosts that start a run, in short."""
    settings = [plan.experiment.model_dump(mode="json"), [asdict(host) for host in plan.hosts], plan.resume]
    return checksum(settings)


def call(connection: socket.socket, plan: LaunchPlan) -> None:
    """Say which host this is, and see that what answers is the first host.

    Raises:
        PlatformError: it is something else, or has another run folder.
    """
    own = Call(node_rank=plan.node_rank, host_name=socket.gethostname(), settings=settings_of(plan),
               nonce=secrets.token_hex(16))  # fmt: skip
    try:
        connection.settimeout(STRANGER_SECONDS)
        connection.sendall(encode(own))
        answer = Answer.model_validate_json(receive_line(connection))
        secret = Secret.read(plan.folder.launch, answer.secret)
        if not secret.proves(answer.proof, "first host", own.nonce, answer.nonce):
            raise ValueError("it does not have the secret of the start")
        connection.sendall(encode(Proof(proof=secret.proof("host", own.nonce, answer.nonce, str(plan.node_rank)))))
        connection.settimeout(None)
    except (OSError, ValueError) as error:
        raise PlatformError(f"what answers is not the first host of this run: {error}") from error


async def take_calls(plan: LaunchPlan, secret: Secret, take: TakeCall) -> asyncio.Server:
    """Listen at the plan's port; `take` gets the calls of those who have the secret, all others are hung up on.

    So many of them at once as the hub of the ranks takes.

    Raises:
        OSError: the port is taken.
    """

    strangers = Strangers(len(plan.hosts))

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with strangers.with_one(writer):
                seconds = SEEN_SECONDS + STRANGER_SECONDS
                found = await asyncio.wait_for(_identify(Lines(reader), writer, secret), seconds)
        except (OSError, ValueError, asyncio.TimeoutError):  # not one of us
            writer.close()
            return
        take(found, reader, writer)

    return await asyncio.start_server(attend, "", plan.master_port)


async def _identify(lines: Lines, writer: asyncio.StreamWriter, secret: Secret) -> Call:
    found = Call.model_validate_json(await lines.next(STRANGER_BYTES))
    nonce = secrets.token_hex(16)
    writer.write(encode(Answer(secret=secret.name, nonce=nonce, proof=secret.proof("first host", found.nonce, nonce))))
    given = Proof.model_validate_json(await lines.next(STRANGER_BYTES))
    if not secret.proves(given.proof, "host", found.nonce, nonce, str(found.node_rank)):
        raise ValueError("it does not have the secret of the start")
    return found
