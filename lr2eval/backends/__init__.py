"""Backends run the model. Each is an ``lm_eval.api.model.LM``.

Beside lm-eval's methods, the runner uses these attributes of a backend that has them: ``limit`` (the window in tokens),
``measure`` and ``plan`` or ``stream``, ``take_details``, ``model_seconds``, ``close`` and ``engines``. A model type of
lm-eval has none of them; the runner then makes batches of a fixed size and records no details.
"""


class Postponed(Exception):  # not an error: the runner asks for it
    """The running engine has done its part of this call. The other requests need another engine."""
