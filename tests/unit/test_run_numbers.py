"""The numbers of a run: what is made of jobs' notes, the line that sums them up, and the machine's energy counters."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import pytest

from darkroom.base import job_notes
from darkroom.config import CostsConfig
from darkroom.run.energy import EnergyMeter
from darkroom.run.run_record import Outputs, Work, make_run_file

GPU = "GPU-1"
PATHS = [f"results/first/tiny/p{number}-0.png" for number in range(6)]


def rendered(path: str, **facts: Any) -> dict[str, Any]:
    times = {"apply_s": 0.0, "encode_s": 0.1, "denoise_s": 1.5, "decode_s": 0.2, "total_s": 1.8, "png_s": 0.1}
    used = {"peak_rss": 3_900_000_000, "peak_device": 9_000_000_000, "gpu": GPU}
    about = {"prompt_tokens": 8, "negative_tokens": 2, "device": "cuda:0", "used": used}
    return {"verb": "render", "output": path, "seconds": 4.0, **times, **about, **facts}


NOTES = [
    {"verb": "fetch", "output": None, "seconds": 12.0},
    {"load": "tiny", "seconds": 4.1},
    rendered(PATHS[0]),
    rendered(PATHS[1], stages=["hires"], total_s=2.8),
    {"verb": "render", "output": PATHS[2], "seconds": 0.2, "error": "E-REQUEST"},
    {"verb": "render", "output": PATHS[3], "seconds": 0.2, "error": "E-SERVER-DIED"},
    rendered(PATHS[3]),
    {"verb": "gallery", "seconds": 0.4},
]
"""Of a run that was to make five pictures: one fails, one succeeds at the second attempt, one isn't begun."""
OUTPUTS = Outputs(frozenset(PATHS), frozenset(PATHS[:5]), frozenset(PATHS[:2]), frozenset({PATHS[2]}))


class Nvml:
    """NVML's functions with one GPU, which has taken `joules`."""

    def __init__(self, joules: float = 0, status: int = 0) -> None:
        self.joules, self.status = joules, status
        self.nvmlInit_v2 = lambda: 0
        self.nvmlDeviceGetHandleByIndex_v2 = lambda number, device: 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 1
        return 0

    def nvmlDeviceGetUUID(self, device: Any, uuid: ctypes.Array[ctypes.c_char], length: int) -> int:
        uuid.value = GPU.encode()
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, energy: Any) -> int:
        energy._obj.value = round(self.joules * 1000)
        return self.status


def no_library() -> Any:
    raise OSError("no such file")


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """A package that has been at 900 of at most 1,000 J, its cores, and its memory at 50 J."""
    zones = {"intel-rapl:0": ("package-0", 900), "intel-rapl:0:0": ("core", 700), "intel-rapl:0:1": ("dram", 50)}
    for zone, (name, joules) in zones.items():
        folder = tmp_path / "powercap" / zone
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text("1000000000\n")
        set_counter(folder, joules)
    return tmp_path / "powercap"


def set_counter(zone: Path, joules: int) -> None:
    (zone / "energy_uj").write_text(f"{joules}000000\n")


def test_a_runs_numbers_are_what_its_jobs_noted() -> None:
    costs = CostsConfig(per_hour=0.9, currency="EUR")
    meter = EnergyMeter(Path("nowhere"), lambda: Nvml(5_000))
    meter.start()
    meter.load_nvml = no_library
    found = make_run_file(Work.of(NOTES), OUTPUTS, 1e9, ended=1e9 + 92, energy=meter, costs=costs, cores=2)
    pictures = found.pictures
    assert (pictures.asked, pictures.made, pictures.reused, pictures.failed, pictures.left) == (6, 3, 1, 1, 1)
    assert found.outcome == "failed" and pictures.measured == 3
    assert found.seconds_per_picture == pytest.approx((1.9 + 2.9 + 1.9) / 3, abs=1e-4)
    by_step = found.seconds_by_step
    assert (by_step.fetch, by_step.load, by_step.denoise, by_step.rest, by_step.pages) == (12.0, 4.1, 4.5, 1.0, 0.4)
    assert found.stages["hires"].pictures == 1 and found.stages["hires"].seconds == 2.9
    assert found.tokens.prompt == 24 and found.memory.device_bytes == 9_000_000_000
    assert found.cost is not None and found.cost.total == pytest.approx(0.9 * 92 / 3600, abs=1e-6)
    assert found.energy.gpus_joules == 0 and found.energy.processors_joules is None
    assert found.energy.absent == {"processors": "nowhere has no RAPL zones"}
    assert found.summary() == (
        "3 pictures made, 1 reused, 1 failed, 1 left in 1 min 32 s: 2.2 s a picture "
        "(text 0.1, denoising 1.5, decoding 0.2, PNG 0.1, the rest 0.33); fetching 12 s; 1 model load 4.1 s; "
        "3.9 GB and 9.0 GB on the GPU at most; 0 kJ; 0.023 EUR, 0.0077 a picture"
    )


def test_a_run_on_other_machines_costs_the_time_of_its_engines_and_knows_no_energy() -> None:
    everything = frozenset(PATHS[:2])
    outputs = Outputs(everything, everything, everything, frozenset())
    costs = CostsConfig(per_hour=3600)
    found = make_run_file(Work.of(NOTES[1:4]), outputs, 0, ended=60, energy=None, costs=costs, cores=None)
    assert found.outcome == "done" and found.cost is not None
    assert found.cost.total == pytest.approx(4.1 + 1.9 + 2.9, abs=1e-3)
    assert found.energy.joules is None and found.energy.absent.keys() == {"processors", "GPUs"}


def test_pages_alone_are_no_work_and_an_interrupted_run_says_so() -> None:
    assert Work.of(NOTES[-1:]).is_nothing and not Work.of(NOTES[:1]).is_nothing
    outputs = Outputs(OUTPUTS.asked, OUTPUTS.planned, frozenset(PATHS[:1]), frozenset())
    found = make_run_file(Work.of([]), outputs, 0, ended=2.4, energy=None, costs=None, cores=None)
    assert found.outcome == "interrupted" and found.pictures.measured == 0 and found.seconds_per_picture is None
    assert found.summary() == "1 picture made, 1 reused, 0 failed, 4 left in 2.4 s"


def test_counters_of_packages_and_memory_are_added_up_also_past_their_end(powercap: Path) -> None:
    meter = EnergyMeter(powercap, no_library)
    meter.start()
    set_counter(powercap / "intel-rapl:0", 20)
    meter.sample()
    set_counter(powercap / "intel-rapl:0:1", 55)
    set_counter(powercap / "intel-rapl:0:0", 999)
    meter.sample()
    assert meter.joules([]) == (125.0, None)
    assert meter.absent == {"GPUs": "there is no NVML here, the library of NVIDIA's driver"}


def test_only_the_gpus_that_rendered_count_and_none_is_guessed(powercap: Path) -> None:
    nvml = Nvml(1_000)
    meter = EnergyMeter(powercap, lambda: nvml)
    meter.start()
    nvml.joules = 1_250
    meter.sample()
    assert (
        meter.joules([GPU, GPU])[1] == 250 and meter.joules([])[1] is None and meter.joules([GPU, "GPU-2"])[1] is None
    )
    old = EnergyMeter(powercap, lambda: Nvml(status=3))
    old.start()
    assert old.joules([GPU])[1] is None and old.absent["GPUs"] == "a GPU doesn't count its energy"


def test_a_counter_that_may_not_be_read_says_so(powercap: Path) -> None:
    (powercap / "intel-rapl:0/energy_uj").unlink()
    (powercap / "intel-rapl:0/energy_uj").mkdir()  # root may read any file
    meter = EnergyMeter(powercap, no_library)
    meter.start()
    assert meter.joules([])[0] is None and "energy_uj" in meter.absent["processors"]


def test_notes_are_written_in_runs_only_and_a_line_that_was_cut_off_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(job_notes.VARIABLE, raising=False)
    job_notes.note(verb="fetch", seconds=1.0)
    monkeypatch.setenv(job_notes.VARIABLE, "ended")
    job_notes.note(verb="fetch", seconds=1.0)
    assert job_notes.current_run() is None and not [*tmp_path.iterdir()]
    run = tmp_path / job_notes.FOLDER / "ended"
    run.mkdir(parents=True)
    job_notes.note(verb="fetch", seconds=1.0)
    job_notes.note(load="tiny", seconds=2.0)
    (run / "elsewhere.jsonl").write_text(json.dumps({"load": "tiny", "seconds": 3.0}) + '\n{"load": "ti')
    assert sorted(note["seconds"] for note in job_notes.read_notes(run)) == [1.0, 2.0, 3.0]
