"""``python -m finetune CONFIG.yaml [key=value ...]``"""
# ruff: noqa: F401

import ctypes
import os
import signal
import sys

if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
    # PR_SET_PDEATHSIG: a rank ends when torchrun is killed and cannot end it. First, as importing mixvec takes seconds.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)

import soundfile  # before the others: its wheel carries the libsndfile that fairseq2 asks for

from mixvec.errors import run_cli
from mixvec.training.config import load_config
from mixvec.training.device import first_failure_first

from .config import FinetuneConfig
from .train import train

USAGE = (
    "usage: python -m finetune CONFIG.yaml pretrained=RUN data.train=DIR "
    "[data.valid=DIR] [data.test=DIR] [key=value ...]"
)


def main() -> None:
    config = load_config(FinetuneConfig, sys.argv[1:], USAGE)
    with first_failure_first(config.run):
        code = train(config)
    sys.exit(code)


if __name__ == "__main__":
    run_cli(main)
