"""Projects to begin with, as in tests/workflow."""

from tests.workflow.conftest import finished, project

__all__ = ["finished", "project"]
