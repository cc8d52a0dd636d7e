"""The real warm server; its engine's process is `fake_engine.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from darkroom.warm import server

if __name__ == "__main__":
    server.main(command=(sys.executable, str(Path(__file__).with_name("fake_engine.py"))))
