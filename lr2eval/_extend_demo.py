"""What ``lr2eval extend --model demo`` needs beside the package: its documents and words, written where it works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lr2eval._config import format_length, parse_length, read_toml
from lr2eval._errors import UsageError

MODEL = "demo"


def demo_values(out: Path | None, length: str | None) -> dict[str, Any]:
    """The configuration of the demo's extension, with its documents and its wording written below ``out``.

    ``length`` is the target where it is not the usual one.

    They are functions of the recipe alone, so that files which stand already are the same ones.
    """
    from transformers import AutoTokenizer

    from lr2eval._models import locate
    from lr2eval.method import demo, demo_rows

    values = read_toml(demo.RECIPE.with_name("demo-extend.toml"))
    rows = values.pop("rows")
    try:
        target = parse_length(length or values["target_length"])
    except ValueError as error:
        raise UsageError(f"--target-length {length}: {error}") from error
    home = out or Path("runs") / f"extend-{MODEL}-{format_length(target)}"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {home}: {error.strerror or error}; choose a folder that can be written") from error
    documents, wording = home / f"documents-{target}.jsonl", home / "wording.json"
    tokenizer = AutoTokenizer.from_pretrained(locate(MODEL), local_files_only=True)
    if not wording.exists():
        demo_rows.write_wording(wording, tokenizer)
    if not documents.exists():
        demo_rows.write_documents(documents, tokenizer, target, rows["long"], rows["seed"])
    values["search"]["wording"] = str(wording)
    values["data"]["sources"] = [{"name": MODEL, "path": str(documents), "tokenised": True}]
    return values
