#!/usr/bin/env bash
# Run by Snakemake in the new environment, from the user's folder, which holds other files than Darkroom's. It installs the
# Darkroom that planned the run: that exported DARKROOM_PYTHON, its own interpreter.
set -euo pipefail
if [ -z "${DARKROOM_PYTHON:-}" ]; then
  echo "Darkroom's environment can't be made: DARKROOM_PYTHON is not set. Let Snakemake run this script, in a workflow of Darkroom." >&2
  exit 1
fi
folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT
if ! "$DARKROOM_PYTHON" -m darkroom.installation "$folder"; then
  echo "Darkroom's environment can't be made: no Darkroom can be imported with '$DARKROOM_PYTHON', which started Snakemake." >&2
  exit 1
fi
# torch first: other packages ask for a range, and would bring in another build. DARKROOM_TORCH is cpu, cu126, …
torch=$(grep '^torch==' "$folder/requirements.lock")
python -m pip install --no-deps ${DARKROOM_TORCH:+--index-url "https://download.pytorch.org/whl/$DARKROOM_TORCH"} "$torch"
# Without requirements, since the lock file has all but torchvision, which spandrel asks for and Darkroom does without; then
# what a CUDA build of torch needs.
python -m pip install --no-deps --requirement "$folder/requirements.lock"
python -m pip install "$torch"
python -m pip install --no-deps --requirement "$folder/darkroom.txt"
