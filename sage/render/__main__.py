"""`python -m sage.render`: the same as `python -m sage render`."""

import sys

from sage.render.command import main

if __name__ == "__main__":
    sys.exit(main())
