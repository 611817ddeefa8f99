"""The command line: ``python -m seqkern COMMAND``.

To add a command, add an entry to :data:`COMMANDS`. What a command needs is imported when it is
chosen, not before. A mistake of the user's is raised as :class:`seqkern.core.errors.UserError` and
printed as one sentence.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from seqkern.core.errors import UserError


class Command(NamedTuple):
    """One command of the command line."""

    help: str
    """One line for the list of commands."""
    run: Callable[[argparse.Namespace], int]
    """Does the work and returns the exit status."""
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    """Declares the command's options."""


def _info(options: argparse.Namespace) -> int:
    from seqkern.core.info import info

    print(info())
    return 0


def _demo(options: argparse.Namespace) -> int:
    from seqkern.demo import run

    return run(options)


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    from seqkern.demo import add_arguments

    add_arguments(parser)


def _vectors(options: argparse.Namespace) -> int:
    from seqkern.word2vec.commands import run_vectors

    return run_vectors(options)


def _vectors_arguments(parser: argparse.ArgumentParser) -> None:
    from seqkern.word2vec.commands import add_vectors_arguments

    add_vectors_arguments(parser)


def _nearest(options: argparse.Namespace) -> int:
    from seqkern.word2vec.commands import run_nearest

    return run_nearest(options)


def _nearest_arguments(parser: argparse.ArgumentParser) -> None:
    from seqkern.word2vec.commands import add_nearest_arguments

    add_nearest_arguments(parser)


COMMANDS = {
    "info": Command("print what is installed, built and in use, for a bug report", _info),
    "demo": Command(
        "train a language model with PyTorch and with seqkern, and compare", _demo, _demo_arguments
    ),
    "vectors": Command("train word vectors on a text file", _vectors, _vectors_arguments),
    "nearest": Command("print the nearest neighbours of words", _nearest, _nearest_arguments),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after ``python -m seqkern``; None takes those of this process.

    Returns:
        The exit status: 0 for success, 1 for a failure, 130 for an interrupt. Wrong options leave
        through argparse's ``SystemExit`` with status 2.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character shows a mark instead
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(prog="python -m seqkern", description="seqkern's tools")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    chosen = next((word for word in words if word in COMMANDS), None)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.help, description=command.help)
        if name == chosen:
            command.add_arguments(subparser)

    options = parser.parse_args(words)
    if options.version:
        from seqkern._version import __version__

        print(__version__)
        return 0
    if options.command is None:
        parser.error("give a command: " + ", ".join(COMMANDS))
    try:
        status = COMMANDS[options.command].run(options)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"seqkern {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nseqkern {options.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
