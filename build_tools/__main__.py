"""python -m build_tools SANITIZERS: builds the CPU library and the text module for `make sanitize`,
prints the directory that holds them."""

import sys

from .libraries import build_sanitized

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m build_tools SANITIZERS    (e.g. address,undefined)")
    print(build_sanitized(sys.argv[1]))
