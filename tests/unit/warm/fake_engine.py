"""The real engine process around a stand-in engine, told by its model folder's behaviour.txt and by the prompts how to act."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from darkroom.engine import Cancelled, Previews, RenderedImage, RenderFacts, Wanted
from darkroom.errors import ConfigError, CudaError, DarkroomError, ModelError, NanImageError, OutOfMemoryError
from darkroom.request.render_request import RenderRequest
from darkroom.serve import engine_process
from darkroom.serve.engines import EngineOptions, ModelFiles, OnRead
from darkroom.serve.frames import BEFORE
from darkroom.serve.limits import count_steps

POLL_S = 0.01
LATENTS = b"what a safetensors file holds"
LIMIT_S = 600  # longer than any test waits
_held: list[int] = []


class Denoised(NamedTuple):
    request: RenderRequest
    grey: int
    keep_latents: bool


def grey_of(request: RenderRequest, files: Mapping[str, bytes], stages_done: int) -> int:
    begun_with = files.get(BEFORE) or files.get(request.image or "")
    if begun_with is None:
        grey = request.seed % 256
    else:
        with Image.open(io.BytesIO(begun_with)) as image:
            grey = image.convert("L").getpixel((0, 0))
    return int(grey) + 10 * len(request.stages[stages_done:])


class FakeEngine:
    name = "fake"
    model_hash = "0123456789"
    device = "cpu"
    dtype = "fp32"
    memory = "cpu, fp32"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def denoise(
        self,
        request: RenderRequest,
        *,
        cancelled: Callable[[], bool],
        on_step: Callable[[int, int], None],
        previews: Previews | None = None,
        pictures: Mapping[str, bytes] | None = None,
        stages_done: int = 0,
        keep_latents: bool = False,
    ) -> Denoised:
        """`slow` waits for a file, `stuck` also ignores cancellation, `oom` fails, `kill` kills, `poison` poisons once."""
        self._note("renders", request.prompt)
        if (seconds := self.folder / "seconds").exists():
            time.sleep(float(seconds.read_text()))
        if request.prompt == "oom":
            raise OutOfMemoryError("picture", "128x128", "does not fit", "make a smaller one")
        if request.prompt == "nan":
            raise NanImageError("latents", None, "hold NaN after step 1", "use another VAE")
        if request.prompt == "bug":
            raise ZeroDivisionError("a mistake")
        if request.prompt in ("slow", "stuck"):
            wait_for(self.folder / "go", cancelled if request.prompt == "slow" else lambda: False)
        if request.prompt == "kill" or (request.prompt == "kill once" and len(self.noted("renders")) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if request.prompt == "poison" and len(self.noted("renders")) == 1:
            raise CudaError("device", "cuda", "CUDA error: an illegal memory access was encountered")
        if is_listed(self.folder, "faulty") or request.prompt == "always poison":
            raise CudaError("device", "cuda", "CUDA error: unspecified launch failure")
        files = pictures or {}
        for name, data in files.items():
            self._note("files", f"{name[:12]} {len(data)}")
        calls = 2 * request.steps - 1 if request.sampler == "Heun" else request.steps
        if request.stages:
            calls = count_steps(request, stages_done, is_first_done=BEFORE in files)
        for step in range(1, calls + 1):
            on_step(step, calls)
            if previews and previews.is_due(step, calls):
                previews.show(Image.new("RGB", (request.width, request.height), (step,) * 3))
        return Denoised(request, grey_of(request, files, stages_done), keep_latents)

    def denoise_together(
        self, pictures: Sequence[Wanted], on_cancelled: Callable[[int], None]
    ) -> list[Denoised | DarkroomError | Cancelled]:
        """One after the other; `crowd` takes all the memory that there is."""
        self._note("batches", " ".join(each.request.prompt for each in pictures))
        if any(each.request.prompt == "crowd" for each in pictures):
            raise OutOfMemoryError("picture", "64x64", "does not fit", "make a smaller one")
        made: list[Denoised | DarkroomError | Cancelled] = []
        for number, each in enumerate(pictures):
            assert each.cancelled and each.on_step
            try:
                made.append(
                    self.denoise(each.request, cancelled=each.cancelled, on_step=each.on_step, previews=each.previews)
                )
            except Cancelled as error:
                on_cancelled(number)
                made.append(error)
            except NanImageError as error:
                made.append(error)
        return made

    def largest_batch(self, request: RenderRequest) -> int:
        return 2 if request.width > 64 else 16

    def decode(self, denoised: Denoised) -> RenderedImage:
        """A picture whose grey is its seed; that of `noise` can't be compressed, and `held` waits for a file.

        Each stage makes it a little lighter than the picture before.
        """
        request = denoised.request
        if request.prompt == "held":
            wait_for(self.folder / "go", lambda: False)
        size = request.sizes[-1]
        image = Image.new("RGB", size, (denoised.grey,) * 3)
        if request.prompt == "noise":
            image = Image.frombytes("RGB", size, os.urandom(3 * size[0] * size[1]))
        times = (0.0, 0.01, 1.2, 0.05, 1.26)
        facts = RenderFacts(212, 8, 3, *times, "cpu", "fp32", "cpu, fp32", self.name, self.model_hash, (), ())
        self._note("finished", request.prompt)
        return RenderedImage(image, request, facts, latents=LATENTS if denoised.keep_latents else None)

    def overlaps(self, _: Denoised) -> bool:
        return True

    def close(self) -> None:
        self._note("closed", self.name)

    def noted(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()

    def _note(self, name: str, text: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write(text + "\n")


def wait_for(path: Path, cancelled: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not path.exists() and time.monotonic() < deadline:
        if cancelled():
            raise Cancelled
        time.sleep(POLL_S)


def hold_device(name: str, folder: Path) -> None:
    """Keep a device until this process ends, and note in `crowded` when another engine has it."""
    _held.append(os.open(folder.parent / f"device-{name}", os.O_RDWR | os.O_CREAT))
    try:
        fcntl.flock(_held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (folder / "crowded").touch()


def is_listed(folder: Path, name: str) -> bool:
    """Whether the GPU that this process is shown is in a list: `lost` ones can't be used, `faulty` ones fail each picture."""
    path = folder / name
    return path.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") in path.read_text().splitlines()


def is_lost_once(folder: Path) -> bool:
    """Whether this process is the first to ask: its GPU can't be used from now on."""
    try:
        (folder / "lost once").unlink()
    except FileNotFoundError:
        return False
    return True


def load(files: ModelFiles, options: EngineOptions, on_read: OnRead) -> FakeEngine:
    """`engines` gets the engine's own process number, then `loads` the server's: who sees the one finds the other."""
    folder = files.model_dir
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        hold_device(visible, folder)
    with (folder / "devices").open("a") as file:
        file.write(f"{options.device} of {visible}\n")
    (folder / "compile").write_text(options.compile)
    for name, pid in (("engines", os.getpid()), ("loads", os.getppid())):
        with (folder / name).open("a") as file:
            file.write(f"{pid}\n")
    waits = [f"{name}={os.environ[name]}" for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ]
    (folder / "waits").write_text("\n".join(waits))
    behaviour = folder / "behaviour.txt"
    if behaviour.read_text() == "hang":
        wait_for(folder / "go", lambda: False)
    while behaviour.read_text() == "load slowly" and not (folder / "go").exists():
        on_read(41 * 10**7, 10**9)
        time.sleep(POLL_S)
    if is_listed(folder, "lost") or is_lost_once(folder):
        raise ConfigError("engine.device", options.device, "GPU 1 has fallen off the bus", "restart the machine")
    if behaviour.read_text() == "fail":
        raise ModelError("model folder", folder, "Diffusers format missing: no model_index.json", "run it again")
    if behaviour.read_text() == "crash":
        os._exit(7)
    return FakeEngine(folder)


if __name__ == "__main__":
    engine_process.main(load=load)
