"""``lr2eval data prepare`` and ``lr2eval data show``: bundles of benchmark data for machines without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lr2eval.base.console import print_json, printed_table, say, table
from lr2eval.commands.options import AsJson, DataDir, Offline
from lr2eval.errors import UsageError

if TYPE_CHECKING:
    from lr2eval.record.bundle import BundledData


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def data_prepare(
    tasks: Annotated[str, typer.Option(help="The tasks, separated by commas: ruler,niah,mmlu or ruler:qa_1.")],
    out: Annotated[Path, typer.Option(help="The folder of the bundle: new, empty or a bundle.")],
    data_dir: DataDir = None,
    offline: Offline = False,
) -> None:
    """Collect the data that tasks need in one folder, for `lr2eval run --offline --data-dir FOLDER`."""
    from lr2eval.workflows.bundle import prepare_data

    def done(name: str, made: BundledData | None) -> None:
        say(f"{name}: kept" if made is None else f"{name}: {_size(made.size)} from {made.source}")

    prepare_data(tasks, out, data_dir, offline=offline, done=done)
    say(out)


def data_show(
    bundle: Annotated[Path, typer.Argument(help="The folder from `lr2eval data prepare`.")],
    as_json: AsJson = False,
) -> None:
    """Show what a bundle holds: data sets, sizes, licences and sources. Check that the files are intact."""
    from lr2eval.workflows.bundle import show_data

    found, damage = show_data(bundle)
    sets = found.data_sets
    if as_json:
        described = {
            name: {**data.model_dump(mode="json"), "bytes": data.size, "whole": damage[name] is None}
            for name, data in sets.items()
        }
        print_json({"data_sets": described})
    else:
        shown = table("data set", "for", "files", "size", "from", "state", title=str(bundle))
        for name, data in sets.items():
            state = "damaged" if damage[name] else "whole"
            read_by = ", ".join(data.read_by)
            shown.add_row(name, read_by, str(len(data.files)), _size(data.size), data.source, state)
        files = sum(len(data.files) for data in sets.values())
        shown.add_row("all", "", str(files), _size(sum(data.size for data in sets.values())), "", "")
        printed_table(shown)
        for licence in dict.fromkeys(data.licence for data in sets.values()):
            of = ", ".join(name for name, data in sets.items() if data.licence == licence)
            say(f"licence of {of}: {licence}")
    if problem := next((each for each in damage.values() if each), None):
        raise UsageError(problem)
