"""`python -m wsi_magnet`: the command line where the `wsi-magnet` script is not on the path."""

from __future__ import annotations

from wsi_magnet.cli.main import main

if __name__ == "__main__":
    main()
