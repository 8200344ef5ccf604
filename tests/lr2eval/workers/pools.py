"""The pool of ``benchmarks/schedule.py``: real scheduling, workers on a fake clock."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def schedule() -> Any:
    """The module, loaded once."""
    if "schedule" not in sys.modules:
        sys.path.insert(0, str(BENCHMARKS))
        try:
            spec = importlib.util.spec_from_file_location("schedule", BENCHMARKS / "schedule.py")
            assert spec is not None
            assert spec.loader is not None
            sys.modules["schedule"] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules["schedule"])
        finally:
            sys.path.remove(str(BENCHMARKS))
    return sys.modules["schedule"]
