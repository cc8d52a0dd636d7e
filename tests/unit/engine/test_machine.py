"""Which device an engine takes, and what is said of a GPU that is there and can't be used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from darkroom.base.nvidia import Gpu, Nvidia
from darkroom.base.torch_builds import TorchBuild
from darkroom.engine import devices, machine
from darkroom.engine.devices import check_gpu, has_code_for, is_sticky, resolve_device
from darkroom.engine.machine import are_hidden, describe_broken_torch, describe_unusable, machine_line
from darkroom.errors import ConfigError, CudaError, OutOfMemoryError

GPU = Gpu("NVIDIA GeForce RTX 3090", 25_769_803_776, (8, 6))
FILES = ("/dev/nvidia0",)
OLD = Nvidia("550.54.14", (12, 4), (GPU,), FILES)
NEW = Nvidia("580.65.06", (13, 0), (GPU,), FILES)
CPU, CU126, CU130 = TorchBuild("2.13.0+cpu"), TorchBuild("2.13.0+cu126", "12.6"), TorchBuild("2.13.0+cu130", "13.0")
ROCM = TorchBuild("2.13.0+rocm7.1", hip="7.1")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that hides no GPU and has none but those of a test."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # a value of the user's stays, and is restored here
    for name in ("_AMD", "_WSL", "_PCI"):
        monkeypatch.setattr(machine, name, tmp_path / "no" / name)


def error_of(found: Nvidia, build: TorchBuild, monkeypatch: pytest.MonkeyPatch, said: str = "", **visible: str) -> str:
    monkeypatch.setattr(machine, "read_build", lambda: build)
    return str(describe_unusable("auto", said, visible, lambda: found))


@pytest.mark.parametrize(
    ("found", "build", "why", "way"),
    [
        (
            OLD,
            CU130,
            "its driver is too old for this torch",
            r"pip install torch==2\.13\.0\+cu126 .*, install a driver of",
        ),
        (OLD, CPU, "this torch is not built for it", r"pip install torch==2\.13\.0\+cu126 --index-url \S+/cu126"),
        (NEW, CPU, "this torch is not built for it", r"pip install torch==2\.13\.0\+cu130"),
        (NEW, ROCM, "this torch is not built for it", r"pip install torch==2\.13\.0\+cu130"),
        (
            Nvidia("470.82.01", (11, 4), (GPU,), FILES),
            CU130,
            "too old for every build of torch",
            "version 525 or newer",
        ),
        (Nvidia("580.65.06", (13, 0), (), FILES, FILES), CU130, "this user may not open /dev/nvidia0", "--gres=gpu:1"),
        (Nvidia("580.65.06"), CU130, "it has no file /dev/nvidia0", "start the container with --gpus all"),
        (
            Nvidia("580.65.06", None, (), FILES, (), "the driver was updated"),
            CU130,
            "the driver was updated",
            "restart",
        ),
        (NEW, CU130, r"torch can't use it \(it finds no device\)", "run nvidia-smi"),
    ],
)
def test_why_torch_can_not_use_a_gpu(
    found: Nvidia, build: TorchBuild, why: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = error_of(found, build, monkeypatch)
    assert re.match(f"E-CONFIG engine.device 'auto': .* is there, but .*{why}.*: driver .*, torch .*", error), error
    assert found.title in error and build.title in error
    assert re.search(f"Hint: .*{way}.*, or set engine.device to cpu", error), error


def test_what_torch_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Error 802: system not yet initialized" in error_of(
        NEW, CU130, monkeypatch, "Error 802: system not yet initialized"
    )


@pytest.mark.parametrize(
    ("visible", "why"),
    [("4", "'4', and there is 1 GPU, counted from 0"), ("0,0", "'0,0', which names a GPU twice")],
)
def test_a_wrong_list_of_gpus_is_named(visible: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why in error_of(NEW, CU130, monkeypatch, CUDA_VISIBLE_DEVICES=visible)


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "-1,0"])
def test_who_hides_the_gpus_asks_for_the_cpu(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": visible}
    assert are_hidden(environment)
    assert describe_unusable("auto", "", environment, lambda: NEW) is None
    line = machine_line("auto", environment, lambda: NEW)
    assert f"not used, since CUDA_VISIBLE_DEVICES is '{visible}'; processor with" in line


def test_uuids_and_parts_of_gpus_hide_nothing() -> None:
    for visible in ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-4d806f22", "0", "1,0"):
        assert not are_hidden({"CUDA_VISIBLE_DEVICES": visible})


def test_an_amd_gpu_is_an_error_only_for_a_build_that_is_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(machine, "_AMD", tmp_path / "kfd")
    assert error_of(Nvidia(), CPU, monkeypatch) == "None"
    assert "kfd is there, but torch 2.13.0+rocm7.1 (AMD's ROCm 7.1) can't use it" in error_of(
        Nvidia(), ROCM, monkeypatch
    )
    assert "an AMD GPU is there" in machine_line("auto", {}, Nvidia)


def test_the_line_names_what_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_build", lambda: CU126)
    two = Nvidia("550.54.14", (12, 4), (GPU, GPU), FILES)
    expected = (
        "machine: 2 × NVIDIA GeForce RTX 3090 (25.8 GB); driver 550.54.14 (CUDA 12.4); torch 2.13.0+cu126 (CUDA 12.6)"
    )
    assert machine_line("auto", {}, lambda: two) == expected
    assert machine_line("cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-8932"}, lambda: two).endswith(
        ", CUDA_VISIBLE_DEVICES 'GPU-8932'"
    )
    assert "not used, since the device is cpu; processor with 3 threads" in machine_line(
        "cpu", {"OMP_NUM_THREADS": "3"}, lambda: two
    )
    assert re.fullmatch(
        r"machine: no NVIDIA GPU; processor with \d+ threads, [\d.]+ GB; torch 2.13.0\+cu126 \(CUDA 12.6\)",
        machine_line("auto", {}, Nvidia),
    )
    card = tmp_path / "pci/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030000\n")
    monkeypatch.setattr(machine, "_PCI", tmp_path / "pci")
    assert "on the PCI bus, but NVIDIA's driver is not installed" in machine_line("auto", {}, Nvidia)


class FakeCuda:
    """torch.cuda of a machine with one GPU; `fault` is what using it raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_available: bool, fault: Exception | None = None) -> None:
        import torch

        self.used: list[str] = []
        self.fault = fault
        monkeypatch.setattr(torch.cuda, "is_available", lambda: is_available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])
        monkeypatch.setattr(torch.cuda, "set_device", self.used.append)
        monkeypatch.setattr(torch, "zeros", self._zeros)

    def _zeros(self, *_: Any, device: str) -> None:
        self.used.append(device)
        if self.fault:
            raise self.fault


def put(found: Nvidia, build: TorchBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the machine be one with these GPUs and this torch."""
    monkeypatch.setattr(machine, "read_build", lambda: build)
    told = describe_unusable

    def describe(requested: str, said: str, **options: bool) -> ConfigError | None:
        return told(requested, said, find=lambda: found, **options)

    monkeypatch.setattr(devices, "describe_unusable", describe)


@pytest.mark.parametrize("requested", ["auto", "cuda", "cuda:0"])
def test_the_cpu_is_never_taken_for_a_gpu_that_is_there(requested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, is_available=False)
    put(OLD, CU130, monkeypatch)
    with pytest.raises(ConfigError, match=r"too old for this torch: driver 550\.54\.14 .*, torch 2\.13\.0"):
        resolve_device(requested)
    assert resolve_device("cpu") == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if requested == "auto":
        assert resolve_device("auto") == "cpu"
    else:
        with pytest.raises(ConfigError, match="has no such device, with CUDA_VISIBLE_DEVICES ''"):
            resolve_device(requested)


def test_a_machine_without_a_gpu_renders_on_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, is_available=False)
    put(Nvidia(), CU130, monkeypatch)
    assert resolve_device("auto") == "cpu"


def test_a_gpu_is_used_once_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch, is_available=True)
    put(NEW, CU130, monkeypatch)
    assert resolve_device("auto") == "cuda"
    check_gpu("cuda:0")
    assert cuda.used == ["cuda:0", "cuda:0"]
    check_gpu("cpu")
    assert len(cuda.used) == 2


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("CUDA error: all CUDA-capable devices are busy or unavailable\nmore", ConfigError, "busy or unavailable"),
        ("CUDA error: unspecified launch failure", CudaError, "unspecified launch failure"),
        ("CUDA error: unknown error", CudaError, "unknown error"),
    ],
)
def test_a_gpu_that_fails_at_once_is_no_unexpected_error(
    fault: str, error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    FakeCuda(monkeypatch, is_available=True, fault=torch.AcceleratorError(fault))
    put(NEW, CU130, monkeypatch)
    with pytest.raises(error, match=text):
        check_gpu("cuda")


def test_a_gpu_whose_memory_others_have_taken_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    FakeCuda(monkeypatch, is_available=True, fault=torch.OutOfMemoryError("CUDA out of memory"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**7, 10**10))
    with pytest.raises(OutOfMemoryError, match=r"0\.0 GB are free without it.*end what else runs"):
        check_gpu("cuda")


def test_a_gpu_that_torch_has_no_code_for_is_told_the_build_that_has(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    FakeCuda(monkeypatch, is_available=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.version, "hip", None)
    put(Nvidia("580.65.06", (13, 0), (Gpu("NVIDIA GeForce GTX 1080", 8 * 10**9, (6, 1)),), FILES), CU130, monkeypatch)
    with pytest.raises(ConfigError, match=r"GTX 1080 is there.*no code for its compute capability 6\.1.*cu126"):
        check_gpu("cuda")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((8, 9), ["sm_75", "sm_80", "sm_86", "sm_90"], True),
        ((12, 0), ["sm_50", "sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((9, 0), ["sm_90a"], True),
        ((7, 5), ["compute_80"], False),
        ((8, 6), [], True),
    ],
)
def test_code_runs_on_gpus_of_its_own_major_version(
    capability: tuple[int, int], architectures: list[str], runs: bool
) -> None:
    assert has_code_for(capability, architectures) is runs


def test_a_torch_that_can_not_be_imported_is_named_with_its_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_build", lambda: CU130)
    monkeypatch.setattr(machine, "find_nvidia", lambda: OLD)
    error = str(describe_broken_torch(OSError("libcudart.so.13: cannot open shared object file")))
    assert error.startswith(
        "E-CONFIG torch 'torch 2.13.0+cu130 (CUDA 13.0)': can't be imported (libcudart.so.13: cannot open"
    )
    assert "driver 550.54.14 (CUDA 12.4)" in error and "torch==2.13.0+cu126" in error
    monkeypatch.setattr(machine, "read_build", lambda: None)
    assert "is not installed" in str(describe_broken_torch(ImportError("no torch")))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: unspecified launch failure",
        "CUDA error: an illegal memory access was encountered",
        "Unable to determine the device handle for GPU 0000:0B:00.0: GPU is lost.",
        "CUDA error: unknown error",
        "CUDA error: uncorrectable NVLink error detected during the execution",
        "NVRM: Xid 79, GPU has fallen off the bus",
    ],
)
def test_faults_after_which_only_a_new_process_can_use_the_device(text: str) -> None:
    assert is_sticky(RuntimeError(text))


def test_ordinary_errors_are_none() -> None:
    assert not is_sticky(RuntimeError("CUDA error: invalid argument"))
    assert not is_sticky(ValueError("GPU is lost"))
