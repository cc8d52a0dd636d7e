"""Darkroom: a declarative build-and-serve pipeline for Stable Diffusion XL."""

__version__ = "0.1.0"
