"""What RunPod's hub and templates start: `python -u handler.py` is `darkroom runpod`, options and all."""

import sys

from darkroom.cli.command import main

if __name__ == "__main__":
    sys.exit(main(["runpod", *sys.argv[1:]]))
