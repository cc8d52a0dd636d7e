#!/usr/bin/env bash
# Run by Snakemake in the new environment, from the working folder.
set -euo pipefail
python -m pip install "$(grep '^torch==' requirements.lock)"
python -m pip install --requirement requirements.lock
python -m pip install --no-deps --editable .
