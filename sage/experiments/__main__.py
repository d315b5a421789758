"""`python -m sage.experiments` says what replaces it, and runs it."""

import sys

from sage.__main__ import main

if __name__ == "__main__":
    print("python -m sage.experiments is now python -m sage study.", file=sys.stderr)
    sys.exit(main(["study", *sys.argv[1:]]))
