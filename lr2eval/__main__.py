"""The command ``lr2eval``, also ``python -m lr2eval``."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Start the command line. If it cannot even be imported, the exit code is 70: Python's own 1 means regression."""
    try:
        from lr2eval.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException as error:
        print(f"error: lr2eval is not installed correctly ({error!r}); install it again", file=sys.stderr)
        sys.exit(70)
    run()


if __name__ == "__main__":
    main()
