"""lr2eval: does an extended context window really work, and what did it cost on short inputs?"""

from lr2eval._version import __version__

__all__ = ["__version__"]
