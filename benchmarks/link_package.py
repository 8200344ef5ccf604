"""Put a package of this environment into another one without copying it. ``link_package.py PACKAGE ENVIRONMENT``.

The other environment has the same Python and gets hard links (copies on another disk) of the package's own files and
metadata, compiled files included; its requirements are left to the installer, which finds the package there.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path


def main(package: str, environment: Path) -> None:
    ask = [environment / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    here = Path(sysconfig.get_path("purelib"))
    for name in map(Path, metadata.files(package) or ()):
        if ".." in name.parts:  # scripts, which name the interpreter of their environment
            continue
        compiled = Path(importlib.util.cache_from_source(str(here / name)))
        for source in (here / name, compiled):
            target = site / source.relative_to(here)
            if source.exists() and not target.exists():
                link(source, target)


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
