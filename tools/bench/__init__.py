"""Ours against attention and against the other frameworks: the same shapes, the same work, one run, one machine.

    python -m tools.bench                                  every suite on the CPU, at the sizes that matter (an hour)
    python -m tools.bench mixer objective --repeats 7      some of them
    python -m tools.bench --preset gpu --json gpu.json     one CUDA device, bf16, within nine minutes
    python -m tools.bench --preset smoke --plot cost.png   toy shapes, to see that everything runs

Suites: ``mixer`` (and whole blocks), ``objective``, ``update``, ``inference``, ``data``, ``checkpoint``. A framework
that is not installed is named in the table and the rest goes on; so is a shape that does not fit into memory.
"""
