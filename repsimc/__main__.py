"""`python -m repsimc`: the command line, where no `repsimc` is on the path."""

from __future__ import annotations

import sys

from repsimc.compiler.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
