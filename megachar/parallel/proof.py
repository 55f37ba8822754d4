"""The first thing that ranks tell each other: that they belong to the same run."""

import secrets
import socket
from pathlib import Path

from pydantic import TypeAdapter

from megachar.base.errors import ConfigError, PlatformError
from megachar.parallel.mesh import Mesh
from megachar.parallel.messages import gather
from megachar.watch.secret import Secret

_OPENING = TypeAdapter(tuple[str, str, str])
"""Rank 0's name of the secret, a number that was never used before, and why rank 0 could not write it."""
_ANSWER = TypeAdapter(tuple[str, str, str])
"""The proof, the rank's host, and why it has none."""


def prove_membership(mesh: Mesh, folder: Path) -> Secret:
    """Every rank shows all others that it can read a new secret of rank 0's in the run folder; returns that secret.

    Nobody learns it by that, and what was shown once shows nothing another time. torch's store, by which ranks find
    each other before this, asks for no proof.

    Raises:
        ConfigError: on every rank: rank 0 cannot write.
        PlatformError: on every rank of the run: some rank has not shown it.
    """
    own, problem = (Secret.new() if mesh.is_main else None), ""
    try:
        if own is not None:
            own.write(folder)
    except ConfigError as error:
        problem = str(error)
    try:
        opening = gather(_OPENING, (own.name if own else "", secrets.token_hex(16), problem), mesh.control_group)
        if opening[0][2]:
            raise ConfigError(opening[0][2][:1000])
        nonces = [nonce for _, nonce, _ in opening]
        try:
            secret = own or Secret.read(folder, opening[0][0])
        except PlatformError as error:
            secret, problem = Secret.new(), str(error)
        proof = secret.proof("rank", str(mesh.rank), *nonces)
        answers = gather(_ANSWER, (proof, socket.gethostname(), problem), mesh.control_group)
    finally:
        if own is not None:
            own.remove(folder)
    if problem:
        raise PlatformError(problem)
    for rank, (other, host, why) in enumerate(answers):
        if why or not secret.proves(other, "rank", str(rank), *nonces):
            raise PlatformError(f"rank {rank} on {host[:80]!r} has not shown that it belongs to this run "
                                f"({why[:400] or 'its proof is wrong'}); see what else connects to port MASTER_PORT of "
                                f"the first host")  # fmt: skip
    return secret
