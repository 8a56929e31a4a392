"""Kill a two-rank pretraining, and a fine-tuning of its result, again and again; see that neither loses anything.

    python -m tools.soak                 50 faults, 5 minutes on 2 idle cores; everything in runs/soak
    python -m tools.soak --faults 5      a few of them

Each run is done twice by the same command, on speech synthesised here: once left alone, and once struck at random
moments (``plan.KINDS``) and started again after each fault. In the end both must be equal bit for bit: weights,
optimizer, generators, the model folder, scores and, but for times, every row of metrics.jsonl. A table says what was
injected and what it cost, ``results.json`` all of it. Exit code 1 where anything is not as it should be.
"""
