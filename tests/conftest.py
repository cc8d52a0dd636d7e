"""Shared by all tests: the tiers, how tests are distributed to workers, and a model with random weights."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.fixtures.checkpoints import make_model_dir

FULL = ("browser", "cluster", "compat", "kill")
"""Folders whose tests are all in the full tier; in other folders, tests are marked `pytest.mark.full`."""
FULL_TIMEOUT_S = 1800

ALONE = ("cluster",)
"""Folders whose tests share one service, such as SLURM; one worker runs all tests of the folder."""

LONGEST_FIRST = ("kill", "cluster", "workflow", "browser", "fuzz", "serve", "compat")
"""Folders that workers start with, so that no long file is left for the end, when the other worker is idle."""


def folder_of(path: str) -> str:
    """The folder directly below tests/ that contains the path, which is relative to the project; node ids work too."""
    return path.split("/")[1]


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Sends all tests of a file to one worker, so that module fixtures are created once, and all of a folder in ALONE."""

    def _split_scope(self, nodeid: str) -> str:
        folder = folder_of(nodeid)
        return folder if folder in ALONE else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    config.option.loadscopereorder = False  # xdist would sort by number of tests instead of LONGEST_FIRST
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)  # before -m is evaluated
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if folder_of(item.nodeid) in FULL:
            item.add_marker("full")
        if item.get_closest_marker("full") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(FULL_TIMEOUT_S))
    if hasattr(config, "workerinput"):
        rank = {folder: place for place, folder in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: rank.get(folder_of(item.nodeid), len(rank)))


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: freeing memory after a model needn't look through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted model with its audit beside it. Not to be changed: copy it first."""
    return make_model_dir(tmp_path_factory.mktemp("model"))
