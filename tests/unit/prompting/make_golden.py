"""Make golden_lpw.json.gz with the long-prompt community pipeline, and say how far our embeddings lie from its.

    python -m tests.unit.prompting.make_golden PIPELINE

PIPELINE is diffusers' examples/community/lpw_stable_diffusion_xl.py; `python -m benchmarks --only encode-demo` fetches
it. Left out are pairs that it crashes on or gets wrong: both prompts empty, and texts between two weights that the
tokenizers divide into unequally many tokens, for which it takes the first one's weights in both. It encodes BREAK as a
word; no prompt has that.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import transformers

from benchmarks.bench_encode import load_reference, load_tokenizers
from darkroom.checkpoint import convert
from darkroom.prompting import encode_prompt
from darkroom.prompting.tokens import Run, Vectors, tokenize
from tests.unit.prompting.encoders import DEMO, load_encoders, make_encoders
from tests.unit.prompting.golden import FILE, TENSORS, digest, draw_pairs, name_pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path)
    reference = load_reference(parser.parse_args().pipeline)
    transformers.logging.set_verbosity_error()  # the pipeline's tokenising warns about every long prompt
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary, "demo")
        convert(DEMO, model)
        tokenizers = load_tokenizers(model)
        encoders = {"tiny": make_encoders(), "demo": load_encoders(model)}
    pairs = {number: pair for number, pair in enumerate(draw_pairs()) if _is_sound(tokenizers, pair)}
    cases = []
    furthest = dict.fromkeys(encoders, 0.0)
    for number, pair in pairs.items():
        case: dict[str, Any] = {"number": number, "name": name_pair(pair)}
        for name, own in encoders.items():
            theirs = reference(tokenizers, own, *pair)
            ours = encode_prompt(tokenizers, own, *pair)
            case[name] = [digest(tensor) for tensor in theirs]
            differences = [
                (getattr(ours, tensor) - golden).abs().max().item()
                for tensor, golden in zip(TENSORS, theirs, strict=True)
            ]
            furthest[name] = max(furthest[name], *differences)
        cases.append(case)
    data = json.dumps(cases, separators=(",", ":")).encode()
    FILE.write_bytes(gzip.compress(data, mtime=0))
    counts = sorted(sum(_lengths(tokenizers[0], text)) for pair in pairs.values() for text in pair)
    print(f"{len(cases)} pairs, {counts[0]} to {counts[-1]} tokens, median {counts[len(counts) // 2]}")
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes; largest difference of any number: {furthest}")


def _is_sound(tokenizers: Any, pair: tuple[str, str]) -> bool:
    first, second = ([_lengths(tokenizer, text) for text in pair] for tokenizer in tokenizers)
    return any(first) and first == second


def _lengths(tokenizer: Any, text: str) -> list[int]:
    """How many tokens each run of one weight has."""
    return [len(run.ids) for run in tokenize(tokenizer, text, Vectors(None)) if isinstance(run, Run)]


if __name__ == "__main__":
    main()
