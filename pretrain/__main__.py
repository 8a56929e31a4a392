"""``python -m pretrain CONFIG.yaml [key=value ...]``"""
# ruff: noqa: E402, F401

from mixvec.parent import follow_torchrun

follow_torchrun()  # before the imports, which take seconds

import sys

import soundfile  # before the others: its wheel carries the libsndfile that fairseq2 asks for

from mixvec.errors import run_cli
from mixvec.training.config import load_config
from mixvec.training.faults import first_failure_first

from .config import PretrainConfig
from .train import train

USAGE = "usage: python -m pretrain CONFIG.yaml data.train=DIR [run.dir=DIR] [key=value ...]"


def main() -> None:
    config = load_config(PretrainConfig, sys.argv[1:], USAGE)
    with first_failure_first(config.run):
        code = train(config)
    sys.exit(code)


if __name__ == "__main__":
    run_cli(main)
