"""Stand-ins for an evaluation worker, in a module without torch, which a new process imports quickly."""

import os
import time
from multiprocessing.connection import Connection


def die(connection: Connection) -> None:
    """Take the job and end without an answer."""
    connection.recv()
    os._exit(7)


def answer_and_stay(connection: Connection) -> None:
    """Answer once, then hang."""
    connection.send(connection.recv())
    time.sleep(600)
