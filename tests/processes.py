"""Starting processes that a test will interrupt."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence

_HEARING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"


def interruptible(command: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """A process in a group of its own that hears Ctrl-C, even where the tests run in the background of a shell: such
    a shell has its jobs ignore the signal, and children inherit that."""
    return subprocess.Popen(
        [sys.executable, "-c", _HEARING, *command],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
