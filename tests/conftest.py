"""What all tests share: which tier they belong to, how two workers divide them, and a model of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.fixtures.checkpoints import make_model_dir

FULL = ("browser", "cluster", "compat", "kill")
"""Folders whose tests are all in the full tier; elsewhere a test says so itself, with `pytest.mark.full`."""
FULL_TIMEOUT_S = 1800

ALONE = ("cluster",)
"""Folders whose tests share one service of the machine, so that one worker runs them all."""

LONGEST_FIRST = ("kill", "cluster", "workflow", "browser", "fuzz", "serve", "compat")
"""Folders that workers begin with, so that no worker is left alone with a long file at the end."""


def folder_of(path: str) -> str:
    """The folder directly below tests/ that a path or node id relative to the project lies in."""
    return path.split("/")[1]


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests go to one worker, which makes the file's fixtures once; so do all tests of a folder in ALONE."""

    def _split_scope(self, nodeid: str) -> str:
        folder = folder_of(nodeid)
        return folder if folder in ALONE else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    config.option.loadscopereorder = False  # by number of tests; ours is below
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if folder_of(item.nodeid) in FULL:
            item.add_marker("full")
        if item.get_closest_marker("full") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(FULL_TIMEOUT_S))
    if hasattr(config, "workerinput"):
        rank = {folder: place for place, folder in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: rank.get(folder_of(item.nodeid), len(rank)))


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted model with its audit beside it. Not to be changed: copy it first."""
    return make_model_dir(tmp_path_factory.mktemp("model"))
