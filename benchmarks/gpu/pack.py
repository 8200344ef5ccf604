"""Make the parts that ``day.py`` takes in: ``pack.py kit`` the wheels, ``pack.py model DATA`` the model and the data.

Each part is a folder below ``.gpu/`` with checksums and at most 48 MiB, so that it travels beside the project where 64
MiB go at a time. The wheels are those of ``kit.txt`` in the versions of ``constraints.txt``, for Python 3.12 on Linux:
what the machine of ``machine.txt`` lacks. The model is SmolLM2-135M as its publisher's 4-bit GGUF, in two halves.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from day import MODEL, PARTS, ROOT, SUMS, sha256

HERE = Path(__file__).parent
MIB = 1 << 20
LIMIT = 48 * MIB
PYTHON, GLIBC = "3.12", (28, 27, 17, 12, 5)
BOOKS = (
    "les_miserables", "moby_dick", "crime_and_punishment", "iliad", "little_women", "dracula", "tale_of_two_cities",
    "pride_and_prejudice", "odyssey", "wuthering_heights",
)  # fmt: skip
"""For training and searching; no benchmark is made of them. The longest gives the short documents, its paragraphs."""


def seal(folder: Path) -> None:
    """Write the checksums of a part and say its size. Exits if it is too large."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    (folder / SUMS).write_text("".join(f"{sha256(path)}  {path.name}\n" for path in files))
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder.relative_to(ROOT)}: {len(files)} files, {size / MIB:.1f} MiB")
    if size > LIMIT:
        raise SystemExit(f"error: {folder.name} has {size / MIB:.1f} MiB; a part may have {LIMIT // MIB}")


def fresh(name: str) -> Path:
    folder = PARTS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def names(file: str) -> list[str]:
    """The package names of a list beside this script."""
    lines = (HERE / file).read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def kit() -> None:
    """Download the wheels, pinned, none of their needs."""
    folder = fresh("kit")
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", "--dest", str(folder),
               "--constraint", str(ROOT / "constraints.txt")]  # fmt: skip
    for platform in platforms:
        command += ["--platform", platform]
    wheels, pure = [], []
    for name in names("kit.txt"):
        (pure if name.endswith(" (source)") else wheels).append(name.removesuffix(" (source)"))
    subprocess.run([*command, *wheels], check=True)
    for name in pure:  # published as source only: pure Python, so that a wheel made here fits anywhere
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps",
                 "--constraint", str(ROOT / "constraints.txt"), "--wheel-dir", str(folder), name]  # fmt: skip
        subprocess.run(build, check=True)
        [made] = folder.glob(f"{name.replace('-', '_')}-*.whl")
        if not made.name.endswith("-none-any.whl"):
            raise SystemExit(f"error: {made.name}: made for this machine, not for any")
    seal(folder)


def model(data: Path) -> None:
    """The GGUF in halves, and MMLU, essays and books as one archive."""
    from lr2eval.model import names as models

    found = models.MODELS["smollm2-135m"]
    with tempfile.TemporaryDirectory() as work:
        gguf = models._gguf_file(found, None, Path(work), print)
        models._check(gguf, found)
        content = gguf.read_bytes()
    half = -(-len(content) // 2)
    for number, begin in enumerate((0, half), 1):
        folder = fresh(f"model-{number}")
        (folder / f"{MODEL}.{number}of2").write_bytes(content[begin : begin + half])
        seal(folder)
    folder = fresh("data")
    with tarfile.open(folder / "data.tar.xz", "w:xz") as archive:
        for name, text in members(data):
            entry = tarfile.TarInfo(f"data/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    seal(folder)


def members(data: Path) -> Iterable[tuple[str, bytes]]:
    """(name, content) of what the stages read."""
    for name in ("mmlu/mmlu_test_dev.zip", "paul_graham/PaulGrahamEssays.zip"):
        yield name, (data / name).read_bytes()
    with tarfile.open(data / "books" / "books.tar.xz") as archive:
        for name in BOOKS:
            file = archive.extractfile(f"{name}.txt")
            assert file is not None
            yield f"books/{name}.txt", file.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["kit", "model"])
    parser.add_argument("data", type=Path, nargs="?", help="folder with mmlu/, paul_graham/ and books/")
    arguments = parser.parse_args()
    if arguments.part == "kit":
        kit()
    elif arguments.data is None or not (arguments.data / "books" / "books.tar.xz").is_file():
        raise SystemExit("error: give the folder with mmlu/, paul_graham/ and books/: make gpu-model DATA=DIR")
    else:
        model(arguments.data)


if __name__ == "__main__":
    main()
