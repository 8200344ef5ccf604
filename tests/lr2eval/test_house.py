"""The rules of the house that a machine can check: import directions, circles, sizes, names (ADR 012)."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The three links inside lr2eval/ are resolved: without that, no arrow out of tasks/, reports/ and method/ is seen.
FOLDERS = {"lr2eval": "lr2eval", "tasks": "lr2eval.tasks", "reports": "lr2eval.reports", "method": "lr2eval.method"}

# A folder (or a module directly under lr2eval/) imports only from lines below its own.
RULE = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("workflows",),
    ("estimate",),
    ("runs",),
    ("backends",),
    ("reports", "comparisons", "method", "tasks"),
    ("record", "registry"),
    ("plugins", "workers"),
    ("listener",),
    ("benchmark",),
    ("model",),
    ("base", "stats"),
    ("errors",),
    ("_version",),
)
LEVEL = {name: level for level, names in enumerate(RULE) for name in names}
PUBLIC = "lr2eval"  # lr2eval/__init__.py: imports lazily from anywhere, and nothing in the product imports from it


def _modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "lr2eval" and parts[0] in ("tasks", "reports", "method"):
                continue
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = _modules()


def _folder(module: str) -> str:
    """The part of the rule that a module belongs to."""
    return module.split(".")[1] if "." in module else PUBLIC


def _inner(module: str) -> str:
    """The folder a module lies in. A module beside folders stands for itself: ``lr2eval.tasks.needs``."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    beside = any(path.parent != MODULES[module].parent and other.startswith(package + ".")
                 for other, path in MODULES.items())  # fmt: skip
    return module if beside else package


@cache
def _imports(module: str) -> frozenset[str]:
    """The modules of the product that a module imports, those for type checking included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    bare = {name for name in names if name.split(".")[0] in ("tasks", "reports", "method")}
    assert not bare, f"{module}: bare import of {bare}"
    found = {name if name in MODULES else name.rpartition(".")[0] for name in names}
    return frozenset((found & MODULES.keys()) - {module})


def _circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Strongly connected parts of more than one node (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in graph:
        if node not in order:
            visit(node)
    return found


@pytest.mark.parametrize("module", [module for module in MODULES if module != PUBLIC])
def test_imports_run_one_way(module: str) -> None:
    for target in _imports(module):
        assert target != PUBLIC, f"{module} imports from lr2eval itself"
        same = _folder(module) == _folder(target)
        assert same or LEVEL[_folder(module)] < LEVEL[_folder(target)], f"{module} may not import {target}"


def test_the_rule_names_every_folder_and_no_other() -> None:
    assert {_folder(module) for module in MODULES} - {PUBLIC} == set(LEVEL)


def test_no_circles() -> None:
    modules = {module: _imports(module) for module in MODULES}
    assert _circles(modules) == []
    folders: dict[str, set[str]] = {}
    for module, targets in modules.items():
        if module != PUBLIC:
            folders.setdefault(_inner(module), set()).update({_inner(target) for target in targets} - {_inner(module)})
    assert _circles(folders) == []


def test_circles_are_found() -> None:
    assert _circles({"a": "b", "b": "c", "c": "bd", "d": ""}) == [["b", "c"]]
    assert _circles({"a": "bc", "b": "c", "c": ""}) == []


def test_links_are_resolved() -> None:
    """Arrows out of tasks/, reports/ and method/ are seen."""
    for folder in ("tasks", "reports", "method"):
        own = [module for module in MODULES if _folder(module) == folder]
        assert any(_folder(target) != folder for module in own for target in _imports(module))


def test_no_module_bears_a_public_name() -> None:
    """Importing such a module would replace the function of that name."""
    import lr2eval

    beside = {path.stem for path in (ROOT / "lr2eval").iterdir() if not path.name.startswith("__")}
    assert beside & set(lr2eval.__all__) == set()


def test_sizes() -> None:
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert max(lines.values()) <= 500, max(lines, key=lambda module: lines[module])
    assert sum(map(_code_lines, MODULES.values())) <= 22_500  # ADR 012


def _code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    text = path.read_text(encoding="utf-8")
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


_NO_CODE = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER
)  # fmt: skip

HEAVY = "{'torch', 'transformers', 'lm_eval', 'datasets', 'pandas', 'matplotlib', 'numpy', 'scipy', 'vllm', 'ray'}"


def _loaded(code: str) -> list[str]:
    """What a fresh interpreter prints after ``code``: the heavy packages that it loaded, and bare names of ours."""
    bare = "{'tasks', 'reports', 'method'}"
    tail = f"\nprint(sorted({HEAVY} & set(sys.modules)))\nprint(sorted({bare} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}{tail}"], capture_output=True, text=True, cwd="/", check=True
    )
    return done.stdout.split("\n")[:2]


def test_command_line_starts_without_heavy_packages() -> None:
    assert _loaded("import lr2eval, lr2eval.cli\nassert 'pydantic' not in sys.modules") == ["[]", "[]"]


def test_configurations_load_without_heavy_packages() -> None:
    names = "RunConfig, GateConfig, SearchConfig, ExtendConfig, TrainConfig, Recipe, Shard, OriginalRope, UsageError"
    assert _loaded(f"from lr2eval import {names}") == ["[]", "[]"]


def test_links_are_links() -> None:
    for name in ("tasks", "reports", "method"):
        link = ROOT / "lr2eval" / name
        assert link.is_symlink(), (
            f"{link} is not a symbolic link; on Windows clone with `git -c core.symlinks=true clone` in developer mode"
        )
        assert str(link.readlink()) == f"../{name}"


def test_class_names_exist_once() -> None:
    """A reader who sees a name knows which class it is."""
    homes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


READERS = {
    "read_text", "read_bytes", "json.load", "json.loads", "tomllib.load", "tomllib.loads", "csv.reader",
    "csv.DictReader", "zipfile.ZipFile", "gzip.open", "gzip.decompress", "gzip.GzipFile", "bz2.open", "bz2.decompress",
    "lzma.open", "lzma.decompress", "zlib.decompress", "yaml.load", "yaml.safe_load", "np.load", "np.fromfile",
    "np.memmap", "torch.load", "pickle.load", "pickle.loads", "safe_open", "load_file", "model_validate",
    "model_validate_json", "ParquetFile", "CompressedInputStream", "open",
}  # fmt: skip


def _reading_calls(path: Path) -> set[str]:
    """The calls in a module that read or parse a file. ``Checkpoint.open`` and its like are not among them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "open" and isinstance(owner, ast.Name) and (owner.id[:1].isupper() or owner.id == "os"):
            continue
        if name in ("read_text", "read_bytes") and owner is None:  # those of base/reading.py
            continue
        modes = [each.value for each in node.args if isinstance(each, ast.Constant)]
        if name == "open" and any(str(mode)[:1] in "wax" for mode in modes):
            continue
        full = f"{owner.id}.{name}" if isinstance(owner, ast.Name) else name
        found |= {full, name} & READERS
    return found


READ_ELSEWHERE = {
    "lr2eval.backends.batching": ({"read_text"}, "files of the kernel"),
    "lr2eval.backends.served": ({"json.loads"}, "text that the same object wrote"),
    "lr2eval.base.files": ({"open"}, "hashes and copies bytes, whatever they are"),
    "lr2eval.base.machine": ({"read_text"}, "a file of the kernel"),
    "lr2eval.plugins": ({"read_text"}, "the source of a plug-in that Python has read before"),
    "lr2eval.record.base": ({"model_validate_json"}, "bytes from the reader; problems are told in the same words"),
    "lr2eval.reports.page": ({"read_text"}, "a file of the package"),
    "lr2eval.workflows.extend_config": ({"lzma.decompress"}, "a file of the package"),
    "lr2eval.tasks.exact.counting": ({"json.loads"}, "text from the tokenizers library"),
    "lr2eval.tasks.longbench.prompts": ({"read_bytes"}, "a file of the installed lm-eval"),
    "lr2eval.tasks.shared.index": ({"read_bytes"}, "files that lm-eval reads; damaged ones are left out"),
    "lr2eval.tasks.shared.upstream": ({"read_text", "read_bytes", "yaml.load"}, "files of the installed lm-eval"),
    "lr2eval.method.data.documents": ({"CompressedInputStream", "ParquetFile"}, "streams; errors are turned into ours"),
    "lr2eval.method.data.rows": ({"np.memmap"}, "sizes are checked first"),
    "lr2eval.method.data.token_cache": ({"np.fromfile"}, "the checksum of the chunk was checked first"),
    "lr2eval.method.search.needles": ({"json.loads"}, "text that the same function wrote"),
    "lr2eval.method.train.checkpoints": ({"json.loads", "read_text", "safe_open"}, "errors are turned into ours"),
    "lr2eval.method.train.train": ({"load_file"}, "weights that the same training wrote"),
    # These check by themselves what they read.
    "lr2eval.comparisons.baseline": ({"json.loads", "model_validate", "read_bytes"}, "errors are turned into ours"),
    "lr2eval.record.store": ({"json.loads"}, "cells of a database that lr2eval wrote"),
    "lr2eval.runs.card": ({"model_validate"}, "wrong keys are told with what a card may hold"),
}
"""Modules that may call some readers themselves, and why."""


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"lr2eval.base.reading"}))
def test_files_are_read_by_the_checked_reader(module: str) -> None:
    allowed, _ = READ_ELSEWHERE.get(module, (set(), ""))
    assert _reading_calls(MODULES[module]) <= allowed, "use lr2eval/base/reading.py"


def test_readers_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "path.read_text()\nread_bytes(path)\nopen(path)\npath.open('rb')\npath.open('wb')\nCheckpoint.open(folder)\n"
        "json.loads(text)\nThing.model_validate(value)\nself.path.read_bytes()\n"
    )
    assert _reading_calls(tmp_path / "a.py") == {"read_text", "open", "json.loads", "model_validate", "read_bytes"}
    assert READ_ELSEWHERE.keys() <= MODULES.keys()


PRINTS = {f"sys.{stream}.{how}" for stream in ("stdout", "stderr") for how in ("write", "writelines", "buffer")}


def test_only_the_console_prints() -> None:
    """``base/console.py`` makes harmless what it prints, so that no name acts on a terminal or a CI log."""
    allowed = {"lr2eval.base.console", "lr2eval.__main__"}  # the second runs where the package cannot be imported
    found = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Name) and node.id in ("print", "Console"))
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in PRINTS | {"typer.echo", "typer.secho"})
    }
    assert found == allowed
