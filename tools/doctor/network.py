"""What ranks meet through on this machine, and what is set for the hub. Nothing outside the machine is asked."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from .finding import Finding, probe
from .packages import pip

TORCHRUN_PORT = 29500
HANDSHAKE = """
import datetime, os, socket, sys, torch
import torch.distributed as ranks
print("torch", flush=True)
with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
child = os.fork()
ranks.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=int(child == 0), world_size=2,
    timeout=datetime.timedelta(seconds=10),
)
total = torch.ones(1)
ranks.all_reduce(total)
ranks.destroy_process_group()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
print(int(total))
"""


def port() -> Finding:
    """The one that the ranks' store will listen on, where this machine is the first."""
    stated = os.environ.get("MASTER_PORT")
    if stated is not None and not (stated.isdigit() and 0 < int(stated) < 65536):
        return Finding("wrong", f"MASTER_PORT={stated!r} is no port", "unset MASTER_PORT")
    number, address = int(stated or TORCHRUN_PORT), os.environ.get("MASTER_ADDR", "127.0.0.1")
    try:
        socket.getaddrinfo(address, number)
    except OSError as error:
        mend = "export MASTER_ADDR=127.0.0.1 (one machine), or the first machine's name"
        return Finding("wrong", f"MASTER_ADDR={address}: {error.strerror}", mend)
    try:
        with socket.create_server(("", number)):
            return Finding("ok", f"{number} is free")
    except OSError as error:
        evidence = f"{number}: {error.strerror}"
    if stated:
        return Finding("wrong", f"MASTER_PORT={evidence}", f"export MASTER_PORT={free_port()}")
    return Finding("warning", f"torchrun's {evidence}", "torchrun --standalone (which chooses one that is free)")


def handshake() -> Finding:
    """Two processes add a number each through gloo."""
    answer, failure = probe(HANDSHAKE)
    if answer == "2":
        return Finding("ok", "two processes met through gloo")
    if not answer:
        return Finding("wrong", f"not tried, torch cannot be imported: {failure}", pip("--force-reinstall", "torch"))
    interface = os.environ.get("GLOO_SOCKET_IFNAME")
    mend = "export GLOO_SOCKET_IFNAME=lo" if interface is None else "unset GLOO_SOCKET_IFNAME"
    return Finding("wrong", f"two processes did not meet through gloo: {failure}", mend)


def hub() -> Finding:
    """Whether there is a token, never which."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("warning", "HF_HUB_OFFLINE is set: nothing is fetched or published", "unset HF_HUB_OFFLINE")
    if os.environ.get("HF_TOKEN"):
        return Finding("ok", "a token is set in HF_TOKEN")
    path = Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token")
    if not path.is_file():
        return Finding("ok", "no token; publishing and gated data need one (hf auth login)")
    if path.stat().st_mode & 0o077:
        return Finding("warning", f"a token, which others may read: {path}", f"chmod 600 {path}")
    return Finding("ok", f"a token is in {path}")


def hub_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(os.environ.get("HF_HOME") or f"{cache}/huggingface"))


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])
