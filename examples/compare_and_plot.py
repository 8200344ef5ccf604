"""Run a model and its original on the same samples, read the verdict, and plot the score by length.

    python examples/compare_and_plot.py --model demo-longrope2 --baseline demo

These two small models come with lr2eval, so this needs no network and no GPU. It takes about half a minute. Run it a
second time, and it only reads what is there. For your own models, give their folders and suitable `--tasks`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import lr2eval


class Progress(lr2eval.Listener):
    """Prints a line when a model is loaded, and whenever a task is done at one length.

    Without a listener lr2eval prints nothing.
    """

    def message(self, text: str) -> None:
        print(text)

    def shard_done(self, shard: lr2eval.Shard, score: float | None, n: int) -> None:
        print(f"{shard.id}: {score:.1f} (n = {n})" if score is not None else f"{shard.id}: nothing scored")


def compare(config: lr2eval.RunConfig) -> tuple[pd.DataFrame, str]:
    """Runs both models. Returns a row for each sample and model, and the verdict."""
    done = lr2eval.run(config, listener=Progress())
    if done.pair is None or done.pair.gate is None:
        sys.exit(f"no verdict: {done.pair.problem if done.pair else 'there is no --baseline'}")
    print(*done.pair.sentences, f"report: {done.report}", sep="\n")

    frames = {name: lr2eval.open_run(part.folder).samples for name, part in done.models.items()}
    return pd.concat(frames, names=["model"]).reset_index("model"), done.pair.gate.verdict


def plot(samples: pd.DataFrame, verdict: str, png: Path) -> None:
    """The mean score of each model at each length. Samples without a length, such as facts, are left out."""
    scores = samples.pivot_table(index="length", columns="model", values="score")[["original", "extended"]]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    scores.plot(ax=axes, marker="o", logx=True, clip_on=False, ylim=(0, 100), xlabel="tokens", ylabel="mean score")
    axes.set_xticks(scores.index, [f"{length:,}" for length in scores.index])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(f"verdict inside the original window: {verdict}", loc="left", fontsize="medium", pad=12)
    figure.savefig(png, dpi=150)
    print(f"plot: {png}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the extended model: a folder or a name")
    parser.add_argument("--baseline", required=True, help="the original model")
    parser.add_argument("--tasks", default="facts,ruler:niah_single_1,ruler:niah_multikey_1")
    parser.add_argument("--lengths", default="512,1k,2k")
    parser.add_argument("--samples", type=int, default=5, help="of each task at each length")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("compare_and_plot"), help="folder of the run")
    args = parser.parse_args()
    config = lr2eval.RunConfig(
        model=args.model,
        baseline=args.baseline,
        tasks=args.tasks,
        lengths=args.lengths,
        samples_per_task=args.samples,
        limit=50,  # the first 50 questions of a task whose samples are given, such as facts
        beyond_window=True,  # also run the original where its window has ended: that is the comparison
        device=args.device,
        offline=True,
        out=args.out,
    )
    try:
        samples, verdict = compare(config)
    except lr2eval.Lr2EvalError as error:  # one line that says what to do, and the exit code of the command line
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    plot(samples, verdict, args.out / "scores.png")


if __name__ == "__main__":
    main()
