"""A template of a plug-in package for lr2eval. See README.md beside pyproject.toml."""
