"""Every option of every configuration, given every kind of value: it is taken, or refused in one line of our words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from lr2eval.base.config import Config, Table, options
from lr2eval.base.settings import parse_value, put
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.errors import UsageError
from lr2eval.estimate.request import Request
from lr2eval.method.data.config import MixtureConfig
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.train.recipe import Recipe
from lr2eval.runs.config import RunConfig
from lr2eval.tasks.niah.options import NiahOptions
from lr2eval.tasks.ruler.outside import RulerOptions
from lr2eval.tasks.shared.select import by_length
from lr2eval.tasks.short.benchmark import ShortOptions
from lr2eval.workflows.extend_config import ExtendConfig, load_extend_config
from lr2eval.workflows.sweep import SweepConfig
from lr2eval.workflows.train import TrainConfig

SOURCE = {"name": "a", "path": "a.txt"}
RECIPE = {
    "name": "r",
    "original_window": 8,
    "target_window": 16,
    "short_tokens": 0,
    "long_tokens": 1,
    "global_batch": 1,
}
SHAPE = dict.fromkeys(("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocabulary"), 1)
MODELS: dict[type[Config], dict[str, Any]] = {
    RunConfig: {"model": "m", "tasks": "ruler"},
    SweepConfig: {"model": "m", "tasks": "ruler", "target_length": "16k"},
    SearchConfig: {"model": "m", "target_length": "16k"},
    TrainConfig: {"recipe": Recipe(**RECIPE), "model": "m", "factors": Path("f"), "data": Path("d")},
    GateConfig: {},
    ExtendConfig: {"model": "m", "target_length": "16k"},
    MixtureConfig: {"original_window": 8, "target_window": 16, "sources": [SOURCE], "min_tokens": 4},
    Recipe: {**RECIPE, "shape": SHAPE},
    NiahOptions: {},
    Request: {"model": "m", "lengths": "4k", "original_window": 4096, "tflops": 1.0, "bandwidth": 1.0, "memory": 1.0},
    RulerOptions: {},
    ShortOptions: {},
}
"""Each with the values that it needs."""
TABLES = ("options", "data", "search", "training", "evaluation", "checks", "weights", "shape", "generation", "buckets")
"""Tables and lists of tables that :func:`options` does not list by themselves."""
DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    True, False, 1, 0, -1, 1.5, float("inf"), float("nan"), "", "x", "inf", "9" * 400, "4k..", ",", [], [1], [[]],
    ["a"], {}, {"a": 1}, {"a": {"b": 1}}, {"": ""}, {"a": {"b": []}}, [{"a": 1}], [{}], None, "\ud800", "a\0b",
    ["\ud800"], {"\ud800": 1}, {"a": "a\0b"}, 10**30, 10**5000, -(10**30), [10**30], DEEP,
    object(), b"x", (), {1: 2}, 1j,
)  # fmt: skip
THEIRS = re.compile(
    r"Input|validation error|Extra inputs|Field required|should |://errors|type=|instance of|Unable to|tuple"
)


def _names(model: type[Config]) -> Iterator[str]:
    listed = [option.key for option in options(model)]
    yield from listed
    yield from (name for name in model.model_fields if name in TABLES and name not in listed)


CASES = [(model, name) for model in MODELS for name in _names(model)]


def _refused(call: Any) -> str:
    try:
        call()
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("model", "name"), CASES, ids=[f"{model.__name__}.{name}" for model, name in CASES])
def test_a_value_is_taken_or_refused_in_our_words(model: type[Config], name: str) -> None:
    for value in VALUES:
        given: dict[str, Any] = deepcopy(MODELS[model])
        if "." in name and isinstance(given.get(name.partition(".")[0]), list):
            head, _, tail = name.partition(".")
            given[head] = [{**given[head][0], tail: value}]
        else:
            put(given, name, value)
        said = _refused(lambda given=given: model(**given))
        assert "\n" not in said
        assert not THEIRS.search(said), said
        # An unknown recipe is told by its name, and sources are checked together.
        if said and model is not MixtureConfig and name != "recipe":
            assert name.rpartition(".")[2].partition("_")[0] in said or "trunc" in name, said


@pytest.mark.parametrize("value", ["\ud800", "a\0b", 10**30, float("nan"), [[DEEP]]])
@pytest.mark.parametrize("model", list(MODELS), ids=[model.__name__ for model in MODELS])
def test_what_no_file_can_hold_is_never_taken(model: type[Config], value: Any) -> None:
    for name in model.model_fields:
        assert _refused(lambda name=name: model(**{**MODELS[model], name: value})), name


def test_every_configuration_is_tried() -> None:
    """The list above follows the product: a new configuration must be added to it."""

    def below(kind: type[Table]) -> Iterator[type[Table]]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    ours = {each for each in below(Config) if each.__module__.startswith("lr2eval.")}
    assert {each for each in ours if each is RunConfig or not each.__subclasses__()} == set(MODELS)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_tables_of_steps_and_samples(value: Any) -> None:
    for key in (
        "search",
        "data",
        "training",
        "evaluation",
        "search.samples",
        "training.recipe",
        "model",
        "target_length",
    ):
        given = {"model": "m", "target_length": "16k", key: value}
        assert not THEIRS.search(_refused(lambda given=given: load_extend_config(given, None, ())))
    _refused(lambda: by_length("ruler", RulerOptions(samples=value).samples, (4096,)))
    _refused(lambda: by_length("ruler", RulerOptions(samples={"4k": value}).samples, (4096,)))


@pytest.mark.parametrize("text", ["[" * 100_000, "1e999", "NaN", '"\\ud800"', "9" * 5000, '{"a":' * 500])
def test_text_of_set_that_is_no_usable_json_stays_text(text: str) -> None:
    assert parse_value(text) == text


def test_refusals_name_flag_or_key() -> None:
    assert _refused(lambda: RunConfig(model="m", tasks=1)) == "--tasks 1: must be a name or a list of names"
    assert (
        _refused(lambda: RunConfig(model="m", tasks="ruler", lengths=0))
        == "--lengths 0: 0 is not a whole number of tokens"
    )
    assert _refused(lambda: RunConfig(model="m", tasks="ruler", limit=[])) == (
        "--limit: must be a whole number of samples or a share between 0 and 1"
    )
    assert _refused(lambda: GateConfig(tasks=True)) == "--tasks True: must be a name or a list of names"
    assert _refused(lambda: RunConfig(model="a\0b", tasks="ruler")) == "--model: has a zero byte"
    assert (
        _refused(lambda: RunConfig(model="m", tasks="ruler", hf={"x": 10**30})) == "options.hf.x: has too many digits"
    )


def test_text_that_becomes_an_endless_number_is_refused() -> None:
    assert _refused(lambda: RunConfig(model="m", tasks="ruler", seed="9" * 400)) == "--seed: has too many digits"
    assert _refused(lambda: Recipe(**RECIPE, optimizer={"warmup_steps": "9" * 400})) == (
        "optimizer.warmup_steps: has too many digits"
    )
