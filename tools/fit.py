"""Find the largest batch.max_s that fits into the memory of a GPU, before a pretraining starts.

    python -m tools.fit configs/base.yaml data.max_s=20

The keys are those of python -m pretrain, and no audio is needed: whole updates of noise are tried, with gradients and
AdamW's moments, in utterances of data.max_s. The first size is batch.update_s, and each further one is a tenth smaller.
A tenth of the free memory is left over.
"""

from __future__ import annotations

import torch
from accelerate.utils import find_executable_batch_size

from mixvec.errors import UserError, run_cli
from mixvec.training.config import load_config
from pretrain.config import PretrainConfig
from tools import command_parser
from tools.bench.ours import learner, update

SHARE = 0.9


def main() -> None:
    parser = command_parser("fit", __doc__)
    parser.add_argument("keys", metavar="CONFIG.yaml | key=value", nargs="+", help="as python -m pretrain takes them")
    config = load_config(PretrainConfig, parser.parse_args().keys, __doc__ or "")
    if not torch.cuda.is_available():
        raise UserError(
            "no CUDA device here: on a CPU, compare batch.max_s with the memory of the first updates (memory_mb)"
        )
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(SHARE * free / total)
    print(f"{torch.cuda.get_device_name()}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free")

    def fits(clips: int) -> float:
        print(f"  batch.max_s={clips * config.data.max_s:g} ...", flush=True)
        work = update(learner, (config,), clips, config.data.max_s, "cuda")
        work.step()
        work.step()  # with the moments that the first one has made
        return clips * config.data.max_s

    most = max(1, int(config.batch.update_s / config.data.max_s))
    try:
        found = find_executable_batch_size(fits, starting_batch_size=most)()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise UserError("not one utterance of data.max_s fits: lower data.max_s, set encoder.checkpointing=true, "
                        "or take a smaller size") from error  # fmt: skip
    print(f"batch.max_s={found:g} is the largest that fits; now {config.batch.max_s:g}")


if __name__ == "__main__":
    run_cli(main)
