"""Several models and baselines on all tasks that the data at hand allow, frozen or fine-tuned, in one table.

    python -m tools.probe runs/small runs/other --data DATA --baselines log-mel,random
    python -m tools.probe "runs/small-{seed}" --data DATA --baselines scratch --seeds 3 --finetune
    python -m tools.probe runs/small --data DATA --tasks intent,speaker --plot weights.png run.updates=500

DATA holds corpora as audiofolders, DATA/CORPUS/{train,validation,test}/metadata.jsonl (or .csv), and the labels in them
choose the tasks: text is probed by recognition (asr), intent or label by classification (intent), slots or entities by
slot filling (slots), speaker by verification (speaker), emotion and language by classification. The encoder is frozen,
heads and schedules are those of configs/probe/*.yaml; --finetune trains the encoder too, after configs/*.yaml.
key=value changes them for all, such as cache.dir=DIR, which computes the frames of a frozen model once for all heads.
With --seeds N each is repeated N times, and {seed} in the name of a model is replaced by 0, 1, ..., so that each repeat
takes a pretraining of its own. The table is in OUT/probes.md and OUT/probes.json, written after each run. A run that is
complete is not repeated; one that fails is noted, and the others continue.
"""
