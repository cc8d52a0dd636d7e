# Two commands are enough: `make results` and `make test`. Everything runs in .venv, made from the lock file.

PYTHON ?= python3
# Which build of PyTorch: cpu, cu126, …. If empty, the one for this machine's driver and GPUs; docs/how-to/install.md has the
# table. PyPI's, which on Linux is one for CUDA 13, where it fits or where no GPU is found.
TORCH ?=
BIN := .venv/bin
ACTIVATE := . $(BIN)/activate &&

.PHONY: results test test-all older check format bench soak gpu demo-checkpoint generated lock check-lock clean

results: .venv/ready
	$(ACTIVATE) snakemake --cores 1 results/
	@echo "Open results/index.html in a browser; the contact sheets are results/*/contact-sheet.png."

# What a change can break in daily work; `test-all` adds what is marked `full`, such as SLURM, kills and a browser.
test: .venv/ready
	$(ACTIVATE) pytest --numprocesses 2 -m "not full"

test-all: .venv/ready .venv-older/ready tests/browser/node_modules/ready
	$(ACTIVATE) pytest --numprocesses 2 --durations 20

# Older libraries for tests/compat; torch, numpy and the like are those of .venv, seen after the older ones.
older: .venv-older/ready

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/Snakefile workflow/rules
	$(ACTIVATE) snakemake --lint
	$(BIN)/python -m tools.generated --check

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/Snakefile workflow/rules

generated: .venv/ready
	$(BIN)/python -m tools.generated

bench: .venv/ready
	$(ACTIVATE) python -m benchmarks
	$(ACTIVATE) python -m benchmarks.soak_serve

# Ten thousand pictures under a hundred kills, then a cluster's jobs that are cancelled: hours. `test-all` has a short form.
PICTURES ?= 10000
soak: .venv/ready
	$(ACTIVATE) python -m benchmarks.soak_kills --pictures $(PICTURES)
	$(ACTIVATE) python -m benchmarks.soak_kills --pictures 500 --kills 20 --cluster

# The first ten minutes on a GPU: right first, then how fast. `make gpu DEVICE=cpu` tries the parts on the demo checkpoint.
DEVICE ?= cuda
gpu: .venv/ready
	$(ACTIVATE) python -m benchmarks.bench_gpu --device $(DEVICE) $(if $(filter cuda%,$(DEVICE)),--write)

# Hours on two cores. Each step can be run alone; see demo/README.md.
demo-checkpoint: .venv/ready
	$(ACTIVATE) python -m demo

# What is locked stays, unless pyproject.toml wants another version or UPGRADE names the package.
lock: .venv/ready
	$(ACTIVATE) uv lock --python $(BIN)/python $(addprefix --upgrade-package ,$(UPGRADE))
	$(ACTIVATE) python -m tools.export_lock

# Whether every Python and platform can install it.
check-lock: .venv/ready
	$(ACTIVATE) python -m tools.check_lock

# torch first: other packages ask for a range, and would bring in another build. Without the packages' own requirements, since
# the lock file has them all but torchvision, which spandrel asks for and Darkroom does without; torch's once more, for
# what its CUDA builds need.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	build="$(TORCH)"; build="$${build:-$$(PYTHONPATH=workflow $(PYTHON) -m darkroom.base.torch_builds)}"; \
	$(BIN)/pip install --quiet --no-deps $${build:+--index-url https://download.pytorch.org/whl/$$build} $$(grep '^torch==' requirements.lock)
	$(BIN)/pip install --quiet --no-deps --requirement requirements.lock
	$(BIN)/pip install --quiet $$(grep '^torch==' requirements.lock)
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

.venv-older/ready: envs/older-diffusers.txt .venv/ready
	$(PYTHON) -m venv --clear .venv-older
	.venv-older/bin/pip install --quiet --no-deps --requirement envs/older-diffusers.txt
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.venv-older/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/current.pth"
	touch $@

# axe-core, which the tests of pages use; without npm they are skipped aloud.
tests/browser/node_modules/ready: tests/browser/package-lock.json
	! command -v npm > /dev/null || { cd tests/browser && npm ci --ignore-scripts --no-audit --no-fund && touch node_modules/ready; }

clean:
	rm -rf .venv .venv-older tests/browser/node_modules build logs .snakemake .mypy_cache .ruff_cache .pytest_cache
