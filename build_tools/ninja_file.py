"""Writes and runs a ninja file: its depfiles rebuild exactly what a change touches."""

from __future__ import annotations

import fcntl
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import BuildError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Compile:
    """One object file: `rule` applied to `source` with `flags` on top of the rule's own."""

    source: str
    object: str
    rule: str
    flags: tuple[str, ...] = ()


def rule(name: str, command: list[str]) -> list[str]:
    """A rule for one source ($in) or for all objects ($in), which make $out."""
    # $in, $out and $flags are ninja's own; everything else is quoted for the shell.
    words = [word if word.startswith("$") else _quote(word) for word in command]
    lines = [f"rule {name}", f"  command = {' '.join(words)}", f"  description = {name} $out"]
    return [*lines, "  depfile = $out.d", "  deps = gcc"] if "-MMD" in command else lines


def library(target: Path, link: str, objects: list[Compile]) -> list[str]:
    """The objects, and `target` linked of them in their order by the rule `link`."""
    lines = []
    for item in objects:
        lines.append(f"build {item.object}: {item.rule} {item.source}")
        if item.flags:
            lines.append(f"  flags = {' '.join(_quote(flag) for flag in item.flags)}")
    lines.append(f"build {target}: {link} {' '.join(item.object for item in objects)}")
    lines.append(f"default {target}")
    return lines


def _quote(word: str) -> str:
    return shlex.quote(word).replace("$", "$$")


def run_ninja(directory: Path, lines: list[str]) -> None:
    """Brings up to date what `lines` declare; objects are in `directory`, relative to ROOT."""
    (ROOT / directory).mkdir(parents=True, exist_ok=True)
    header = ["ninja_required_version = 1.5", f"builddir = {directory}"]
    ninja = [_find_ninja(), "-f", f"{directory}/build.ninja"]
    with (ROOT / directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ninja itself does not keep two builds apart
        (ROOT / directory / "build.ninja").write_text("\n".join([*header, *lines]) + "\n")
        # Progress goes to stderr: stdout belongs to whoever asked for the build.
        if subprocess.run(ninja, cwd=ROOT, stdout=sys.stderr).returncode:
            raise BuildError("the messages above say why the library was not built")


def _find_ninja() -> str:
    # The package first: pip's isolated builds have it too, and two versions of ninja, which read
    # each other's log as "everything changed", would take turns in compiling all again.
    try:
        from ninja import BIN_DIR
    except ImportError:
        found = shutil.which("ninja")
    else:
        found = str(Path(BIN_DIR) / "ninja")
    if found is None:
        raise BuildError("ninja was not found; install it with pip install ninja")
    return found
