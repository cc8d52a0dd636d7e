# syntax=docker/dockerfile:1
# A worker with its models inside, for RunPod or any other place; docs/how-to/deploy.md says how to build it.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /darkroom
COPY pyproject.toml requirements.lock setup.py ./
# Which build of PyTorch. An image is built before anybody knows where it will run: that for CUDA 12.9 runs on every driver from
# 525 on, and on GPUs from the GeForce RTX 20 to the RTX 50. docs/how-to/install.md has the others: cpu, cu126, cu130, ….
ARG TORCH=cu129
# torch first: other packages ask for a range, and would bring in another build. The project itself is still an empty
# folder, so that an edit of its code installs nothing again. spandrel brings in a torchvision that may be of another
# build than torch, with which transformers can't be imported; nothing here needs it.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-deps ${TORCH:+--index-url "https://download.pytorch.org/whl/${TORCH}"} \
        "$(grep '^torch==' requirements.lock)" \
    && mkdir -p workflow/darkroom \
    && touch README.md LICENSE workflow/darkroom/__init__.py \
    && /opt/venv/bin/pip install --constraint requirements.lock --editable '.[runpod]' \
    && /opt/venv/bin/pip uninstall --yes torchvision

FROM dependencies AS models
ARG CONFIG=config/config.yaml
COPY . .
# Sources that ask for a token get it as a build secret: it is in no layer and in no history.
RUN --mount=type=secret,id=civitai,env=CIVITAI_API_KEY \
    --mount=type=secret,id=huggingface,env=HF_TOKEN \
    /opt/venv/bin/snakemake --cores all --configfile "${CONFIG}" --config models_dir=models -- models/ \
    && rm -rf models/checkpoints models/downloads models/.cache \
    && chmod -R a+rX models \
    && /opt/venv/bin/python -m compileall -q workflow/darkroom

FROM ${PYTHON_IMAGE}
ARG CONFIG=config/config.yaml
# The driver of the host brings CUDA's lower half in; the upper one came with torch.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --uid 1000 --create-home darkroom
WORKDIR /darkroom
COPY --from=dependencies /opt/venv /opt/venv
COPY LICENSE handler.py test_input.json ./
COPY ${CONFIG} config/config.yaml
COPY --from=models /darkroom/workflow workflow
COPY --from=models /darkroom/models models
# Nothing in here belongs to this user, so that a worker can't change its own code or models.
USER 1000
# No HEALTHCHECK: a worker listens nowhere. `darkroom serve` answers at /healthz and /readyz.
CMD ["darkroom", "runpod"]
