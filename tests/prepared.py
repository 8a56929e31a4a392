"""Commands in processes that start at once: an interpreter that has imported what they need forks for each of them.

A fresh ``python -m pretrain`` spends three seconds of CPU on imports, and torchrun as much again. What is forked is a
process of its own all the same, with its own arguments, environment, folder, signals and exit code. The tests of
torchrun itself (training/test_restarts.py, training/test_faults.py) and one command of each kind start afresh.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300.0
_server: list[subprocess.Popen[str]] = []


def run(
    words: Sequence[str], ranks: int = 1, folder: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``python -m WORDS``, or a file or ``-c CODE`` with arguments, as so many ranks of one machine.

    Of several ranks the exit code is torchrun's: 1 where any fails, after which the others are terminated.
    """
    shared = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    each = [shared]
    if ranks > 1:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(found.getsockname()[1]), "WORLD_SIZE": str(ranks),
                     "LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": "tests"}  # fmt: skip
        each = [{**shared, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    with tempfile.TemporaryDirectory(prefix="mixvec-prepared-") as kept:
        files = [str(Path(kept, name)) for name in ("out", "err")]
        code = _answered({"words": list(words), "folder": str(folder), "environments": each, "files": files})
        out, err = (Path(file).read_text(errors="replace") for file in files)
    return subprocess.CompletedProcess(list(words), code, out, err)


def _answered(asked: dict[str, Any]) -> int:
    if not _server or _server[0].poll() is not None:
        words = [sys.executable, "-m", "tests.prepared"]
        started = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        _server[:] = [started]
        atexit.register(started.communicate)  # at the end of its input it ends
    server = _server[0]
    assert server.stdin is not None and server.stdout is not None
    print(json.dumps(asked), file=server.stdin, flush=True)
    if not select.select([server.stdout], [], [], TIMEOUT_S)[0]:
        os.killpg(server.pid, signal.SIGKILL)
        raise subprocess.TimeoutExpired(asked["words"], TIMEOUT_S)
    return int(server.stdout.readline())


def serve() -> None:
    """Fork for each line of stdin, and answer with the exit code; in the child, run the command and return."""
    for name in ("soundfile", "sklearn.cluster", "pretrain.train", "finetune.train"):  # in the order of __main__.py
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        children = []
        for environment in asked["environments"]:
            if not (child := os.fork()):
                return become(asked, environment)
            children.append(child)
        print(code_of(children), flush=True)


def code_of(children: list[int]) -> int:
    """The exit code of one process; of several 0 or 1, and the first that fails ends the others."""
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                continue
            codes[child] = os.waitstatus_to_exitcode(status)
            for other in set(children) - set(codes) if codes[child] else ():
                os.kill(other, signal.SIGTERM)
        time.sleep(0.01)
    return codes[children[0]] if len(children) == 1 else int(any(codes.values()))


def become(asked: dict[str, Any], environment: dict[str, str]) -> None:
    """Turn this child into the process of a command, and run it."""
    for number, file in zip((1, 2), asked["files"], strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(asked["folder"])
    module, *arguments = asked["words"]
    sys.argv = [module, *arguments]
    if module == "-c":
        sys.argv = ["-c", *arguments[1:]]
        exec(arguments[0], {"__name__": "__main__"})
    elif module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
