"""``python -m finetune CONFIG.yaml [key=value ...]``"""
# ruff: noqa: E402, F401

from mixvec.parent import follow_torchrun

follow_torchrun()  # before the imports, which take seconds

import sys

import soundfile  # before the others: its wheel carries the libsndfile that fairseq2 asks for

from mixvec.errors import run_cli
from mixvec.training.config import load_config
from mixvec.training.faults import first_failure_first

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
