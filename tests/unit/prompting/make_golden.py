"""Make golden_lpw.json.gz with the long-prompt community pipeline, and say how far our embeddings lie from its.

    python -m tests.unit.prompting.make_golden PIPELINE

PIPELINE is diffusers' examples/community/lpw_stable_diffusion_xl.py; `python -m benchmarks --only encode-demo` fetches
it. Left out are pairs that it crashes on or gets wrong: both prompts empty, and texts that the two tokenizers divide
into unequally many tokens. It encodes BREAK as a word; no prompt has that.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import transformers

from benchmarks.bench_encode import load_encoders, load_reference, load_tokenizers
from darkroom.checkpoint import convert
from darkroom.prompting import encode_prompt
from darkroom.prompting.tokens import Vectors, count_tokens, tokenize
from tests.unit.prompting.encoders import DEMO, make_encoders
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
    counts = sorted(count for pair in pairs.values() for count in _count(tokenizers[0], pair))
    print(f"{len(cases)} pairs, {counts[0]} to {counts[-1]} tokens, median {counts[len(counts) // 2]}")
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes; largest difference of any number: {furthest}")


def _is_sound(tokenizers: Any, pair: tuple[str, str]) -> bool:
    first, second = (_count(tokenizer, pair) for tokenizer in tokenizers)
    return any(first) and first == second


def _count(tokenizer: Any, pair: tuple[str, str]) -> list[int]:
    return [count_tokens(tokenize(tokenizer, text, Vectors(None))) for text in pair]


if __name__ == "__main__":
    main()
