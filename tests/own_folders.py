"""The command fna in a folder of each process's own, under torchrun: own_folders.py ROOT ARGUMENTS ..."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fna.cli import main

if __name__ == "__main__":
    os.chdir(Path(sys.argv[1]) / os.environ["RANK"])
    sys.exit(main(sys.argv[2:]))
