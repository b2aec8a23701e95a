"""``python -m fna`` is the command ``fna``."""

import sys

from fna.cli import main

if __name__ == "__main__":
    sys.exit(main())
