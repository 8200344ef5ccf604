"""The house rules of the design that a machine can check: import directions, sizes, names."""

from __future__ import annotations

import ast
import io
import statistics
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"lr2eval": "lr2eval", "tasks": "lr2eval.tasks", "reports": "lr2eval.reports", "method": "lr2eval.method"}

# Which room may import which (design.md, "Imports run one way"). Every module belongs to the first room it matches.
ROOMS = {
    "arithmetic": ("lr2eval._rope_facts",),
    "rope": (
        "lr2eval.method.rope",
        "lr2eval.method.rope_rules",
        "lr2eval.method.windowed",
        "lr2eval.method.window_guards",
    ),
    "demo": ("lr2eval.method.demo", "lr2eval.method.demo_text", "lr2eval.method.demo_rows"),
    "method": ("lr2eval.method",),
    "tasks": ("lr2eval.tasks",),
    "backends": ("lr2eval.backends",),
    "reports": ("lr2eval.reports",),
    "cli": (
        "lr2eval.cli",
        "lr2eval._cli_method",
        "lr2eval._commands",
        "lr2eval._bundle_command",
        "lr2eval._data_commands",
        "lr2eval._compare_commands",
        "lr2eval._rope_command",
        "lr2eval._score_command",
        "lr2eval._search_command",
        "lr2eval._search_workers",
        "lr2eval._extend_command",
        "lr2eval._extend_config",
        "lr2eval._extend_demo",
        "lr2eval._train_command",
        "lr2eval._doctor",
        "lr2eval._estimate",
        "lr2eval._estimate_command",
        "lr2eval._estimate_plan",
        "lr2eval._estimate_speed",
        "lr2eval._estimate_work",
        "lr2eval.__main__",
    ),
    "runner": ("lr2eval._prepare", "lr2eval._runner", "lr2eval._recording", "lr2eval._backend", "lr2eval._pool"),
    "core": ("lr2eval",),
}
ALLOWED = {
    "arithmetic": set(),  # plain numbers, so that the core and the rope room share one implementation
    "rope": {"rope", "arithmetic"},
    "method": {"rope", "method", "core", "arithmetic"},
    # What the demo model learns from has the wording of the tasks that it is made for.
    "demo": {"demo", "method", "core", "tasks"},
    "core": {"core"},
    "tasks": {"tasks", "core"},
    "backends": {"backends", "core", "rope"},
    "runner": {"runner", "core", "backends", "arithmetic"},
    "reports": {"reports", "core"},
    # Commands may use every room below them: a search takes its text from the haystacks and its model from a backend,
    # which the method itself must not know.
    "cli": {"cli", "runner", "reports", "core", "method", "demo", "rope", "arithmetic", "tasks", "backends"},
}


def _modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if folder == "lr2eval" and path.relative_to(ROOT / folder).parts[0] in ("tasks", "reports", "method"):
                continue
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = _modules()


def _room(module: str) -> str:
    return next(room for room, names in ROOMS.items() if any(module == n or module.startswith(n + ".") for n in names))


def _imports(path: Path, module: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    room = _room(module)
    for name in _imports(MODULES[module], module):
        target = name if name in MODULES else name.rpartition(".")[0]
        if target in MODULES and target != "lr2eval":
            assert _room(target) in ALLOWED[room], f"{module} ({room}) imports {target} ({_room(target)})"
        assert name.split(".")[0] not in ("tasks", "reports", "method"), f"{module}: bare import of {name}"


def test_every_room_is_found() -> None:
    assert {_room(module) for module in MODULES} == set(ROOMS)


def test_sizes() -> None:
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert max(lines.values()) <= 500, max(lines, key=lambda module: lines[module])
    assert statistics.median(lines.values()) <= 200
    assert sum(map(_code_lines, MODULES.values())) <= 23_000  # docs/adr/011-size-with-engines.md


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


def test_command_line_starts_without_heavy_packages() -> None:
    code = (
        "import sys, lr2eval.cli, lr2eval._config, lr2eval._store, lr2eval._stats, lr2eval._checkpoint\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'pandas', 'matplotlib', 'numpy', 'vllm', 'ray'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(sorted({'tasks', 'reports', 'method'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_links_are_links() -> None:
    for name in ("tasks", "reports", "method"):
        link = ROOT / "lr2eval" / name
        assert link.is_symlink(), (
            f"{link} is no symbolic link; on Windows clone with `git -c core.symlinks=true clone` in developer mode"
        )
        assert str(link.readlink()) == f"../{name}"


def test_public_surface_is_what_all_says() -> None:
    import lr2eval

    assert sorted(lr2eval.__all__) == list(lr2eval.__all__)
    assert all(hasattr(lr2eval, name) for name in lr2eval.__all__)


def test_run_has_at_most_twenty_flags() -> None:
    import typer.main

    from lr2eval.cli import app

    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    assert len([parameter for parameter in command.params if parameter.name != "help"]) <= 20
