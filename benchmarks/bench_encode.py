"""Encoding a long prompt, against the long-prompt community pipeline for SDXL.

    python -m benchmarks.bench_encode [--rounds 5] [--only encode-full|encode-demo]

One row for random encoders of SDXL's full size and one for the demo checkpoint's, in fp32 on the CPU: a prompt of
724 tokens with weights, a negative prompt of 23. Both sides have the same encoders and tokenizers in the same
process, on one thread, and take turns: where other processes want the cores too, threads that wait for each other take
many times as long. compel is measured beside them where it is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.measure import CHECKPOINT, ROOT, Median, Row
from darkroom.checkpoint import convert
from darkroom.prompting import encode_prompt

REFERENCE = ROOT / "build/reference/lpw_stable_diffusion_xl.py"
REFERENCE_URL = (
    "https://raw.githubusercontent.com/huggingface/diffusers/58eb52c0803ea9af3abec60841c2a093bdf1f951/"
    "examples/community/lpw_stable_diffusion_xl.py"
)
REFERENCE_SHA256 = "e397d440ffd49aa235f96432f726cf979198bec5acc66f1abda49146d6a4b0f0"
ARCHITECTURE = ROOT / "workflow/darkroom/resources/architectures/sdxl-base"
TOLERANCE = 1e-3
"""How far the two sides' numbers may lie apart: they add in another order, through 32 layers."""

PROMPT = ", ".join(
    f"(a wide valley in the morning mist:1.2), sharp focus, [old] stone bridge number {number} over a river"
    for number in range(35)
)
NEGATIVE = "(low quality:1.4), blurry, deformed hands, extra fingers, text, watermark, jpeg artifacts, [dull] colours"


@dataclass(frozen=True)
class Case:
    """Encoders to measure with, the largest ratio to the community pipeline, and how often a round encodes.

    Many times where once is so short that another process's turn would be most of it.
    """

    name: str
    label: str
    bar: float
    repeats: int
    load: Callable[[Path], tuple[Any, Any]]


def _random_encoders(_model: Path) -> tuple[Any, Any]:
    """SDXL's text encoders with the random weights that transformers starts a training with."""
    import torch
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    first = CLIPTextModel(CLIPTextConfig.from_pretrained(ARCHITECTURE / "text_encoder"))
    second = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(ARCHITECTURE / "text_encoder_2"))
    return first.eval().requires_grad_(False), second.eval().requires_grad_(False)


def _demo_encoders(model: Path) -> tuple[Any, Any]:
    """The demo checkpoint's text encoders, in fp32."""
    import torch
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    def load(model_class: Any, name: str) -> Any:
        encoder = model_class.from_pretrained(model / name, variant="fp16", dtype=torch.float32, local_files_only=True)
        return encoder.eval().requires_grad_(False)

    return load(CLIPTextModel, "text_encoder"), load(CLIPTextModelWithProjection, "text_encoder_2")


CASES = (
    Case("encode-full", "encode 724 tokens, SDXL's size", 0.65, 1, _random_encoders),
    Case("encode-demo", "encode 724 tokens, demo", 0.4, 20, _demo_encoders),
)


def load_tokenizers(folder: Path) -> tuple[Any, Any]:
    """Both tokenizers of a converted model."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    names = ("tokenizer", "tokenizer_2")
    first, second = (CLIPTokenizer.from_pretrained(folder / name, local_files_only=True) for name in names)
    return first, second


def load_reference(path: Path = REFERENCE) -> Callable[..., Sequence[Any]]:
    """The community pipeline's function: (tokenizers, encoders, prompt, negative) to its four tensors."""
    import torch

    specification = importlib.util.spec_from_file_location("lpw_stable_diffusion_xl", path)
    if specification is None or specification.loader is None:
        raise SystemExit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def encode(tokenizers: Sequence[Any], encoders: Sequence[Any], prompt: str, negative: str) -> Sequence[Any]:
        pipe = SimpleNamespace(
            tokenizer=tokenizers[0],
            tokenizer_2=tokenizers[1],
            text_encoder=encoders[0],
            text_encoder_2=encoders[1],
            _execution_device=torch.device("cpu"),
        )
        with torch.no_grad():
            result: Sequence[Any] = module.get_weighted_text_embeddings_sdxl(pipe, prompt=prompt, neg_prompt=negative)
        return result

    return encode


def fetch_reference() -> Path:
    """The community pipeline's file, fetched if it isn't there; it is not part of this project."""
    import requests

    if not REFERENCE.exists():
        try:
            answer = requests.get(REFERENCE_URL, timeout=60)
            answer.raise_for_status()
        except requests.RequestException as error:
            hint = f"put the file at {REFERENCE}, or measure other rows with --only"
            raise SystemExit(f"can't fetch {REFERENCE_URL}: {error}. Hint: {hint}.") from None
        REFERENCE.parent.mkdir(parents=True, exist_ok=True)
        REFERENCE.write_bytes(answer.content)
    found = hashlib.sha256(REFERENCE.read_bytes()).hexdigest()
    if found != REFERENCE_SHA256:
        raise SystemExit(f"{REFERENCE} has SHA256 {found}, not {REFERENCE_SHA256}. Hint: delete it to fetch it again.")
    return REFERENCE


def run(rounds: int, *, cases: Sequence[Case] = CASES) -> list[Row]:
    """One row a case."""
    if not cases:
        return []
    import torch

    reference = load_reference(fetch_reference())
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary, "demo")
        convert(CHECKPOINT, model)
        tokenizers = load_tokenizers(model)
        return [_measure(case, reference, tokenizers, case.load(model), rounds) for case in cases]


def _measure(
    case: Case, reference: Callable[..., Sequence[Any]], tokenizers: Sequence[Any], encoders: Sequence[Any], rounds: int
) -> Row:
    ways = {
        "ours": lambda: encode_prompt(tokenizers, encoders, PROMPT, NEGATIVE),
        "community": lambda: reference(tokenizers, encoders, PROMPT, NEGATIVE),
    }
    compel = _compel(tokenizers, encoders)
    if compel is not None:
        ways["compel"] = compel
    results = {name: way() for name, way in ways.items()}  # also warms up
    difference = (results["ours"].prompt_embeds - results["community"][0]).abs().max().item()
    if difference > TOLERANCE:
        raise SystemExit(f"{case.name}: the two sides' embeddings differ by {difference:.2g}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    busy = dict.fromkeys(ways, 0.0)
    for _round in range(rounds):
        for name, way in ways.items():
            begun, begun_busy = time.perf_counter(), time.process_time()
            for _ in range(case.repeats):
                way()
            seconds[name].append((time.perf_counter() - begun) / case.repeats)
            busy[name] += time.process_time() - begun_busy
            print(f"  {case.name}, {name}: {seconds[name][-1]:.3f} s", flush=True)
    medians = {name: Median(values) for name, values in seconds.items()}
    notes = [f"{busy['ours'] / busy['community']:.2f} in processor time", f"largest difference {difference:.1g}"]
    if "compel" in medians:
        notes.append(f"compel {medians['compel']:.2f} s, ratio {medians['ours'] / medians['compel']:.2f}")
    else:
        notes.append("compel isn't installed")
    return Row(case.label, medians["ours"], "the community pipeline", medians["community"], case.bar, "; ".join(notes))


def _compel(tokenizers: Sequence[Any], encoders: Sequence[Any]) -> Callable[[], Any] | None:
    """The same prompts with compel, in its own grammar and way of weighting; None where it isn't installed."""
    if importlib.util.find_spec("compel") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from compel import Compel, ReturnedEmbeddingsType

        compel = Compel(
            tokenizer=list(tokenizers),
            text_encoder=list(encoders),
            returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
            requires_pooled=[False, True],
            truncate_long_prompts=False,
        )
    # Its grammar writes the weight behind the bracket, and knows no square ones.
    texts = [
        re.sub(r"\[(\w+)\]", r"(\1)0.9", re.sub(r"\((.*?):(.*?)\)", r"(\1)\2", text)) for text in (PROMPT, NEGATIVE)
    ]

    def encode() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [compel(text) for text in texts]

    return encode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    arguments = parser.parse_args()
    for row in run(arguments.rounds, cases=[case for case in CASES if case.name in (arguments.only or case.name)]):
        print(
            f"{row.what}: {row.ours_s:.3f} s, {row.reference} {row.reference_s:.3f} s, ratio {row.ratio:.2f}; {row.note}"
        )
