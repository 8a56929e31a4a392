"""The version of mixvec, in a module of its own so that what writes it into files imports nothing else."""

__version__ = "0.1.0"
