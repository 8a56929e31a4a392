"""``python -m mixvec``: the same as the ``mixvec`` command."""

from .cli import main

if __name__ == "__main__":
    main()
