"""Pictures as OpenAI streams them: `image_generation.partial_image` for each preview, then `image_generation.completed`.

Edits have `image_edit` in place of `image_generation`.

The events have the fields of the package `openai` 3.57 (types/image_gen_partial_image_event.py,
types/image_gen_completed_event.py), and `seed`, which says which of several pictures one belongs to. The stream begins with a
comment once the request is accepted; an error after that is the event `error`.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from darkroom.serve.adapters import final_size
from darkroom.serve.answers import Rendered, as_error
from darkroom.serve.http import error_body, write_event
from darkroom.serve.openai_schemas import ImageEdit, ImageGeneration
from darkroom.serve.openai_settings import ignored_fields, output_of

if TYPE_CHECKING:
    from darkroom.request.render_request import RenderRequest
    from darkroom.serve.service import Service

Preview = tuple["RenderRequest", bytes]


async def stream_images(
    service: Service, body: ImageGeneration, settings: list[dict[str, Any]], **options: Any
) -> AsyncIterator[str]:
    """The events; `options` are for `Service.make_pictures`. The pictures are given up if the client disconnects.

    Raises an error that occurs before the request is queued.
    """
    news: asyncio.Queue[Preview | None] = asyncio.Queue()
    accepted = asyncio.Event()
    work = service.make_pictures(
        settings,
        **options,
        on_progress=lambda _: accepted.set(),
        previews=body.partial_images or 0,
        on_preview=lambda request, png: news.put_nowait((request, png)),
    )
    task = asyncio.create_task(work)

    def end(_: object) -> None:
        accepted.set()
        news.put_nowait(None)

    task.add_done_callback(end)
    try:
        await accepted.wait()
        if task.done():
            task.result()
        yield ": accepted\n\n"
        async for event in _tell(body, task, news):
            yield event
    finally:
        task.cancel()


async def _tell(
    body: ImageGeneration, task: asyncio.Task[list[Rendered]], news: asyncio.Queue[Preview | None]
) -> AsyncIterator[str]:
    """The events of an accepted request."""
    counts: Counter[int] = Counter()
    try:
        while (preview := await news.get()) is not None:
            request, png = preview
            index = counts[request.seed]
            if index < (body.partial_images or 0):  # an engine that died has sent some of them already
                counts[request.seed] += 1
                yield _write(
                    "partial_image", body, request, await output_of(body).encode(png), partial_image_index=index
                )
        for picture in task.result():
            yield await _write_completed(body, picture)
    except Exception as error:
        yield write_event("error", error_body(as_error(error)))


async def _write_completed(body: ImageGeneration, picture: Rendered) -> str:
    tokens = picture.facts.get("prompt_tokens", 0)
    usage = {
        "input_tokens": tokens,
        "input_tokens_details": {"text_tokens": tokens, "image_tokens": 0},
        "output_tokens": 0,
        "total_tokens": tokens,
    }
    file = await output_of(body).encode(picture.png)
    ours = {"model": picture.model, "model_hash": picture.model_hash, "ignored": ignored_fields(body)}
    return _write("completed", body, picture.request, file, usage=usage, **ours)


def _write(kind: str, body: ImageGeneration, request: RenderRequest, file: bytes, **others: Any) -> str:
    kind = f"{'image_edit' if isinstance(body, ImageEdit) else 'image_generation'}.{kind}"
    width, height = final_size(request)
    event = {
        "type": kind,
        "b64_json": base64.b64encode(file).decode(),
        "created_at": int(time.time()),
        "size": f"{width}x{height}",
        "quality": body.quality or "auto",
        "background": "opaque",
        "output_format": body.output_format or "png",
        "seed": request.seed,
    }
    return write_event(kind, {**event, **others})
