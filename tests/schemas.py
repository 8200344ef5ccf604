"""The published JSON schemas under ``lr2eval/schemas``. ``python -m tests.schemas`` writes them.

They are generated from the models; a test fails if a committed file differs.
"""

from __future__ import annotations

import json
from pathlib import Path

from lr2eval.record.base import Record
from lr2eval.record.comparison import Comparison, Gate
from lr2eval.record.results import Results

SCHEMAS = Path(__file__).parents[1] / "lr2eval" / "schemas"


def schema_texts() -> dict[str, str]:
    """File name -> text of each schema."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    models: dict[str, type[Record]] = {"comparison": Comparison, "gate": Gate, "results": Results}
    return {
        f"{name}.schema.json": json.dumps(draft | model.model_json_schema(), indent=2, sort_keys=True) + "\n"
        for name, model in models.items()
    }


if __name__ == "__main__":
    for file, text in schema_texts().items():
        (SCHEMAS / file).write_text(text, encoding="utf-8")
