"""What says that a GPU is there, and which build of torch suits its driver."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from darkroom.base import nvidia, torch_builds
from darkroom.base.nvidia import Gpu, Nvidia, find_nvidia
from darkroom.base.torch_builds import TorchBuild, choose_build, install_command, read_build
from tests.fixtures.nvidia import CLOSED_MODULE, OPEN_MODULE, Nvml, write_device_files, write_smi

RTX_3090 = ("NVIDIA GeForce RTX 3090", 25_769_803_776, 8, 6)


def no_library(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a GPU, whatever this one has."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "dev").mkdir()
    return tmp_path


def find(root: Path, load: Any = no_library) -> Nvidia:
    return find_nvidia(root / "dev", root / "version", load=load)


def test_a_machine_without_a_gpu_has_none(nothing: Path) -> None:
    write_device_files(nothing / "dev", "nvidia-caps", "nvidiactl", "nvme0")
    assert find(nothing) == Nvidia()
    assert not find(nothing).has_gpu


@pytest.mark.parametrize(
    ("text", "version"), [(OPEN_MODULE, "580.65.06"), (CLOSED_MODULE, "550.54.14"), ("what?", None)]
)
def test_the_kernel_module_says_its_version(nothing: Path, text: str, version: str | None) -> None:
    (nothing / "version").write_text(text)
    assert find(nothing).driver == version
    assert find(nothing).has_gpu == (version is not None)


def test_the_driver_says_all_through_nvml(nothing: Path) -> None:
    write_device_files(nothing / "dev", "nvidia0", "nvidia1", "nvidiactl")
    (nothing / "version").write_text(CLOSED_MODULE)
    loaded = []

    def load(name: str) -> Nvml:
        loaded.append(name)
        if len(loaded) == 1:
            raise OSError
        return Nvml([RTX_3090, RTX_3090])

    found = find(nothing, load)
    assert loaded == ["libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1"]
    assert (found.driver, found.cuda, found.fault, found.closed) == ("550.54.14", (12, 4), None, ())
    assert found.gpus == (Gpu("NVIDIA GeForce RTX 3090", 25_769_803_776, (8, 6)),) * 2
    assert found.title == "driver 550.54.14 (CUDA 12.4)"


@pytest.mark.parametrize(
    ("library", "fault"),
    [
        (Nvml([], starts=18), "the driver was updated, and the kernel still has the older one"),
        (Nvml([], starts=9), "the driver's kernel module is not loaded"),
        (Nvml([], starts=999), "NVML answers with error 999"),
        (Nvml([RTX_3090, None]), "GPU 1: a GPU has fallen off the bus"),
    ],
)
def test_what_keeps_the_driver_from_answering_is_named(nothing: Path, library: Nvml, fault: str) -> None:
    assert find(nothing, lambda name: library).fault == fault


def test_files_that_this_user_may_not_open(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_device_files(nothing / "dev", "nvidia0", "nvidiactl")
    monkeypatch.setattr(nvidia.os, "access", lambda path, mode: "ctl" not in str(path))
    assert find(nothing).closed == (str(nothing / "dev/nvidiactl"),)


def test_the_command_is_asked_where_there_is_no_library(nothing: Path) -> None:
    write_smi(nothing / "bin")
    found = find(nothing)
    assert (found.driver, found.cuda, found.gpus) == ("550.54.14", (12, 4), (Gpu("NVIDIA GeForce RTX 3090"),))
    write_smi(nothing / "bin", "#!/bin/sh\necho NVIDIA-SMI has failed >&2; exit 9\n")
    assert not find(nothing).has_gpu
    (nothing / "version").write_text(CLOSED_MODULE)
    assert find(nothing).fault == "nvidia-smi can't reach the driver"


@pytest.mark.parametrize(
    ("driver", "cuda", "capabilities", "build"),
    [
        ("580.65.06", (13, 0), [(8, 9)], "cu130"),
        ("590.10", (13, 1), [(12, 0)], "cu130"),
        ("580.65.06", (13, 0), [(6, 1)], "cu126"),
        ("550.54.14", (12, 4), [(8, 6)], "cu126"),
        ("570.86.10", (12, 8), [(12, 0)], "cu129"),
        ("535.54.03", None, [], "cu126"),
        ("580.65.06", None, [], "cu130"),
        ("470.82.01", (11, 4), [(8, 6)], None),
        ("470.82.01", None, [], None),
        (None, None, [], None),
    ],
)
def test_the_build_that_suits_a_driver_and_its_gpus(
    driver: str | None, cuda: tuple[int, int] | None, capabilities: list[tuple[int, int]], build: str | None
) -> None:
    gpus = tuple(Gpu("any", None, capability) for capability in capabilities)
    assert choose_build(Nvidia(driver, cuda, gpus)) == build


def test_the_builds_are_those_that_the_installed_torch_knows() -> None:
    from torch.cuda import PYTORCH_RELEASES_CODE_CC as RELEASES

    from darkroom.engine.devices import has_code_for

    known = {"cu" + cuda.replace(".", ""): by_machine["x86_64"] for cuda, by_machine in RELEASES.items()}
    for driver, cuda in (("580", (13, 0)), ("550", (12, 4))):
        for capability in ((5, 0), (6, 1), (7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)):
            build = choose_build(Nvidia(driver, cuda, (Gpu("any", None, capability),)))
            assert build is not None
            assert has_code_for(capability, [f"sm_{number}" for number in known[build]]), (driver, capability, build)


def test_the_build_is_read_without_torch(tmp_path: Path) -> None:
    assert read_build(tmp_path) is None
    (tmp_path / "version.py").write_text("__version__ = '2.13.0+cu126'\ncuda: str = '12.6'\nhip = None\n")
    build = read_build(tmp_path)
    assert build == TorchBuild("2.13.0+cu126", "12.6")
    assert (build.release, build.cuda_major, build.title) == ("2.13.0", 12, "torch 2.13.0+cu126 (CUDA 12.6)")
    (tmp_path / "version.py").write_text("raise SystemExit")
    assert read_build(tmp_path) is None, "the file of an installation that may be broken isn't run"
    rocm = TorchBuild("2.13.0+rocm7.1", hip="7.1")
    assert (rocm.cuda_major, rocm.title) == (None, "torch 2.13.0+rocm7.1 (AMD's ROCm 7.1)")
    url = "https://download.pytorch.org/whl/cu126"
    assert install_command("cu126", "2.13.0") == f"pip install torch==2.13.0+cu126 --index-url {url}"
    assert (installed := read_build()) is not None and installed.version == sys.modules["torch"].__version__


def test_make_is_told_which_build_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for found, printed in (
        (Nvidia(), ""),
        (Nvidia("580.65.06", (13, 0)), ""),
        (Nvidia("550.54.14", (12, 4)), "cu126\n"),
    ):
        monkeypatch.setattr(torch_builds, "find_nvidia", lambda found=found: found)
        torch_builds.main()
        assert capsys.readouterr().out == printed
