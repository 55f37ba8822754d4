"""The store of torch.distributed, by which ranks find each other: on one machine, nobody else reaches it."""

import os
import socket
from datetime import timedelta

import torch.distributed as dist

LOOPBACK_NAMES = ("127.0.0.1", "localhost")
"""A MASTER_ADDR that says that all ranks are on one machine. A host's own name may lead there too, and says nothing."""


def serve_on_loopback() -> dist.Store | None:
    """On rank 0, where MASTER_ADDR is the loopback: serve the ranks' store there, at MASTER_PORT.

    torch itself would listen on all interfaces. What it opens at this port later, in this process, is this store, which
    lives until the last that holds it is gone. A MASTER_PORT of 0 is replaced by that of the store.

    Returns:
        None where another serves it: a process of torchrun's, or this one already; and where the port is taken, of
        which torch complains.
    """
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if os.environ["RANK"] != "0" or os.environ["MASTER_ADDR"] not in LOOPBACK_NAMES or agent:
        return None
    try:
        listener = socket.create_server(("127.0.0.1", int(os.environ["MASTER_PORT"])))
    except OSError:
        return None
    port = int(listener.getsockname()[1])
    store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, multi_tenant=True,
                          timeout=timedelta(minutes=1), master_listen_fd=listener.detach())  # fmt: skip
    os.environ["MASTER_PORT"] = str(port)
    return store
