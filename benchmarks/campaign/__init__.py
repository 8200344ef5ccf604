"""Kill, interrupt, starve, damage and deceive every command of lr2eval, and count what does not hold.

``python -m benchmarks.campaign`` needs no data and no network. It makes small examples of every file that lr2eval
reads, then tries, by class:

kills      SIGKILL at the n-th write of a command, or in the middle of it; the same command must end as if nothing was
workers    SIGKILL for worker processes, Ray workers and vLLM engines, and for their drivers
signals    SIGINT and SIGTERM at a write or at any time; an output that is closed or full
disk       a disk that is full from the n-th write on
damage     10,000 damaged files; a command that reads one has to refuse it in one line, or to go on
bombs      small files that become huge, and files that say that they are huge
names      600 hostile names in pages, tables, terminals, CSV, Markdown, JUnit and the annotations of a CI

The table at the end counts what was tried and what failed, by class. ``--repeat NAME`` tries one again. A SIGKILL
leaves what the system has buffered, so this is no test of a power cut. All is drawn from ``--seed``: a trial is the
same in every call with that seed, whatever the share.
"""
