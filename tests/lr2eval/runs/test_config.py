from __future__ import annotations

from pathlib import Path

import pytest

from lr2eval.base.units import format_length, parse_bytes, parse_length
from lr2eval.errors import UsageError
from lr2eval.runs.config import RunConfig, default_lengths

FLAGS = {"model": "m", "tasks": "ruler,mmlu"}


@pytest.mark.parametrize(
    ("text", "tokens"), [("4k", 4096), ("4096", 4096), ("0.5k", 512), ("1m", 1048576), (" 8K ", 8192), (100, 100)]
)
def test_lengths_are_read(text: str, tokens: int) -> None:
    assert parse_length(text) == tokens


@pytest.mark.parametrize("text", ["", "four", "-1", "0", "0.3", "4kb"])
def test_bad_lengths_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="lengths"):
        RunConfig.load({**FLAGS, "lengths": text or "x"})


def test_lengths_come_sorted_and_once() -> None:
    assert RunConfig.load({**FLAGS, "lengths": "8k,4k,8192"}).lengths == (4096, 8192)


@pytest.mark.parametrize(
    ("window", "lengths"),
    [
        (8192, (4096, 8192)),
        (131072, (4096, 8192, 16384, 32768, 65536, 131072)),
        (2048, (2048,)),
        (40960, (4096, 8192, 16384, 32768)),
    ],
)
def test_default_lengths_double_to_the_window(window: int, lengths: tuple[int, ...]) -> None:
    assert default_lengths(window) == lengths


def test_format_length() -> None:
    assert [format_length(n) for n in (512, 1024, 131072, 4000)] == ["512", "1k", "128k", "4000"]


@pytest.mark.parametrize(("text", "size"), [("8GiB", 8 * 2**30), ("500MB", 500_000_000), ("123", 123), ("2 kib", 2048)])
def test_bytes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


def test_bad_bytes_are_refused() -> None:
    with pytest.raises(UsageError, match="memory_limit"):
        parse_bytes("much")


def test_flags_beat_set_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "a"\ntasks = ["vt"]\nseed = 1\nsamples-per-task = 7\n[ruler]\nhaystack = "essays"\n')
    config = RunConfig.load({"model": "b"}, file, ["seed=2", "ruler.samples=3"])
    assert (config.model, config.tasks, config.seed, config.samples_per_task) == ("b", ("vt",), 2, 7)
    assert config.options == {"ruler": {"haystack": "essays", "samples": 3}}


@pytest.mark.parametrize(
    ("flags", "sets", "match"),
    [
        ({"model": "m"}, [], "--tasks is missing"),
        ({**FLAGS, "truncation": "cut"}, [], "truncation 'cut'"),
        ({**FLAGS, "dtype": "int3"}, [], "dtype 'int3'"),
        ({**FLAGS, "limit": "-3"}, [], "limit"),
        ({**FLAGS, "limit": "1.5"}, [], "limit"),
        ({**FLAGS, "batch_size": "0"}, [], "batch-size"),
        ({**FLAGS, "samples_per_task": 0}, [], "samples-per-task"),
        ({**FLAGS, "tasks": " , "}, [], "at least one name"),
        (FLAGS, ["sede=1"], "did you mean seed?"),
        (FLAGS, ["nonsense"], "key=value"),
        (FLAGS, ["seed=1", "seed.x=2"], "seed"),
    ],
)
def test_bad_configuration_is_one_line(flags: dict[str, object], sets: list[str], match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        RunConfig.load(flags, None, sets)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "model = \n", "\xff"])
def test_bad_config_file_is_one_line(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "run.toml"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=r"run\.toml"):
        RunConfig.load(FLAGS, file)


def test_run_name_names_the_question() -> None:
    config = RunConfig.load(FLAGS)
    assert config.run_name("a/b c") == config.run_name("a/b c")
    assert config.run_name("a/b c").startswith("a-b-c-")
    assert config.run_name("m") != RunConfig.load({**FLAGS, "seed": 1}).run_name("m")
    assert config.run_name("m") == RunConfig.load({**FLAGS, "out": Path("x"), "offline": True}).run_name("m")
    assert config.run_name("../..") == config.run_name("/")


def test_configuration_is_frozen() -> None:
    config = RunConfig.load(FLAGS)
    with pytest.raises(ValueError):
        config.seed = 3  # type: ignore[misc]
    assert RunConfig.model_validate(config.model_dump()) == config


def test_workers_do_not_decide_what_a_run_is() -> None:
    one, two = (RunConfig.load(FLAGS, None, [f"ruler.workers={n}", "ruler.haystack=x"]) for n in (1, 2))
    assert one.settings() == two.settings()
    assert one.options["ruler"]["workers"] == 1
