"""What every test shares: no network, no credentials, no user's cache; one thread; the same seed before each test."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

# huggingface_hub reads its environment at import, so this comes first. Tests that need a hub start their own on
# loopback; any other look-up meets a closed port and fails at once instead of reaching for the network.
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
    os.environ.pop(name, None)
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="mixvec-tests-")
os.environ["MIXVEC_CACHE"] = os.path.join(os.environ["HF_HOME"], "mixvec")
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

# fairseq2 looks for libsndfile when it is imported and takes the one that soundfile has loaded: soundfile comes first.
import soundfile  # noqa: E402, F401, I001
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: kernels run on the CPU, frame by frame


SLOW = (
    "test_input_forms.py", "test_packaging.py", "data/test_stream.py", "data/test_stream_remote.py",
    "data/test_fuzz.py", "finetune/test_train.py", "finetune/test_health.py", "pretrain/test_bad_input.py",
    "pretrain/test_probe.py", "pretrain/test_train.py", "training/test_faults.py",
    "training/test_restarts.py", "training/test_signals.py",
)  # fmt: skip
"""Files whose tests are whole runs or processes of their own: each of them has the marker slow."""


def pytest_sessionstart() -> None:
    torch.set_num_threads(1)  # toy tensors: more threads only wait for each other
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of ``SLOW``; the slow ones come first, so that no process is left with one alone at the end."""
    for item in items:
        if str(item.path.relative_to(Path(__file__).parent)) in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_sessionfinish() -> None:
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A run that ends in an error keeps its signal handlers, as its process would; the next test starts without."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small synthetic corpus, as `python -m tools.corpus` writes it. Read-only: all tests share it."""
    from tools.corpus import CorpusConfig, write_corpus

    out = tmp_path_factory.mktemp("synthetic") / "corpus"
    write_corpus(
        out,
        CorpusConfig(
            hours=0.02, asr_train=6, asr_validation=3, asr_test=4, intent_train=1, intent_validation=1, intent_test=1
        ),
    )
    return out
