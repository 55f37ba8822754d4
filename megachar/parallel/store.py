"""Where the ranks of one machine listen for each other: nobody elsewhere reaches torch's store, gloo, or NCCL."""

import os
import socket
from datetime import timedelta

import psutil
import torch.distributed as dist

LOOPBACK_NAMES = ("127.0.0.1", "localhost")
"""A MASTER_ADDR that says that all ranks are on one machine. A host's own name may lead there too, and says nothing."""
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Which interface a library listens on; what a user has set stays."""


def stay_on_loopback() -> dist.Store | None:
    """Where MASTER_ADDR is the loopback: have gloo and NCCL stay there, and on rank 0 serve the ranks' store there.

    torch itself would listen on all interfaces. What it opens at MASTER_PORT later, in this process, is this store,
    which lives until the last that holds it is gone. A MASTER_PORT of 0 is replaced by that of the store.

    Returns:
        None where another serves it: a process of torchrun's, or this one already; and where the port is taken, of
        which torch complains.
    """
    if os.environ["MASTER_ADDR"] not in LOOPBACK_NAMES:
        return None
    for name, entries in psutil.net_if_addrs().items():
        if "127.0.0.1" in (entry.address for entry in entries):
            for variable in INTERFACE_VARIABLES:
                os.environ.setdefault(variable, name)
    if os.environ["RANK"] != "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
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
