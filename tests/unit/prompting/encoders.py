"""Real tokenizers and CLIP text encoders of toy size, whose weights are a formula: the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from darkroom.checkpoint.small_files import tokenizer_files

DEMO = Path(__file__).resolve().parents[3] / "workflow/resources/demo/darkroom-demo.safetensors"


def make_tokenizers(folder: Path) -> tuple[Any, Any]:
    """SDXL's two tokenizers, which differ in what they pad with."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    tokenizers = []
    for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        (folder / name).mkdir(parents=True)
        for file, data in tokenizer_files(pad).items():
            (folder / name / file).write_bytes(data)
        tokenizers.append(CLIPTokenizer.from_pretrained(folder / name, local_files_only=True))
    return tokenizers[0], tokenizers[1]


def make_encoders() -> tuple[Any, Any]:
    """Encoders of 4 and of 6 wide hidden states with three layers each; `eos_token_id` is 2 as in SDXL's configs."""
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    return _make(CLIPTextModel, 4, "quick_gelu"), _make(CLIPTextModelWithProjection, 6, "gelu")


def load_encoders(folder: Path) -> tuple[Any, Any]:
    """Both text encoders of a converted model, in fp32."""
    import torch
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    def load(model_class: Any, name: str) -> Any:
        model = model_class.from_pretrained(folder / name, variant="fp16", dtype=torch.float32, local_files_only=True)
        return model.eval().requires_grad_(False)

    return load(CLIPTextModel, "text_encoder"), load(CLIPTextModelWithProjection, "text_encoder_2")


def _make(model_class: Any, width: int, activation: str) -> Any:
    import torch
    from transformers.models.clip.configuration_clip import CLIPTextConfig

    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    model = model_class(config).eval().requires_grad_(False)
    for number, (name, values) in enumerate(sorted(model.named_parameters())):
        wave = torch.sin(torch.arange(values.numel(), dtype=torch.float64) * (1.7 + 0.31 * number) + number)
        values.copy_(wave.reshape(values.shape) * 0.5 + ("norm" in name and name.endswith("weight")))
    return model
