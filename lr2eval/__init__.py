"""lr2eval: does an extended context window really work, and what did it cost on short inputs?

What this module lists in ``__all__`` is the public Python API (docs/api.md). Every other module is private and may
change. Names are imported when they are first used, so ``import lr2eval`` is fast.
"""

from __future__ import annotations

from lr2eval._version import __version__

TYPE_CHECKING = False  # importing typing takes longer than all the rest of this module
if TYPE_CHECKING:  # a type checker takes only names imported this way for public
    from lr2eval.benchmark import BackendRequest as BackendRequest
    from lr2eval.benchmark import Benchmark as Benchmark
    from lr2eval.benchmark import DataNeed as DataNeed
    from lr2eval.benchmark import SampleInfo as SampleInfo
    from lr2eval.benchmark import Shard as Shard
    from lr2eval.benchmark import TaskContext as TaskContext
    from lr2eval.benchmark import TaskInfo as TaskInfo
    from lr2eval.comparisons.gate_config import GateConfig as GateConfig
    from lr2eval.errors import BackendError as BackendError
    from lr2eval.errors import CheckpointError as CheckpointError
    from lr2eval.errors import Lr2EvalError as Lr2EvalError
    from lr2eval.errors import MissingDataError as MissingDataError
    from lr2eval.errors import NotComparableError as NotComparableError
    from lr2eval.errors import RunFailedError as RunFailedError
    from lr2eval.errors import StoreError as StoreError
    from lr2eval.errors import TaskError as TaskError
    from lr2eval.errors import UsageError as UsageError
    from lr2eval.listener import Listener as Listener
    from lr2eval.method.rope.rules import RopeRule as RopeRule
    from lr2eval.method.rope.rules import rope_rules as rope_rules
    from lr2eval.method.rope.scaling import OriginalRope as OriginalRope
    from lr2eval.method.rope.scaling import RopeScaling as RopeScaling
    from lr2eval.method.rope.source import read_rope as read_rope
    from lr2eval.method.rope.windowed import install_rope as install_rope
    from lr2eval.method.search.config import SearchConfig as SearchConfig
    from lr2eval.method.train.recipe import Recipe as Recipe
    from lr2eval.method.train.recipe import read_recipe as read_recipe
    from lr2eval.record.opened import RunFolder as RunFolder
    from lr2eval.record.opened import open_run as open_run
    from lr2eval.runs.config import RunConfig as RunConfig
    from lr2eval.workflows.compare import BaselineOutcome as BaselineOutcome
    from lr2eval.workflows.compare import ComparisonOutcome as ComparisonOutcome
    from lr2eval.workflows.compare import GateOutcome as GateOutcome
    from lr2eval.workflows.compare import PairOutcome as PairOutcome
    from lr2eval.workflows.compare import compare as compare
    from lr2eval.workflows.compare import gate as gate
    from lr2eval.workflows.compare import save_baseline as save_baseline
    from lr2eval.workflows.export import ExportOutcome as ExportOutcome
    from lr2eval.workflows.export import export as export
    from lr2eval.workflows.extend import ExtendOutcome as ExtendOutcome
    from lr2eval.workflows.extend import extend as extend
    from lr2eval.workflows.extend_config import ExtendConfig as ExtendConfig
    from lr2eval.workflows.run import RunOutcome as RunOutcome
    from lr2eval.workflows.run import run as run
    from lr2eval.workflows.search import SearchOutcome as SearchOutcome
    from lr2eval.workflows.search import search as search
    from lr2eval.workflows.sweep import SweepConfig as SweepConfig
    from lr2eval.workflows.sweep import sweep as sweep
    from lr2eval.workflows.train import TrainConfig as TrainConfig
    from lr2eval.workflows.train import TrainOutcome as TrainOutcome
    from lr2eval.workflows.train import train as train
    from lr2eval.workflows.verify import VerifyOutcome as VerifyOutcome
    from lr2eval.workflows.verify import verify as verify

_HOMES = {
    "benchmark": ("BackendRequest", "Benchmark", "DataNeed", "SampleInfo", "Shard", "TaskContext", "TaskInfo"),
    "comparisons.gate_config": ("GateConfig",),
    "errors": (
        "BackendError",
        "CheckpointError",
        "Lr2EvalError",
        "MissingDataError",
        "NotComparableError",
        "RunFailedError",
        "StoreError",
        "TaskError",
        "UsageError",
    ),
    "listener": ("Listener",),
    "method.rope.rules": ("RopeRule", "rope_rules"),
    "method.rope.scaling": ("OriginalRope", "RopeScaling"),
    "method.rope.source": ("read_rope",),
    "method.rope.windowed": ("install_rope",),
    "method.search.config": ("SearchConfig",),
    "method.train.recipe": ("Recipe", "read_recipe"),
    "record.opened": ("RunFolder", "open_run"),
    "runs.config": ("RunConfig",),
    "workflows.compare": (
        "BaselineOutcome",
        "ComparisonOutcome",
        "GateOutcome",
        "PairOutcome",
        "compare",
        "gate",
        "save_baseline",
    ),
    "workflows.export": ("ExportOutcome", "export"),
    "workflows.extend": ("ExtendOutcome", "extend"),
    "workflows.extend_config": ("ExtendConfig",),
    "workflows.run": ("RunOutcome", "run"),
    "workflows.search": ("SearchOutcome", "search"),
    "workflows.sweep": ("SweepConfig", "sweep"),
    "workflows.train": ("TrainConfig", "TrainOutcome", "train"),
    "workflows.verify": ("VerifyOutcome", "verify"),
}
_HOME = {name: f"lr2eval.{home}" for home, names in _HOMES.items() for name in names}
# Functions first, then what they take and return.
__all__ = ["__version__", *sorted(_HOME, key=lambda name: name[0].isupper())]  # noqa: PLE0604


if not TYPE_CHECKING:  # to a type checker, it would give the module every name

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module 'lr2eval' has no attribute {name!r}; lr2eval.__all__ lists the public names")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(_HOME[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted(__all__)
