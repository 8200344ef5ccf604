"""lr2eval: does an extended context window really work, and what did it cost on short inputs?

What this module lists in ``__all__`` is the public Python API (docs/api.md). Every other module is private and may
change. Names are imported when they are first used, so ``import lr2eval`` is fast.
"""

from __future__ import annotations

from lr2eval._version import __version__

TYPE_CHECKING = False  # importing typing takes longer than all the rest of this module
if TYPE_CHECKING:
    from lr2eval.benchmark import BackendRequest, Benchmark, DataNeed, SampleInfo, Shard, TaskContext, TaskInfo
    from lr2eval.comparisons.gate_config import GateConfig
    from lr2eval.errors import (
        BackendError,
        CheckpointError,
        Lr2EvalError,
        MissingDataError,
        NotComparableError,
        RunFailedError,
        StoreError,
        TaskError,
        UsageError,
    )
    from lr2eval.listener import Listener
    from lr2eval.method.rope.rules import RopeRule, rope_rules
    from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
    from lr2eval.method.rope.source import read_rope
    from lr2eval.method.rope.windowed import install_rope
    from lr2eval.method.search.config import SearchConfig
    from lr2eval.method.train.recipe import Recipe, read_recipe
    from lr2eval.record.opened import RunFolder, open_run
    from lr2eval.runs.config import RunConfig
    from lr2eval.workflows.compare import (
        BaselineOutcome,
        ComparisonOutcome,
        GateOutcome,
        PairOutcome,
        compare,
        gate,
        save_baseline,
    )
    from lr2eval.workflows.export import ExportOutcome, export
    from lr2eval.workflows.extend import ExtendOutcome, extend
    from lr2eval.workflows.extend_config import ExtendConfig
    from lr2eval.workflows.run import RunOutcome, run
    from lr2eval.workflows.search import SearchOutcome, search
    from lr2eval.workflows.sweep import SweepConfig, sweep
    from lr2eval.workflows.train import TrainConfig, TrainOutcome, train
    from lr2eval.workflows.verify import VerifyOutcome, verify

__all__ = [  # noqa: RUF022  # functions first, then what they take and return
    "__version__",
    "run",
    "sweep",
    "compare",
    "gate",
    "save_baseline",
    "open_run",
    "verify",
    "search",
    "train",
    "extend",
    "export",
    "read_recipe",
    "read_rope",
    "rope_rules",
    "install_rope",
    "RunConfig",
    "SweepConfig",
    "GateConfig",
    "SearchConfig",
    "TrainConfig",
    "ExtendConfig",
    "Listener",
    "RunOutcome",
    "PairOutcome",
    "ComparisonOutcome",
    "GateOutcome",
    "BaselineOutcome",
    "SearchOutcome",
    "TrainOutcome",
    "ExtendOutcome",
    "ExportOutcome",
    "VerifyOutcome",
    "RunFolder",
    "Recipe",
    "OriginalRope",
    "RopeRule",
    "RopeScaling",
    "Benchmark",
    "TaskInfo",
    "DataNeed",
    "TaskContext",
    "Shard",
    "SampleInfo",
    "BackendRequest",
    "Lr2EvalError",
    "UsageError",
    "CheckpointError",
    "TaskError",
    "MissingDataError",
    "NotComparableError",
    "RunFailedError",
    "StoreError",
    "BackendError",
]

_HOMES = {
    "benchmark": ("BackendRequest", "Benchmark", "DataNeed", "SampleInfo", "Shard", "TaskContext", "TaskInfo"),
    "comparisons.gate_config": ("GateConfig",),
    "errors": tuple(sorted(name for name in __all__ if name.endswith("Error"))),
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


if not TYPE_CHECKING:  # to a type checker, it would give the module every name

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module 'lr2eval' has no attribute {name!r}; lr2eval.__all__ lists the public names")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(_HOME[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted(__all__)
