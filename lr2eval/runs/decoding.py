"""How answers are decoded: greedily, unless a task or the user says otherwise. A checkpoint's file alone never does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from lr2eval.base.config import Table
from lr2eval.base.reading import checked
from lr2eval.errors import CheckpointError, UsageError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.generation_file import FILE, asked_of_decoding, read_generation_file

_HF_ONLY = {"num_beams": 1, "no_repeat_ngram_size": 0}
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DecodingSettings(Table):
    """What the user asks of decoding. It goes before what a task asks for; ``None`` leaves that alone."""

    from_model: bool = False
    """Take the settings of this table from the model's generation_config.json. Those that are given here win."""
    do_sample: bool | None = None
    """Draw the tokens of an answer at random. Default: if a temperature is given."""
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)
    """The temperature of sampling; 0 is greedy."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Sample only among the likeliest tokens that together have this probability."""
    top_k: int | None = Field(None, ge=0)
    """Sample only among this many likeliest tokens; 0 is all."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Sample only among tokens with this share of the largest probability."""
    repetition_penalty: Positive | None = None
    """Divide the scores of tokens that the prompt or the answer holds already; 1 is off."""
    no_repeat_ngram_size: int | None = Field(None, ge=0)
    """Never repeat this many tokens in a row. Only with --backend hf."""
    num_beams: int | None = Field(None, ge=1)
    """The number of beams of a beam search. Only with --backend hf."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        warm = bool(self.temperature)
        if self.do_sample and self.temperature == 0:
            raise ValueError("do_sample=true needs a temperature above 0; omit one of the two")
        if not (self.from_model or (warm if self.do_sample is None else self.do_sample)):
            for key in ("temperature", "top_p", "top_k", "min_p"):
                if getattr(self, key):
                    raise ValueError(f"{key} has no effect without sampling; set do_sample=true or omit {key}")
        return self

    def given(self) -> dict[str, Any]:
        """The settings that are given, as generation kwargs."""
        found = self.model_dump(exclude={"from_model"}, exclude_none=True)
        if self.do_sample:  # a task may state a temperature of 0
            return {"do_sample": True, "temperature": 1.0, **found}
        return {"do_sample": bool(self.temperature), **found} if "temperature" in found else found


def resolved(asked: DecodingSettings, checkpoint: Checkpoint, backend: str) -> DecodingSettings:
    """``asked`` with the values that ``from_model`` stands for.

    Raises :class:`UsageError` for settings that the back end lacks, and for a file that asks for others than ours.
    """
    if asked.from_model:
        stated = read_generation_file(checkpoint.folder)
        if stated is None:
            raise UsageError(f"generation.from_model: {checkpoint.name} has no {FILE}; omit it")
        wanted = asked_of_decoding(stated)
        if others := wanted.keys() - DecodingSettings.model_fields.keys():
            raise UsageError(
                f"generation.from_model: {FILE} also asks for {', '.join(sorted(others))}, which lr2eval does not "
                "have; set what you want by name, such as generation.temperature=0.7"
            )
        place = str(checkpoint.folder / FILE)
        asked = checked(DecodingSettings, wanted | asked.given(), place, error=CheckpointError, fix="correct it")
    if backend != "hf":
        for key, off in _HF_ONLY.items():
            if getattr(asked, key) not in (None, off):
                raise UsageError(f"generation.{key}: --backend {backend} does not have it; use --backend hf")
    return asked


def notes(asked: DecodingSettings, checkpoint: Checkpoint) -> Iterator[str]:
    """What a plan says of decoding; nothing where it is greedy and the checkpoint asks for nothing else."""
    given = asked.given()
    if given:
        yield f"{checkpoint.name}: answers are decoded with {listed(given)}"
    wanted = asked_of_decoding(read_generation_file(checkpoint.folder) or {})
    if ignored := {key: value for key, value in wanted.items() if key not in given}:
        how = "ignores that" if given else "decodes greedily"
        ours = ignored.keys() & DecodingSettings.model_fields.keys()
        hint = "; add --set generation.from_model=true to use it" if ours else ""
        yield f"{checkpoint.name}: {FILE} asks for {listed(ignored)}; lr2eval {how}{hint}"


def listed(settings: Mapping[str, Any]) -> str:
    """Settings in one line: ``do_sample, temperature 0.7``."""
    return ", ".join(key if value is True else f"{key} {value!r:.40}" for key, value in settings.items())
