"""One file per command: parse the flags, call a workflow, print what it returns.

Heavy imports stay inside the functions, so that ``--help`` is fast.
"""
