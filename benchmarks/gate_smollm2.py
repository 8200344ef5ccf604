"""The gate on a real model: SmolLM2-135M against itself, against a damaged copy, and on too few questions.

``python benchmarks/gate_smollm2.py --data-dir ../shared/data`` makes five runs with `lr2eval run` (HellaSwag, which
this small model can do, as a task of the user's own, and two subjects of MMLU, which it cannot) and three verdicts with
`lr2eval gate --margin 2`, through the command line as a user would:

* itself at another batch size: what differs is rounding, the verdict must be PASS (exit code 0);
* a copy with noise added to every weight matrix: REGRESSION (1);
* itself on 20 questions: INCONCLUSIVE (3).

Runs are kept in ``--work`` and resumed. Writes ``benchmarks/results/gate_smollm2.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from machine import facts
from safetensors.torch import load_file, save_file

from lr2eval.model.names import locate

HERE = Path(__file__).parent
TASKS = "lm_eval:hellaswag_file,mmlu:sociology,mmlu:marketing"
HELLASWAG = """\
task: hellaswag_file
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {file}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{{{activity_label}}}}: {{{{ctx}}}}"
doc_to_target: label
doc_to_choice: endings
metric_list:
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1
"""
MARGIN = "2"
NOISE = 0.4
"""Standard deviation of the noise, in standard deviations of each weight matrix."""


def damaged(model: Path, out: Path) -> Path:
    """A copy of the checkpoint with Gaussian noise on every matrix (seed 0)."""
    if (out / "config.json").exists():
        return out
    shutil.copytree(model, out.with_suffix(".part"), dirs_exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for file in sorted(out.with_suffix(".part").glob("*.safetensors")):
        tensors = load_file(file)
        for name, value in tensors.items():
            if value.dim() == 2:
                noise = torch.randn(value.shape, generator=generator) * value.float().std() * NOISE
                tensors[name] = (value.float() + noise).to(value.dtype)
        save_file(tensors, file, metadata={"format": "pt"})
    out.with_suffix(".part").rename(out)
    return out


def lr2eval(*arguments: str) -> int:
    print("lr2eval", *arguments, flush=True)
    return subprocess.run([sys.executable, "-m", "lr2eval", *arguments], check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/gate"))
    parser.add_argument("--limit", type=int, default=300, help="samples of each task")
    parser.add_argument("--runs-only", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model = locate("smollm2-135m")
    broken = damaged(model, args.work / "smollm2-135m-damaged")
    yaml = args.work / "tasks" / "hellaswag_file.yaml"
    yaml.parent.mkdir(exist_ok=True)
    file = args.data_dir / "hellaswag" / "hellaswag_val_sample1000.jsonl.gz"
    yaml.write_text(HELLASWAG.format(file=file.resolve()))
    common = ("--data-dir", str(args.data_dir), "--dtype", "bfloat16", "--offline")
    own = ("--set", f"lm_eval.include_path={yaml.parent}")
    tasks = ("--tasks", TASKS, "--limit", str(args.limit), *own)
    few = ("--tasks", "mmlu:sociology,mmlu:marketing", "--limit", "10")
    runs = {
        "original": (str(model), *tasks, "--batch-size", "8"),
        "other-batch": (str(model), *tasks, "--batch-size", "3"),
        "damaged": (str(broken), *tasks, "--batch-size", "8"),
        "few": (str(model), *few, "--batch-size", "8"),
        "few-other-batch": (str(model), *few, "--batch-size", "3"),
    }
    for name, arguments in runs.items():
        if lr2eval("run", "--model", *arguments, *common, "--out", str(args.work / name)):
            raise SystemExit(f"the run {name} failed")
    if args.runs_only:
        return
    verdicts = {}
    for name, (before, after) in {
        "itself at another batch size": ("original", "other-batch"),
        "a damaged copy": ("original", "damaged"),
        "20 questions": ("few", "few-other-batch"),
    }.items():
        out = args.work / f"gate-{after}"
        runs = str(args.work / before), str(args.work / after)
        code = lr2eval("gate", *runs, "--margin", MARGIN, "--same-model", "--out", str(out))
        gate = json.loads((out / "gate.json").read_text())
        verdicts[name] = {
            "exit_code": code,
            **{key: gate[key] for key in ("verdict", "paragraph", "checks")},
        }
    result = {"machine": facts(), "limit": args.limit, "tasks": TASKS, "noise": NOISE, "verdicts": verdicts}
    (HERE / "results" / "gate_smollm2.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
