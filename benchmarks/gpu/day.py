"""Everything that only a GPU can show, in ten minutes on one H100. `docs/gpu.md` says how to bring it there.

    python benchmarks/gpu/day.py --take-in               # check and keep the parts that lie in .gpu/
    python benchmarks/gpu/day.py --out FOLDER            # run all stages
    python benchmarks/gpu/day.py --out FOLDER --stages backend,training
    python benchmarks/gpu/day.py --rehearse --out FOLDER # the same in tiny sizes on a CPU: the numbers mean nothing
    python benchmarks/gpu/day.py --document docs/gpu.md  # write the table "what ran where" from the committed results

Each stage is a process of its own with a time limit. FOLDER gets one JSON file for each stage, written after each
check, ``day.json``, ``day.txt``, ``day.log`` and ``preparing.log``. Exit code 1: a check failed, a stage was ended at
its limit, or a part is missing or damaged. Exit code 2: there is no GPU, or a wrong argument.

This file needs nothing but Python: packages, model and data are among the parts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARTS = ROOT / ".gpu"
RESULTS = ROOT / "benchmarks" / "results" / "gpu"
SUMS = "SHA256SUMS"
MODEL = "smollm2-135m.gguf"
PREPARING = "preparing.log"
TOTAL = 570.0
"""Seconds for everything: ten minutes with the start of the machine's first Python."""
GRACE = 5.0
"""Seconds between asking a stage to end and ending it."""


@dataclass(frozen=True)
class Stage:
    """A script beside this one. ``seconds`` is its limit on an H100."""

    name: str
    title: str
    seconds: float


STAGES = (
    Stage("backend", "the Hugging Face back end", 90),
    Stage("training", "training", 120),
    Stage("real_model", "SmolLM2-135M, 8k to 32k", 240),
    Stage("throughput", "throughput of an 8B-shaped model", 90),
)


class PartError(Exception):
    """A part is missing or damaged; the text says which and what to do."""


# Parts: the packages, the data and the model in two halves, each a folder with checksums.


def take_in(source: Path, home: Path) -> list[str]:
    """Copy every part that is complete from ``source`` to ``home``. Returns the names of all parts there.

    Raises :class:`PartError` for a file that is missing or is not what its checksum says, after all other parts are in.
    """
    problem = None
    for folder in sorted(path.parent for path in source.glob(f"*/{SUMS}")):
        try:
            check_sums(folder)
        except PartError as error:
            problem = problem or error
            continue
        target = home / "parts" / folder.name
        if target.exists() and (target / SUMS).read_bytes() == (folder / SUMS).read_bytes():
            continue
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
    if problem is not None:
        raise problem
    return sorted(path.parent.name for path in (home / "parts").glob(f"*/{SUMS}"))


def check_sums(folder: Path) -> None:
    """Raises :class:`PartError` unless the folder holds exactly what its checksums say."""
    for line in (folder / SUMS).read_text().splitlines():
        expected, name = line.split()
        path = folder / name
        if not path.is_file():
            raise PartError(f"{folder.name}/{name} is missing; make the part again (make gpu-kit gpu-model)")
        if (found := sha256(path)) != expected:
            raise PartError(
                f"{folder.name}/{name}: sha256 is {found[:16]}..., expected {expected[:16]}...; the file is damaged, "
                "copy the part again"
            )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def install_kit(home: Path, python: str) -> Path | None:
    """The wheels of the kit in a folder for ``PYTHONPATH``, with this project's name and plug-ins beside them.

    ``None`` where this project and lm-eval are installed. Elsewhere a missing kit raises :class:`PartError`.
    """
    kit, site = home / "parts" / "kit", home / "site"
    if installed():
        return None
    if not kit.exists():
        raise PartError("lr2eval is not installed here, and the part kit is missing; make it (make gpu-kit)")
    marker, sums = site / ".kit", (kit / SUMS).read_text()
    if not marker.exists() or marker.read_text() != sums:
        shutil.rmtree(site, ignore_errors=True)
        command = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile",
                   "--disable-pip-version-check", "--target", str(site)]  # fmt: skip
        done = subprocess.run(
            [*command, *map(str, sorted(kit.glob("*.whl")))], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PartError(f"the kit cannot be installed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
        marker.write_text(sums)
    describe_project(site)
    return site


def installed() -> bool:
    """Whether this Python has the project and its largest need, so that the kit would only be in the way."""
    try:
        return all(metadata.distribution(name) for name in ("lr2eval", "lm_eval"))
    except metadata.PackageNotFoundError:
        return False


def describe_project(site: Path) -> None:
    """What an installation of this project would tell about it: tasks are found by their entry points."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = re.search(r'"(.+)"', (ROOT / "lr2eval" / "_version.py").read_text())
    assert version is not None
    folder = site / f"{project['name']}-{version[1]}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version[1]}\n")
    groups = [f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in found.items())
              for group, found in project["entry-points"].items()]  # fmt: skip
    (folder / "entry_points.txt").write_text("\n".join(groups))


def join_model(home: Path) -> None:
    """The model's file from its parts. Raises :class:`PartError` naming the part that is missing."""
    found = sorted((home / "parts").glob(f"model-*/{MODEL}.*of*"))
    count = int(found[0].name.rpartition("of")[2]) if found else 2
    names = [f"{MODEL}.{number}of{count}" for number in range(1, count + 1)]
    if missing := [name for name in names if name not in [path.name for path in found]]:
        raise PartError(f"the model's part {missing[0]} is missing; make it (make gpu-model) and take it in")
    data = home / "parts" / "data"
    if not data.exists():
        raise PartError("the part data is missing; make it (make gpu-model) and take it in")
    with (home / MODEL).open("wb") as file:
        for path in found:
            file.write(path.read_bytes())
    shutil.copy(data / "data.tar.xz", home / "data.tar.xz")


# Running


def environment(home: Path, site: Path | None) -> dict[str, str]:
    """Of every stage: this tree and the kit, a cache of its own, no network, no progress bars."""
    paths = [str(ROOT), *([str(site)] if site else []), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path), "LR2EVAL_CACHE": str(home / "cache"),
        "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def command(script: str, home: Path, work: Path, rehearse: bool) -> list[str]:
    base = [sys.executable, str(HERE / f"{script}.py"), "--home", str(home), "--work", str(work)]
    return [*base, *(["--rehearse"] if rehearse else [])]


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask, then end a stage and everything it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
            return


def run_stage(stage: Stage, seconds: float, out: Path, base: Sequence[str], env: Mapping[str, str]) -> dict[str, Any]:
    """Run a stage for at most ``seconds``; what it wrote, and how it ended."""
    file, began = out / f"{stage.name}.json", time.monotonic()
    file.unlink(missing_ok=True)
    reason = None
    with (out / "day.log").open("ab") as log:
        log.write(f"\n== {stage.name}: {stage.title} ({seconds:.0f} s)\n".encode())
        log.flush()
        process = subprocess.Popen(
            [*base, "--json", str(file), "--seconds", str(seconds - GRACE)],
            stdout=log, stderr=subprocess.STDOUT, env=dict(env), start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code, reason = None, f"ended at its limit of {seconds:.0f} s"
        finally:
            end(process)
    checks = json.loads(file.read_text()) if file.exists() else []
    if code not in (0, None) and not any(check["verdict"] == "FAIL" for check in checks):
        reason = f"ended with exit code {code}: {last_line(out / 'day.log')}; day.log says more"
    if reason:
        checks.append({"check": "the whole stage", "verdict": "FAIL", "said": reason, "seconds": 0.0})
    return {"stage": stage.name, "title": stage.title, "limit": seconds, "checks": checks,
            "seconds": round(time.monotonic() - began, 1)}  # fmt: skip


FACTS = """
import json, platform, torch, transformers
there = torch.cuda.is_available()
found = {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
if there:
    free, total = torch.cuda.mem_get_info()
    found |= {"device": torch.cuda.get_device_name(0), "gpu_gib": round(total / 2**30, 1), "cuda": torch.version.cuda,
              "free_gib": round(free / 2**30, 1), "cudnn": torch.backends.cudnn.version()}
print(json.dumps(found))
"""


def facts(env: Mapping[str, str]) -> dict[str, Any]:
    """Versions, and the GPU if there is one."""
    done = subprocess.run([sys.executable, "-c", FACTS], env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {(done.stderr.strip().splitlines() or ['torch cannot be imported'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def arrange(home: Path, *, rehearse: bool, model: bool) -> tuple[Path | None, str | None]:
    """Take the parts in. Returns (the kit's folder for ``PYTHONPATH``, what is wrong with the parts).

    Whatever is wrong with one part, the others are used: a damaged model must not cost the stages that need none.
    """
    site, problems = None, []
    try:
        if not (rehearse and installed()):
            take_in(PARTS, home)
    except (PartError, OSError) as error:
        problems.append(str(error))
    try:
        site = install_kit(home, sys.executable)
        if model and not rehearse:
            join_model(home)
    except (PartError, OSError) as error:
        problems.append(str(error))
    return site, problems[0] if problems else None


def unprepared(preparing: subprocess.Popen[bytes], seconds: float, out: Path) -> str | None:
    """Wait for the preparation of the real model; why it did not succeed."""
    try:
        code = preparing.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"the preparation did not end within {seconds:.0f} s"
    return None if code == 0 else f"the preparation ended with exit code {code}: {last_line(out / PREPARING)}"


def day(arguments: argparse.Namespace, stages: Sequence[Stage]) -> int:
    """All stages, one after the other. The real model is unpacked beside the stages before its own."""
    out, home, rehearse = arguments.out, arguments.home, arguments.rehearse
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    (out / "day.log").write_text("")
    model = any(stage.name == "real_model" for stage in stages)
    site, problem = arrange(home, rehearse=rehearse, model=model)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
    env = environment(home, site)
    result: dict[str, Any] = {**facts(env), "rehearsal": rehearse, "stages": []}
    if not rehearse and "device" not in result:
        print("error: no GPU; `--rehearse` runs everything in tiny sizes on a CPU", file=sys.stderr)
        return 2
    preparing = None
    with tempfile.TemporaryDirectory(prefix="lr2eval-gpu-") as scratch:
        work = Path(scratch)
        if model and problem is None:
            with (out / PREPARING).open("wb") as log:
                preparing = subprocess.Popen(
                    [*command("real_model", home, work, rehearse), "--prepare"], stdout=log, stderr=subprocess.STDOUT,
                    env=env | ({} if rehearse else {"CUDA_VISIBLE_DEVICES": ""}), start_new_session=True,
                )  # fmt: skip
        try:
            for stage in stages:
                limit = arguments.seconds if rehearse else stage.seconds
                wrong = problem
                if stage.name == "real_model" and preparing is not None:
                    wrong = unprepared(preparing, limit, out)
                limit = max(1.0, min(limit, arguments.seconds - (time.monotonic() - began)))
                if stage.name == "real_model" and wrong is not None:
                    checks = [{"check": "the whole stage", "verdict": "FAIL", "said": wrong, "seconds": 0.0}]
                    found = {
                        "stage": stage.name,
                        "title": stage.title,
                        "limit": limit,
                        "seconds": 0.0,
                        "checks": checks,
                    }
                else:
                    base = [*command(stage.name, home, work, rehearse), *arguments.only]
                    found = run_stage(stage, limit, out, base, env)
                result["stages"].append(found)
                result["seconds"] = round(time.monotonic() - began, 1)
                write(out, result)
                print(table(found), flush=True)
        finally:
            if preparing is not None:
                end(preparing)
    print(summary(result))
    return int(problem is not None or any(check["verdict"] == "FAIL" for _, check in every(result)))


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"


def every(result: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(stage, check) of a result."""
    for stage in result["stages"]:
        for check in stage["checks"]:
            yield stage["stage"], check


def write(out: Path, result: Mapping[str, Any]) -> None:
    (out / "day.json").write_text(json.dumps(result, indent=1) + "\n")
    text = "\n".join([*(table(stage) for stage in result["stages"]), summary(result)])
    (out / "day.txt").write_text(text + "\n")


def table(stage: Mapping[str, Any]) -> str:
    """A stage as text, a line for each check."""
    lines = [f"{stage['title']} ({stage['seconds']:.0f} of {stage['limit']:.0f} s)"]
    lines += [f"  {check['verdict']:<8}  {check['check']}: {check['said']}" for check in stage["checks"]]
    return "\n".join(lines)


def summary(result: Mapping[str, Any]) -> str:
    counts: dict[str, int] = {}
    for _, check in every(result):
        counts[check["verdict"]] = counts.get(check["verdict"], 0) + 1
    where = result.get("device", "a CPU: a rehearsal, the numbers mean nothing")
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    return f"{said}; {result.get('seconds', 0):.0f} s on {where}"


# The table of the documentation

BEGIN, END = "<!-- what ran where: written by benchmarks/gpu/day.py --document -->", "<!-- end -->"


def document() -> str:
    """The table "what ran where" in Markdown, from the checks that there are and the committed results."""
    sys.path[:0] = [str(HERE), str(ROOT)]
    import importlib

    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    said = [{(stage, check["check"]): check for stage, check in every(result)} for result in results]
    heads = ["check", "rehearsal on a CPU", *(result["device"] for result in results)] + ([] if results else ["a GPU"])
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for stage in STAGES:
        lines.append(f"| **{stage.title}** |" + " |" * (len(heads) - 1))
        for check in importlib.import_module(stage.name).CHECKS:
            cells = [check.name, "in part, or not at all" if check.gpu_only else "yes"]
            for found in said:
                there = found.get((stage.name, check.name))
                cells.append("not run" if there is None else f"{there['verdict']}: {there['said']}".replace("|", "/"))
            lines.append("| " + " | ".join(cells if results else [*cells, "**not yet**"]) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "lr2eval-gpu",
                        help="folder for parts, packages, caches [default: TMP/lr2eval-gpu]")  # fmt: skip
    parser.add_argument("--take-in", action="store_true", help="only check and keep the parts that are in .gpu/")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on a CPU")
    parser.add_argument("--stages", default=",".join(stage.name for stage in STAGES), help="run only these")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="time for everything [default: 570]")
    parser.add_argument("--only", help="only checks whose name contains this")
    parser.add_argument("--document", type=Path, help="write the table of committed results into this page")
    arguments = parser.parse_args()
    arguments.only = ["--only", arguments.only] if arguments.only else []
    if arguments.document:
        text = arguments.document.read_text()
        head, rest = text.split(BEGIN)
        arguments.document.write_text(f"{head}{BEGIN}\n{document()}\n{END}{rest.partition(END)[2]}")
        return 0
    if arguments.take_in:
        try:
            parts = take_in(PARTS, arguments.home)
        except (PartError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"here: {', '.join(parts) or 'no part'}")
        return 0
    known = {stage.name: stage for stage in STAGES}
    asked = arguments.stages.split(",")
    if wrong := [name for name in asked if name not in known]:
        parser.error(f"--stages {wrong[0]}: no such stage; there are {', '.join(known)}")
    if arguments.out is None:
        parser.error("--out is missing; give a folder for the results")
    return day(arguments, [stage for stage in STAGES if stage.name in asked])


if __name__ == "__main__":
    sys.exit(main())
