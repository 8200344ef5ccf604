"""``python -m lr2eval``."""

from lr2eval.cli import main

if __name__ == "__main__":
    main()
