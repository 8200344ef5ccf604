"""Fail unless the wheel holds every file of the package that git knows, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile

FOLDERS = {"lr2eval": "lr2eval", "tasks": "lr2eval/tasks", "reports": "lr2eval/reports", "method": "lr2eval/method"}
LINKS = {"lr2eval/tasks", "lr2eval/reports", "lr2eval/method"}


def main(wheel: str) -> int:
    tracked = subprocess.run(["git", "ls-files", *FOLDERS], capture_output=True, text=True, check=True).stdout.split()
    expected = set()
    for path in tracked:
        top, _, rest = path.partition("/")
        if path not in LINKS:
            expected.add(f"{FOLDERS[top]}/{rest}")
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    for name in sorted(expected - found):
        print(f"missing from the wheel: {name}")
    for name in sorted(found - expected):
        print(f"in the wheel, not in git: {name}")
    print(f"{len(found)} files in the wheel, {len(expected)} in git")
    return int(found != expected)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
