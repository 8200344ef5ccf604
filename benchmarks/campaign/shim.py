"""The small C library that counts a command's writes and disturbs the n-th: a kill, a signal, or a full disk.

It has to be there before the process starts, so the campaign starts itself again with LD_PRELOAD. Linux only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
LOADED = "LR2EVAL_CAMPAIGN_SHIM"
"""Names the loaded library, or says why there is none. Set in the second start."""


class Mode(IntEnum):
    """What happens at the n-th write; ``shim.c`` has the same numbers."""

    COUNT = 1
    KILL = 2
    SIGNAL = 3
    FULL = 4


class Moment(IntEnum):
    """When it happens: before the call, after half of its bytes, or after the call."""

    BEFORE = 0
    HALF = 1
    AFTER = 2


@dataclass(frozen=True)
class Disturbance:
    """What happens at write number ``at`` (from 1) below the folder of a command. ``signal`` is for that mode only."""

    mode: Mode
    at: int = 0
    moment: Moment = Moment.BEFORE
    signal: int = 0


class Counter:
    """Numbers that a child writes and the campaign reads, also when the child is dead."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 3 * ctypes.sizeof(ctypes.c_long))
        self.numbers = (ctypes.c_long * 3).from_buffer(self._memory)

    @property
    def calls(self) -> int:
        """Writes so far."""
        return int(self.numbers[0])

    @property
    def bytes(self) -> int:
        """Bytes that they wrote."""
        return int(self.numbers[1])

    @property
    def hit(self) -> int:
        """The write at which something happened; 0: none."""
        return int(self.numbers[2])


def is_settled() -> bool:
    """Whether this process has been started with the library, or cannot be."""
    return LOADED in os.environ


def start_again() -> None:
    """Compile the library and start this process again with it. Returns if that cannot be."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not sys.platform.startswith("linux"):
        os.environ[LOADED] = f"skipped: {sys.platform} has no LD_PRELOAD"
        return
    if compiler is None:
        os.environ[LOADED] = "skipped: there is no C compiler (cc, gcc or clang)"
        return
    folder = Path(tempfile.mkdtemp(prefix="campaign-shim-"))
    library = folder / "shim.so"
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    built = subprocess.run(words, capture_output=True, text=True, check=False)
    if built.returncode:
        shutil.rmtree(folder)
        os.environ[LOADED] = f"skipped: {compiler} cannot compile shim.c ({built.stderr.strip()[-200:]})"
        return
    os.environ |= {LOADED: str(library), "LD_PRELOAD": str(library)}
    os.execv(sys.executable, sys.orig_argv)


def clean_up() -> None:
    """Remove the library. Processes that have loaded it keep it."""
    told = os.environ.get(LOADED, "skipped: ")
    if not told.startswith("skipped: "):
        os.environ.pop("LD_PRELOAD", None)
        shutil.rmtree(Path(told).parent, ignore_errors=True)


def missing() -> str | None:
    """Why writes cannot be disturbed here, or ``None``."""
    told = os.environ.get(LOADED, "skipped: the campaign was not started with the library")
    if told.startswith("skipped: "):
        return told.removeprefix("skipped: ")
    # A loader that refuses LD_PRELOAD only warns.
    return None if hasattr(ctypes.CDLL(None), "campaign_arm") else "the loader did not take LD_PRELOAD"


def arm(folder: Path, what: Disturbance, counter: Counter) -> None:
    """Watch the writes of this process below ``folder`` from now on."""
    found = ctypes.CDLL(None).campaign_arm
    found.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_void_p]
    found(os.fsencode(folder), what.mode, what.moment, what.at, what.signal, ctypes.addressof(counter.numbers))
