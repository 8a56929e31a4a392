"""What is wrong with this machine or this run, and the command that mends it; a line for each check.

    python -m tools.doctor                       the machine, and the disk that runs/ is on
    python -m tools.doctor runs/base             that run too: its lock, its newest checkpoint, room for the next
    python -m tools.doctor --json doctor.json    the same for programs

It changes nothing, looks nothing up outside this machine, and takes at most 20 seconds. Whatever may crash on import is
imported in a process of its own. The exit code is 1 where a line says ``wrong``.
"""
