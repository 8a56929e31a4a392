"""Publishing whose client is killed while the hub has its n-th request: the hub holds the old model or the new one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mixvec.hub import save_folder
from tests.hub_server import HubServer
from tests.runs import ROOT
from tests.tiny_models import TOKEN, recogniser

PUBLISH = "from mixvec.errors import run_cli; from tools import publish; publish.check = print; run_cli(publish.main)"


class KillingHub(HubServer):
    """Kills ``victim`` while it handles the request after which ``left`` is 0."""

    victim: subprocess.Popen[str] | None = None
    left = 0

    def fault(self, request: str) -> str | None:
        self.left -= 1
        if self.left == 0 and self.victim is not None:
            self.victim.kill()
        return super().fault(request)


@pytest.mark.soak
def test_a_killed_client_leaves_one_whole_model(tmp_path: Path) -> None:
    """20 kills, one at each request of an upload and its verification in turn; nothing whole is sent twice."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    with KillingHub(token=TOKEN) as hub:
        env |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
        killed = 0
        for number in range(int(os.environ.get("KILLS", "20"))):
            torch.manual_seed(number)
            save_folder(recogniser(), tmp_path / "run/hub", {"licence": "mit", "language": "en", "updates": number})
            before = len(hub.repos["org/asr"].commits) if "org/asr" in hub.repos else 1
            words = [sys.executable, "-c", PUBLISH, str(tmp_path / "run"), "--to", "org/asr"]
            hub.left = 0
            hub.victim = subprocess.Popen(
                words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            hub.left = 1 + number % 9
            hub.victim.communicate(timeout=300)
            killed += hub.victim.returncode == -signal.SIGKILL
            files = hub.files("org/asr") if "org/asr" in hub.repos else {}
            if files:
                assert len(hub.repos["org/asr"].commits) - before <= 1
                recorded = json.loads(files["config.json"])["sha256"]
                assert {name: hashlib.sha256(files[name]).hexdigest() for name in recorded} == recorded
        assert killed == int(os.environ.get("KILLS", "20"))
        assert all(sum(f"PUT /lfs/{oid}" in line for line in hub.log) == 1 for oid in hub.objects), "sent once"
