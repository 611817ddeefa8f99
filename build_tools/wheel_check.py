"""python -m build_tools.wheel_check WHEEL...: whether wheels run where manylinux_2_28 promises.

Says of each wheel its size and the newest version of each system library that its shared libraries
ask for; ends with 1 and the reasons where a wheel asks for a newer one, is too large, or is none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

POLICY = "manylinux_2_28"
# What a system of that policy has (PEP 600; auditwheel's policy of that name).
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}
LARGEST = 8 << 20  # bytes
_NEEDS_SECTION = "Version needs section"
_VERSION = re.compile(r"Name: ([A-Z]+)_(\d+(?:\.\d+)*)\s")

Version = tuple[int, ...]


def versions(library: Path) -> dict[str, Version]:
    """The newest version that a shared library needs of each name, e.g. {"GLIBC": (2, 27)}."""
    command = ["readelf", "--version-info", "--wide", str(library)]
    english = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=english)
    return newest_needed(done.stdout)


def newest_needed(report: str) -> dict[str, Version]:
    """The same, of what readelf printed."""
    found: dict[str, Version] = {}
    needed = report.partition(_NEEDS_SECTION)[2].replace("GLIBC_ABI_DT_RELR", "GLIBC_2.36")
    for name, number in _VERSION.findall(
        needed
    ):  # packed relocations: glibc reads them from 2.36 on
        version = tuple(map(int, number.split(".")))
        found[name] = max(version, found.get(name, ()))
    return found


def check(wheel: Path) -> tuple[dict[str, Version], list[str]]:
    """What the wheel's shared libraries need at the newest, and what is wrong with the wheel."""
    needed: dict[str, Version] = {}
    wrong = []
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        libraries = [name for name in archive.namelist() if re.search(r"\.so(\.\d+)*$", name)]
        for name in libraries:
            for library, version in versions(Path(archive.extract(name, folder))).items():
                needed[library] = max(version, needed.get(library, ()))
                if library in NEWEST and version > NEWEST[library]:
                    newest = said(library, NEWEST[library])
                    wrong.append(
                        f"{name} needs {said(library, version)}; {POLICY} has at most {newest}"
                    )
    if not libraries:
        wrong.append("there is no shared library in it")
    size = wheel.stat().st_size
    if size > LARGEST:
        wrong.append(f"it has {size / (1 << 20):.1f} MiB, more than {LARGEST >> 20}")
    return needed, wrong


def unreadable(path: Path) -> str:
    """Why a file cannot be looked into; "" where it can."""
    if not path.is_file():
        return "there is no such file"
    return "" if zipfile.is_zipfile(path) else "it is no wheel, which would be a zip archive"


def said(library: str, version: Version) -> str:
    return f"{library}_{'.'.join(map(str, version))}"


def main(arguments: list[str]) -> int:
    if not arguments:
        print("usage: python -m build_tools.wheel_check WHEEL...", file=sys.stderr)
        return 2
    failed = False
    for wheel in map(Path, arguments):
        reason = unreadable(wheel)
        if reason:
            print(f"{wheel}: {reason}", file=sys.stderr)
            failed = True
            continue
        needed, wrong = check(wheel)
        newest = ", ".join(said(*item) for item in sorted(needed.items()))
        print(f"{wheel.name}: {wheel.stat().st_size / (1 << 20):.1f} MiB; needs {newest}")
        for reason in wrong:
            print(f"{wheel.name}: {reason}", file=sys.stderr)
        failed = failed or bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
