"""Where the data files live: component configs, CLIP's vocabulary, the demo checkpoint, page templates."""

from pathlib import Path

RESOURCES = Path(__file__).resolve().parent.parent / "resources"
