"""Time and memory of ours, of attention and of other frameworks: the same shapes, in one run, on one machine.

    python -m tools.bench                                  every suite on the CPU, at the sizes that matter (an hour)
    python -m tools.bench mixers update --repeats 7        some of them
    python -m tools.bench --preset gpu --json gpu.json     one CUDA device, bf16
    python -m tools.bench --preset smoke                   toy shapes, to see that everything runs

Each system runs in a process of its own; they take turns, so that other load on the machine hits all alike. A ratio
is taken to the first system of its case, in the same run. A framework that is not installed is a line of the table.
"""
