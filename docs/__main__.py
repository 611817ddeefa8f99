"""Makes what is made in the documentation: ``python -m docs``.

Tables and charts come from the records in ``bench/results``, the picture of the architecture from
the imports of ``seqkern``. With ``--check`` nothing is written; the exit status says whether
anything would change.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from docs.making import ROOT, made_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what changed and name it. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, say what would change")
    options = parser.parse_args(arguments)
    changed = [
        (path, text)
        for path, text in made_files().items()
        if not path.exists() or path.read_text() != text
    ]
    for path, text in changed:
        print(f"{'outdated' if options.check else 'written'}: {path.relative_to(ROOT)}")
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
