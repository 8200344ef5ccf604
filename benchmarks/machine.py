"""Facts about the machine a measurement was taken on, for the results files."""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any


def facts() -> dict[str, Any]:
    """Processor, cores, load and the versions that decide speed. No names of hosts or folders."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": cpu[1].strip() if cpu else "unknown",
        "cores": os.cpu_count(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        **{package: version(package) for package in ("torch", "transformers", "lm_eval")},
    }
