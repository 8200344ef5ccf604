"""Runs the commands shown in the guide and writes what they print below them.

``python docs/refresh.py --data-dir ../shared/data`` works in a scratch folder (kept with ``--work``), page after page
in the order of ``PAGES``: a ``python`` block is run; a line ``$ command`` of a ``console`` block is run by bash, and
its standard output (and the error line of a command that fails) replaces what stood below it. Takes some minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PAGES = ("first-run.md", "comparing.md", "report.md", "data.md", "exit-codes.md")
MOST = 30
"""Lines shown of one command."""
TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
ENVIRONMENT = os.environ | {"PATH": TOOLS, "COLUMNS": "110"}


def run(command: list[str], work: Path) -> str:
    done = subprocess.run(command, cwd=work, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    shown = done.stdout.rstrip("\n")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    text = "\n".join([*([shown] if shown else []), *errors])
    return text.replace(str(work), ".").replace(str(Path.home()), "~")


def console(block: str, work: Path) -> str:
    parts = []
    for command in re.findall(r"^\$ (.+)$", block, re.M):
        print("$", command, flush=True)
        lines = [line.rstrip()[:140] for line in run(["bash", "-c", command], work).splitlines()]
        cut = [*lines[:MOST], "..."] if len(lines) > MOST + 1 else lines
        parts.append("\n".join([f"$ {command}", *cut]))
    return "\n".join(parts) + "\n"


def refresh(page: Path, work: Path) -> None:
    def replace(match: re.Match[str]) -> str:
        kind, block = match[1], match[2]
        if kind == "python":
            subprocess.run([sys.executable, "-c", block], cwd=work, check=True, env=ENVIRONMENT)
            return match[0]
        return f"```console\n{console(block, work)}```"

    text = page.read_text(encoding="utf-8")
    page.write_text(re.sub(r"```(python|console)\n(.*?)```", replace, text, flags=re.S), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("pages", nargs="*", default=PAGES)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (args.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "data").exists():
            (work / "data").symlink_to(args.data_dir.resolve())
        for page in args.pages:
            refresh(HERE / page, work)


if __name__ == "__main__":
    main()
