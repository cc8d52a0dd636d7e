"""The data files that the package ships with: component configs, CLIP's vocabulary, fonts and page templates.

Takes nothing. Gives their folder; README.md in it says where they come from. Never changes while the package runs.
"""

from pathlib import Path

RESOURCES = Path(__file__).resolve().parent
