"""`python -m pgqueue`: the same as the command `pgqueue`."""

from __future__ import annotations

from pgqueue.cli.main import main

if __name__ == "__main__":
    main()
