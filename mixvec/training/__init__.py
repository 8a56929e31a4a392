"""[train] What any training run needs: directory, checkpoints, optimiser, signals, faults, logging."""
