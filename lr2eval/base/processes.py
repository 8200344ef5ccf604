"""Starting processes from whatever script a user runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def main_is_not_run_again() -> Iterator[None]:
    """A process that is started meanwhile (``spawn``) does not run the user's script first, as it otherwise would.

    A script without ``if __name__ == "__main__"`` would make the same call of ours again, in each process, and wait
    there for the lock that this one holds. Our processes need nothing that the script defines.
    """
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.update(__file__=None, __spec__=None)
    try:
        yield
    finally:
        main.update(kept)
        if "__file__" not in kept:
            del main["__file__"]
