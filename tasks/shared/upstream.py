"""The one place that reads lm-eval's benchmark sources: prompt templates and file layouts, never code.

lm-eval ships ports of NVIDIA/RULER whose modules draw random numbers, read word lists and try downloads when
imported. Their prompt texts are therefore read as constants out of the source files, with ``ast``. Where the port
differs from NVIDIA/RULER (main branch, July 2026) the text is corrected here; these are all the differences that
concern texts:

1. vt: the answer prefix misspells "assigned" (``VT_TYPO``).
2. vt: the noise sentence ends in a newline and is joined by a space; upstream joins the niah sentence by newlines.
   So :func:`niah_texts` is the only source of noise.
3. vt, cwe: the solved example is followed by one newline more than upstream's. Its composition is ours (``vt.py``,
   ``cwe.py``); only the templates come from here.
4. niah, vt, cwe, fwe, qa: the port strips the answer prefix and lets a delimiter put the space back (cwe: an empty
   line). Upstream's prefix begins with a space, so here it does too.

A constant that cannot be found raises :class:`TaskError` naming file and constant.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lr2eval.errors import TaskError

VT_TYPO = ("assgined", "assigned")


@dataclass(frozen=True)
class TaskTexts:
    """Prompt template, answer prefix (it begins with a space) and tokens to generate of one RULER task."""

    template: str
    answer_prefix: str
    max_new_tokens: int


@dataclass(frozen=True)
class NiahTexts(TaskTexts):
    """The needle-in-a-haystack family also has a needle sentence and the repeated sentence of the noise haystack."""

    needle: str
    noise: str


def lm_eval_folder() -> Path:
    """Folder of the installed lm-eval package, found without importing it."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise TaskError("lm-eval is not installed; pip install 'lm-eval>=0.4.13,<0.5'")
    return Path(spec.submodule_search_locations[0])


@cache
def niah_texts() -> NiahTexts:
    """Texts of the niah tasks in the plural form (``single_answer`` makes the singular one)."""
    utils, prepare = "tasks/ruler/niah_utils.py", "tasks/ruler/prepare_niah.py"
    return NiahTexts(
        template=_assigned(utils, "TEMPLATE"),
        answer_prefix=" " + _plural_prefix(prepare),
        max_new_tokens=_default(prepare, "generate_samples", "tokens_to_generate"),
        needle=_assigned(prepare, "NEEDLE"),
        noise=_assigned(prepare, "haystack", "get_haystack").strip(),
    )


@cache
def task_texts(task: str) -> TaskTexts:
    """Texts of ``vt``, ``cwe``, ``fwe`` or ``qa``."""
    file = f"tasks/ruler/{task}_utils.py"
    config = _assigned(file, "CONFIG")
    if task == "vt":
        config = config.get("variable_tracking", {})
    try:
        template, prefix = config["template"], config["answer_prefix"].replace(*VT_TYPO)
        return TaskTexts(template, " " + prefix.removeprefix(" "), int(config["tokens_to_generate"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise _layout_changed(file, f"CONFIG[{error}]") from error


def texts_of(task: str) -> TaskTexts:
    """Texts of a RULER task by its full name: ``niah_single_1``, ``qa_1``."""
    return niah_texts() if task.startswith("niah") else task_texts(task.partition("_")[0])


@cache
def document_prompt() -> str:
    """How qa numbers a document: a template with ``i`` and ``document``."""
    return str(_assigned("tasks/ruler/qa_utils.py", "DOCUMENT_PROMPT"))


def single_answer(text: str) -> str:
    """Upstream's rewriting of the plural template when exactly one value is asked for."""
    for old, new in (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer")):
        text = text.replace(old, new)
    return text


@cache
def mmlu_files() -> dict[str, Path]:
    """YAML file of each of the 57 MMLU subjects, by subject name, in alphabetical order."""
    folder = lm_eval_folder() / "tasks" / "mmlu" / "default"
    files = {path.stem.removeprefix("mmlu_"): path for path in sorted(folder.glob("mmlu_*.yaml"))}
    if not files:
        raise _layout_changed("tasks/mmlu/default", "mmlu_*.yaml")
    return files


@cache
def mmlu_definition(subject: str) -> dict[str, str]:
    """Hub name (``dataset_path``) and ``category`` (stem, humanities, social_sciences or other) of an MMLU subject."""
    path = mmlu_files()[subject]
    own = parsed_yaml(path.read_bytes())
    shared = parsed_yaml((path.parent / own["include"]).read_bytes())
    category = own["tag"].removeprefix("mmlu_").removesuffix("_tasks")
    return {"dataset_path": shared["dataset_path"], "category": category}


def parsed_yaml(data: bytes) -> Any:
    """YAML of lm-eval, ``!function module.name`` as text. Raises what PyYAML raises."""
    import yaml  # type: ignore[import-untyped]

    return yaml.load(data, _loader())


@cache
def _loader() -> Any:
    """A safe loader: no Python object can come out of it."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    Loader.add_constructor("!function", Loader.construct_scalar)
    return Loader


def _layout_changed(file: str, constant: str) -> TaskError:
    return TaskError(
        f"lm_eval/{file}: no readable {constant}; this lm-eval has another layout, install lm-eval>=0.4.13,<0.5"
    )


@cache
def _tree(file: str) -> ast.Module:
    try:
        return ast.parse((lm_eval_folder() / file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise _layout_changed(file, "source") from error


def _nodes(file: str, function: str) -> Iterator[ast.AST]:
    """Every node of a function of a file, of the whole file without a name."""
    tree = _tree(file)
    found = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    root = next(found, None) if function else tree
    return ast.walk(root) if root else iter(())


def _assigned(file: str, name: str, function: str = "") -> Any:
    """The first literal that is assigned to ``name``."""
    for node in _nodes(file, function):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            with suppress(ValueError):
                return ast.literal_eval(node.value)
    raise _layout_changed(file, f"{function}.{name}" if function else name)


def _default(file: str, function: str, argument: str) -> Any:
    """The default of a keyword argument."""
    for node in _nodes(file, function):
        if isinstance(node, ast.FunctionDef):
            for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                if arg.arg == argument and isinstance(default, ast.Constant):
                    return default.value
    raise _layout_changed(file, argument)


def _plural_prefix(file: str) -> str:
    """``f"... {kinds} for {query} ..."`` under the key ``gen_prefix``, as a ``str.format`` template.

    The source chooses between a singular and a plural f-string; the plural one is the ``else`` branch, and the
    singular follows from it by :func:`single_answer`.
    """
    for node in _nodes(file, "generate_samples"):
        for key, value in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
            if isinstance(key, ast.Constant) and key.value == "gen_prefix" and isinstance(value, ast.IfExp):
                return _as_format(value.orelse, file)
    raise _layout_changed(file, "gen_prefix")


def _as_format(node: ast.expr, file: str) -> str:
    parts: list[str] = []
    for part in node.values if isinstance(node, ast.JoinedStr) else [node]:
        if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name):
            parts.append("{" + part.value.id + "}")
        elif isinstance(part, ast.Constant) and isinstance(node, ast.JoinedStr):
            parts.append(str(part.value).replace("{", "{{").replace("}", "}}"))
        else:
            raise _layout_changed(file, "gen_prefix")
    return "".join(parts)
