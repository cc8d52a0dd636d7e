"""The data files that the package ships with: component configs, CLIP's vocabulary, fonts and page templates.

README.md in this folder says where they come from.
"""

from pathlib import Path

RESOURCES = Path(__file__).resolve().parent
