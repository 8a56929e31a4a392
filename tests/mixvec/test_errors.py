"""What a command says when it ends: one line, a code, no traceback."""

from __future__ import annotations

import subprocess

import pytest

from mixvec import UserError
from tests import prepared

THREAD = """
import errno, threading
from mixvec.errors import run_cli

def write():
    raise {error}

def main():
    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    raise OSError(errno.ENOSPC, "full")

run_cli(main)
"""


def ended(code: str) -> subprocess.CompletedProcess[str]:
    return prepared.run(["-c", code])


@pytest.mark.slow
def test_a_full_disk_met_by_a_thread_is_reported_once_and_other_faults_keep_their_traceback() -> None:
    done = ended(THREAD.format(error="OSError(errno.ENOSPC, 'full')"))
    assert done.returncode == 1
    assert done.stderr == "error: no space left on device: free some space or choose another location, then rerun\n"
    assert "ZeroDivisionError" in ended(THREAD.format(error="ZeroDivisionError()")).stderr


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (r"UserError('a\nb\r.wav: too short')", "error: a b .wav: too short\n", 1),
        ("KeyboardInterrupt()", "interrupted\n", 130),
        ("PermissionError(13, 'no', '/root/x')",
         "error: permission denied (/root/x): fix this or choose another location, then rerun\n", 1),
        ("OSError(28, 'full', '/from', None, '/to')",
         "error: no space left on device (/to): free some space or choose another location, then rerun\n", 1),
    ],
)  # fmt: skip
def test_each_ends_in_one_line(error: str, line: str, code: int) -> None:
    done = ended(f"from mixvec.errors import *\ndef main(): raise {error}\nrun_cli(main)")
    assert (done.stderr, done.returncode) == (line, code)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("https://me:word@host/a b.wav: gone", "https://***@host/a b.wav: gone"),
        ("https://token@host/a", "https://***@host/a"),
        ("sftp://me:w@rd@host:22/a and s3://bucket/b", "sftp://***@host:22/a and s3://bucket/b"),
        ("abfs://container@account.net/a", "abfs://container@account.net/a"),
        ("data.train=https://host/a b.tar?token=x/y: no", "data.train=https://host/a b.tar?***: no"),
        ("('http://h/a?b=c', 'http://h/d?e=f.') why?", "('http://h/a?***', 'http://h/d?***.') why?"),
        ("did you mean data.train=https://host/train?", "did you mean data.train=https://host/train?"),
        ("s3://bucket/what?.wav, me@home: gone", "s3://bucket/what?.wav, me@home: gone"),
    ],
)
def test_what_is_secret_in_a_url_is_left_out(said: str, told: str) -> None:
    assert str(UserError(said)) == told
