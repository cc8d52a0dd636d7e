"""The lines that scripts and people look for in the logs of the worker that Darkroom replaces, word for word.

Each is logged, beside Darkroom's own lines, at the moment it becomes true, and only then: the first five by the build
(`snakemake models/`), the others by the worker (`darkroom runpod`, `darkroom serve`).
"""

from __future__ import annotations

CHECKING = "Checking checkpoint..."
DOWNLOADING = "Downloading checkpoint..."
DOWNLOADED = "Checkpoint downloaded successfully!"
CONVERTING = "Converting checkpoint to Diffusers format..."
CONVERTED = "Checkpoint converted to Diffusers format successfully!"
BUILD = frozenset((CHECKING, DOWNLOADING, DOWNLOADED, CONVERTING, CONVERTED))

SETTING_UP = "Setting up models for True LPW-SDXL (Diffusers format only)..."
FOUND_AT = "✓ Diffusers format found at %s"
WAS_CONVERTED = "✓ Diffusers format found - build-time conversion successful"
LOADED = "✓ True LPW-SDXL pipeline loaded from Diffusers format successfully"
UNLIMITED = "✓ Unlimited prompt support active - no 77 token limit!"
TOKEN_COUNT = "Prompt token count: %d"
LONG_PROMPT = "✓ Long prompt detected - True LPW-SDXL will handle unlimited tokens!"
LONG_TOKENS = 77
"""A prompt with more is a long one."""
TILING = "✓ VAE tiling enabled"
GPU_MEMORY = "GPU memory: %.1f GB"
RESIDENT = "✓ Keeping models on GPU (sufficient VRAM available)"
OFFLOAD = "✓ Model CPU offload enabled"
NOT_FOUND = "✗ CRITICAL: Diffusers format not found - should have been converted at build-time!"
BUILD_FAILED = "Diffusers format missing - build process failed"
