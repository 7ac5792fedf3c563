"""``python -m idarts_nni`` is the ``idarts`` command."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
