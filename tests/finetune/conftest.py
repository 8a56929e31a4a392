"""What the tests of fine-tuning share: a pretrained encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixvec import SpeechEncoder
from tests.tiny_models import encoder


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny encoder."""
    folder, made = tmp_path_factory.mktemp("pretrained") / "encoder", encoder()
    assert isinstance(made, SpeechEncoder)
    made.save_pretrained(folder)
    return folder
