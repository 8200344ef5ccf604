"""The accounts of a mixture, for its manifest: every token read is in a row or counted with the reason it is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr2eval.base.files import output_folder
from lr2eval.errors import UsageError
from lr2eval.method.data.config import MixtureConfig
from lr2eval.method.data.packing import Joined
from lr2eval.method.data.rows import FILES, MANIFEST, Segment, SegmentData
from lr2eval.method.data.selection import BEYOND_BUDGET, CUT_AT_BUDGET, Drawn
from lr2eval.method.data.sources import SourceConfig
from lr2eval.method.data.token_cache import Encoder
from lr2eval.model.tokenizer import PromptTokenizer

KIND = "lr2eval training data"
REST = "rest of the long documents, less than a row"


class Ledger:
    """Counts while a mixture is made. Tokens include BOS and EOS."""

    def __init__(self, sources: Sequence[tuple[SourceConfig, int, Sequence[str]]]) -> None:
        self.sources: list[dict[str, Any]] = [
            {"name": source.name, "parts": count, "ignored_files": len(ignored)} for source, count, ignored in sources
        ]
        self._ignored = {source.name: ignored[0] for source, _, ignored in sources if ignored}
        self.left_out: dict[str, dict[str, int]] = {}
        self.cuts = self.padding = self.short_tokens = self.long_tokens = self.repeated = 0

    def documents(self, source: NDArray[np.int16], length: NDArray[np.int64]) -> None:
        """All documents that were read."""
        for number, row in enumerate(self.sources):
            inside = length[source == number]
            row |= {"documents": len(inside), "tokens": int(inside.sum()), "longest": int(inside.max())}

    def leave_out(self, reason: str, lengths: NDArray[np.int64], documents: int | None = None) -> None:
        """Count whole documents, or (``documents`` 0) parts of documents."""
        row = self.left_out.setdefault(reason, {"documents": 0, "tokens": 0})
        row["documents"] += len(lengths) if documents is None else documents
        row["tokens"] += int(lengths.sum())

    def drawn(self, found: Drawn, lengths: NDArray[np.int64]) -> None:
        """Count the documents drawn from a cell and those left out."""
        self.leave_out(BEYOND_BUDGET, lengths[np.setdiff1d(found.cell.documents, found.documents)])
        if found.cut:
            self.leave_out(CUT_AT_BUDGET, np.array([found.cut]), documents=0)
        self.repeated += int(lengths[found.documents].sum() - lengths[np.unique(found.documents)].sum())

    def joined(self, joined: Joined) -> None:
        self.cuts = joined.cuts
        self.leave_out(REST, np.array([count for _, _, count in joined.rest], dtype=np.int64), documents=0)

    def row(self, segment: Segment) -> None:
        self.padding += segment.padding
        if segment.long:
            self.long_tokens += len(segment)
        else:
            self.short_tokens += len(segment) - segment.padding

    @property
    def waste(self) -> float:
        """Share of padding in short rows."""
        return self.padding / max(1, self.padding + self.short_tokens)

    def notices(self, waste: float) -> Iterator[str]:
        """Notes for the user."""
        for name, example in self._ignored.items():
            yield f"note: files of source {name!r} that are not text, JSONL or Parquet were ignored ({example} ...)"
        if self.repeated:
            yield f"note: {self.repeated:,} tokens are from documents that are used again"
        if self.waste > waste:
            yield (
                f"note: {self.waste:.1%} of the tokens in short rows is padding: there are too few short documents, or "
                "their lengths do not fill rows well"
            )


def describe(
    config: MixtureConfig, tokenizer: PromptTokenizer, encoder: Encoder, drawn: Sequence[Drawn], ledger: Ledger
) -> dict[str, Any]:
    """The manifest, except for what :class:`SegmentWriter` adds."""
    total = sum(int(each.lengths.sum()) for each in drawn)
    buckets = []
    lower = config.min_tokens - 1
    for number, bucket in enumerate(config.all_buckets):
        inside = [each for each in drawn if each.cell.bucket == number]
        tokens = sum(int(each.lengths.sum()) for each in inside)
        buckets.append(
            {
                "more_than": lower,
                "up_to": bucket.up_to,
                "asked": bucket.share,
                "share": tokens / total,
                "tokens": tokens,
                "documents": sum(len(each.documents) for each in inside),
                "sources": {
                    config.sources[each.cell.source].name: {
                        "tokens": int(each.lengths.sum()),
                        "documents": len(each.documents),
                        "distinct_documents": len(np.unique(each.documents)),
                    }
                    for each in inside
                },
            }
        )
        lower = bucket.up_to or lower
    return {
        "kind": KIND,
        "seed": config.seed,
        "tokenizer": {
            "name": tokenizer.name,
            "fingerprint": tokenizer.fingerprint(),
            "vocabulary": encoder.vocabulary,
            "bos": encoder.bos,
            "eos": encoder.eos,
        },
        "sources": ledger.sources,
        "buckets": buckets,
        "tokens": {
            "chosen": total,
            "in_long_rows": ledger.long_tokens,
            "in_short_rows": ledger.short_tokens,
            "padding": ledger.padding,
            "used_again": ledger.repeated,
        },
        "waste": ledger.waste,
        "cuts": ledger.cuts,
        "left_out": ledger.left_out,
    }


def already_there(folder: Path, settings: Mapping[str, Any]) -> SegmentData | None:
    """The finished rows with these settings. Raises :class:`UsageError` if the folder has other content."""
    foreign = sorted(output_folder(folder) - {*FILES, MANIFEST, ".lock"})
    if foreign:
        raise UsageError(f"{folder}: has {foreign[0]}, which is not training data; choose an empty or new folder")
    if not (folder / MANIFEST).exists():
        return None
    found = SegmentData.open(folder)
    before = found.manifest.get("settings", {})
    differ = [key for key in settings if before.get(key) != settings[key]]
    if differ:
        raise UsageError(
            f"{folder}: has training data made with other settings ({', '.join(differ)}); choose another "
            "folder or delete it"
        )
    return found
