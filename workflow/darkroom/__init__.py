"""Darkroom: a declarative build-and-serve pipeline for Stable Diffusion XL."""

__version__ = "0.1.0"


def snakefile() -> str:
    """The workflow's Snakefile as installed with this package, for a project's `include:` or `module:`."""
    from darkroom.installation import SNAKEFILE

    return str(SNAKEFILE)
