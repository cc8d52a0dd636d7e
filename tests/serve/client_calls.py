"""What clients send and what they read of the answer, one function a client: its real code, or the exact body it posts.

Bodies were read in the clients' sources: SillyTavern (public/scripts/extensions/stable-diffusion/index.js and
src/endpoints/stable-diffusion.js), Open WebUI (backend/open_webui/routers/images.py), KoboldAI Lite (index.html), LangChain
(langchain_community/utilities/dalle_image_generator.py), LiteLLM (litellm/llms/openai/openai.py), the npm package
stable-diffusion-api (dist/lib/StableDiffusionApi.js).
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import webuiapi
from PIL import Image

from tests.unit.warm.bench import LIMIT_S

PROMPT = "a red circle"
Pictures = list[bytes]

_SILLY_TAVERN = """
{"auth": "anna:secret", "prompt": "a red circle", "negative_prompt": "", "sampler_name": "DDIM", "scheduler": "normal",
 "steps": 20, "cfg_scale": 7, "width": 512, "height": 512, "restore_faces": false, "enable_hr": false,
 "hr_upscaler": "Latent", "hr_scale": 1.0, "hr_additional_modules": [], "denoising_strength": 0.7,
 "hr_second_pass_steps": 0, "override_settings": {"CLIP_stop_at_last_layers": 1},
 "override_settings_restore_afterwards": true, "clip_skip": 1, "save_images": true, "send_images": true,
 "do_not_save_grid": false, "do_not_save_samples": false}
"""
_KOBOLD = """
{"prompt": "a red circle", "seed": 12345, "sampler_name": "Euler a", "batch_size": 1, "n_iter": 1, "steps": 20,
 "cfg_scale": 7, "width": 512, "height": 512, "negative_prompt": "ugly", "do_not_save_samples": true,
 "do_not_save_grid": true, "enable_hr": false, "eta": 0, "s_churn": 0, "s_tmax": 0, "s_tmin": 0, "s_noise": 1,
 "override_settings": {"sd_model_checkpoint": "", "eta_noise_seed_delta": 0.0, "CLIP_stop_at_last_layers": 1.0,
  "ddim_discretize": "uniform", "img2img_fix_steps": false, "sd_hypernetwork": "None", "inpainting_mask_weight": 1.0,
  "initial_noise_multiplier": 1.0, "comma_padding_backtrack": 20.0}}
"""
_STABLE_DIFFUSION_API = """
{"enable_hr": false, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 0, "hr_resize_x": 0,
 "hr_resize_y": 0, "denoising_strength": 0.7, "firstphase_width": 0, "firstphase_height": 0, "prompt": "a red circle",
 "styles": [], "seed": -1, "subseed": -1, "subseed_strength": 0, "seed_resize_from_h": 0, "seed_resize_from_w": 0,
 "batch_size": 1, "n_iter": 1, "steps": 20, "cfg_scale": 7, "width": 512, "height": 512, "restore_faces": false,
 "tiling": false, "do_not_save_samples": false, "do_not_save_grid": false, "negative_prompt": "", "eta": 1,
 "s_churn": 0, "s_tmax": 0, "s_tmin": 0, "s_noise": 1, "override_settings": {},
 "override_settings_restore_afterwards": true, "script_args": [], "script_name": null, "send_images": true,
 "save_images": false, "alwayson_scripts": {"ControlNet": {"args": []}}, "sampler_name": "Euler a",
 "use_deprecated_controlnet": false}
"""

_SILLY_TAVERN_HIRES = {
    "enable_hr": True,
    "hr_upscaler": "Latent (bicubic)",
    "hr_scale": 1.5,
    "hr_second_pass_steps": 10,
}


def make_image(width: int = 128, height: int = 96, colour: Any = (200, 30, 30), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (width, height), colour)


def file_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def with_hole() -> Image.Image:
    """A picture whose left half is transparent."""
    image = make_image(colour=(200, 30, 30, 255), mode="RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 64, 96))
    return image


def decoded(images: list[Any]) -> Pictures:
    return [base64.b64decode(image) for image in images]


def post(url: str, path: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(url + path, json=body, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def get(url: str, path: str) -> Any:
    answer = httpx.get(url + path, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def openai_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def openai_python(url: str) -> Pictures:
    with openai_of(url) as client:
        answer = client.images.generate(model="gpt-image-1", prompt=PROMPT, size="1024x1536", quality="high", n=2)
    return decoded([image.b64_json for image in answer.data or []])


def openai_python_link(url: str) -> Pictures:
    with openai_of(url) as client:
        answer = client.images.generate(model="dall-e-3", prompt=PROMPT, response_format="url", style="vivid")
    return [httpx.get(image.url or "", timeout=LIMIT_S).content for image in answer.data or []]


def openai_python_webp(url: str) -> Pictures:
    with openai_of(url) as client:
        answer = client.images.generate(prompt=PROMPT, output_format="webp", output_compression=80, moderation="low")
    assert answer.output_format == "webp"
    return decoded([image.b64_json for image in answer.data or []])


def openai_python_stream(url: str) -> Pictures:
    with openai_of(url) as client:
        stream = client.images.generate(
            model="gpt-image-1.5", prompt=PROMPT, size="512x512", stream=True, partial_images=2, output_format="jpeg"
        )
        events = list(stream)
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events if event.type == kinds[0]] == [0, 1]
    assert {(event.size, event.output_format, event.background) for event in events} == {("512x512", "jpeg", "opaque")}
    assert [event.usage.input_tokens for event in events if event.type == kinds[-1]] == [212]
    return decoded([event.b64_json for event in events])


def langchain(url: str) -> Pictures:
    with openai_of(url) as client:
        answer = client.images.generate(prompt=PROMPT, n=1, size="1024x1024", model="dall-e-2", quality="standard")
    links = "\n".join([item.url for item in answer.data or []])  # type: ignore[misc]
    return [httpx.get(link, timeout=LIMIT_S).content for link in links.splitlines()]


def litellm(url: str) -> Pictures:
    data = {"model": "dall-e-3", "prompt": PROMPT, "n": 1, "quality": "hd", "size": "1792x1024", "user": "somebody"}
    with openai_of(url) as client:
        answer = client.images.generate(**data, timeout=LIMIT_S).model_dump()  # type: ignore[call-overload]
    return decoded([item["b64_json"] for item in answer["data"]])


def webuiapi_defaults(url: str) -> Pictures:
    api = webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1")
    result = api.txt2img(prompt=PROMPT, sampler_name="Euler a")
    assert result.info["infotexts"] == [result.image.info["parameters"]]
    return decoded(result.json["images"])


def webuiapi_with_adetailer_off(url: str) -> Pictures:
    api = webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1", sampler="Euler")
    units = [webuiapi.ADetailer(ad_model="None")]
    return decoded(api.txt2img(prompt=PROMPT, adetailer=units).json["images"])


def webuiapi_of(url: str) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1", sampler="Euler")


def webuiapi_img2img(url: str) -> Pictures:
    result = webuiapi_of(url).img2img(images=[make_image()], prompt=PROMPT, width=256, height=192, n_iter=2, seed=3)
    assert result.info["all_seeds"] == [3, 4]
    assert (result.info["width"], result.info["denoising_strength"]) == (256, 0.75)
    assert result.info["ignored"].keys() == {"image_cfg_scale", "eta"}
    return decoded(result.json["images"])


def webuiapi_inpaint(url: str) -> Pictures:
    mask = make_image(colour=0, mode="L")
    mask.paste(255, (0, 0, 64, 96))
    result = webuiapi_of(url).img2img(images=[make_image()], mask_image=mask, inpainting_fill=1, prompt=PROMPT)
    return decoded(result.json["images"])


def webuiapi_hires(url: str) -> Pictures:
    result = webuiapi_of(url).txt2img(
        prompt=PROMPT, enable_hr=True, hr_scale=2, hr_upscaler=webuiapi.HiResUpscaler.Latent, width=256, height=256
    )
    assert (result.info["width"], result.info["height"]) == (512, 512)
    return decoded(result.json["images"])


def webuiapi_extras(url: str) -> Pictures:
    api = webuiapi_of(url)
    assert {"None", "Lanczos", "Nearest"} <= {upscaler["name"] for upscaler in api.get_upscalers()}
    assert "Latent (nearest-exact)" in [mode["name"] for mode in api.get_latent_upscale_modes()]
    one = api.extra_single_image(image=make_image(), upscaler_1=webuiapi.Upscaler.Lanczos, upscaling_resize=2)
    two = api.extra_batch_images(images=[make_image(), make_image(colour=(0, 0, 9))], upscaler_1="Nearest")
    return [file_of(image) for image in (one.image, *two.images)]


def webuiapi_png_info(url: str) -> Pictures:
    api = webuiapi_of(url)
    made = api.txt2img(prompt=PROMPT, seed=9)
    info = api.png_info(made.image).info
    assert info == made.info["infotexts"][0]
    again = post(url, "/sdapi/v1/txt2img", {"infotext": info})
    return decoded(again["images"])


def openai_python_edit(url: str) -> Pictures:
    image, mask = ("image.png", file_of(make_image()), "image/png"), file_of(with_hole())
    with openai_of(url) as client:
        answer = client.images.edit(
            model="gpt-image-1.5", image=image, mask=mask, prompt=PROMPT, n=2, size="auto", input_fidelity="high"
        )
    assert answer.size == "128x96"
    return decoded([item.b64_json for item in answer.data or []])


def openai_python_edit_with_settings(url: str) -> Pictures:
    extra = {"seed": 5, "steps": 4, "denoising_strength": 0.5, "loras": [], "sampler": "DPM++ 2M Karras"}
    with openai_of(url) as client:
        answer = client.images.edit(
            image=[file_of(make_image())], prompt=PROMPT, size="256x256", output_format="webp", extra_body=extra
        )
    return decoded([item.b64_json for item in answer.data or []])


def openai_python_edit_stream(url: str) -> Pictures:
    with openai_of(url) as client:
        stream = client.images.edit(
            image=file_of(make_image()), prompt=PROMPT, stream=True, partial_images=1, output_format="jpeg"
        )
        events = list(stream)
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert {event.size for event in events} == {"128x96"}
    return decoded([events[-1].b64_json])


def openai_python_variation(url: str) -> Pictures:
    with openai_of(url) as client, pytest.warns(DeprecationWarning):
        answer = client.images.create_variation(image=file_of(make_image(256, 256)), n=2, size="512x512")
    return decoded([item.b64_json for item in answer.data or []])


def open_webui_edit(url: str) -> Pictures:
    """As its router sends it: a form of aiohttp with the picture's file; `background` where the user has chosen one."""
    fields = {"model": "dall-e-2", "prompt": PROMPT, "n": "1", "size": "512x512", "response_format": "b64_json"}
    files = {"image": ("image.png", file_of(make_image(512, 512)), "image/png")}
    answer = httpx.post(f"{url}/v1/images/edits", data=fields, files=files, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return decoded([image["b64_json"] for image in answer.json()["data"]])


def silly_tavern_hires(url: str) -> Pictures:
    body = {"url": url, **json.loads(_SILLY_TAVERN), **_SILLY_TAVERN_HIRES, "sampler_name": "Euler a"}
    assert {"Latent (bicubic)"} <= {item["name"] for item in get(url, "/sdapi/v1/latent-upscale-modes")}
    return decoded(post(url, "/sdapi/v1/txt2img", body)["images"])


def open_webui_openai(url: str) -> Pictures:
    body = {"model": "dall-e-2", "prompt": PROMPT, "n": 1, "size": "512x512", "response_format": "b64_json"}
    return decoded([image["b64_json"] for image in post(url, "/v1/images/generations", body)["data"]])


def open_webui_gpt_image(url: str) -> Pictures:
    body = {"model": "gpt-image-1.5", "prompt": PROMPT, "n": 1, "size": "auto"}
    return decoded([image["b64_json"] for image in post(url, "/v1/images/generations", body)["data"]])


def open_webui_a1111(url: str) -> Pictures:
    options = get(url, "/sdapi/v1/options")
    models = {model["title"]: model["model_name"] for model in get(url, "/sdapi/v1/sd-models")}
    assert options["sd_model_checkpoint"] in models
    post(url, "/sdapi/v1/options", {**options, "sd_model_checkpoint": next(iter(models))})
    params = {"cfg_scale": 7, "sampler_name": "Euler", "scheduler": "Automatic"}
    body = {
        "prompt": PROMPT,
        "batch_size": 2,
        "width": 512,
        "height": 512,
        "steps": 20,
        "negative_prompt": "",
        **params,
    }
    answer = post(url, "/sdapi/v1/txt2img", body)
    assert json.loads(answer["info"])["all_prompts"] == [PROMPT] * 2
    return decoded(answer["images"])


def silly_tavern(url: str) -> Pictures:
    assert "forge_preset" not in get(url, "/sdapi/v1/options")
    for path in ("samplers", "schedulers", "upscalers", "latent-upscale-modes"):
        assert all("name" in item for item in get(url, f"/sdapi/v1/{path}"))
    assert all("model_name" in item for item in get(url, "/sdapi/v1/sd-vae"))
    body = {"url": url, **json.loads(_SILLY_TAVERN)}
    answer = post(url, "/sdapi/v1/txt2img", body)
    assert json.loads(answer["info"])["ignored"].keys() >= {"url", "auth", "save_images"}
    assert "secret" not in json.dumps(answer)
    return decoded(answer["images"])


def kobold_a1111(url: str) -> Pictures:
    model = get(url, "/sdapi/v1/sd-models")[0]["title"]
    body = json.loads(_KOBOLD)
    body["override_settings"]["sd_model_checkpoint"] = model
    return decoded(post(url, "/sdapi/v1/txt2img", body)["images"][:1])


def kobold_dalle(url: str) -> Pictures:
    body = {"model": "dall-e-3", "prompt": PROMPT, "n": 1, "size": "1024x1024", "response_format": "b64_json"}
    return decoded([post(url, "/v1/images/generations", body)["data"][0]["b64_json"]])


def stable_diffusion_api(url: str) -> Pictures:
    """The body of the package's own code; `npm_stable_diffusion_api` runs it."""
    return decoded(post(url, "/sdapi/v1/txt2img", json.loads(_STABLE_DIFFUSION_API))["images"])


_NPM_OPENAI = """
const OpenAI = require("openai");
const client = new OpenAI({ baseURL: process.argv.at(-1) + "/v1", apiKey: "none", maxRetries: 0 });
(async () => {
  const answer = await client.images.generate({ model: "gpt-image-1", prompt: "a red circle", size: "512x512" });
  const stream = await client.images.generate({ prompt: "a red circle", size: "512x512", stream: true, partial_images: 1 });
  const kinds = [], pictures = answer.data.map((image) => image.b64_json);
  for await (const event of stream) { kinds.push(event.type); pictures.push(event.b64_json); }
  const file = await OpenAI.toFile(Buffer.from(pictures[0], "base64"), "image.png", { type: "image/png" });
  const edited = await client.images.edit({ image: file, prompt: "a red circle" });
  pictures.push(edited.data[0].b64_json);
  let param = null;
  try { await client.images.generate({ prompt: "a red circle", size: "huge" }); }
  catch (error) { param = error instanceof OpenAI.BadRequestError ? error.param : String(error); }
  console.log(JSON.stringify({ pictures, kinds, param }));
})();
"""
_NPM_A1111 = """
const { StableDiffusionApi } = require("stable-diffusion-api");
const at = new URL(process.argv.at(-1));
const api = new StableDiffusionApi({ host: at.hostname, port: at.port, protocol: "http" });
(async () => {
  const result = await api.txt2img({ prompt: "a red circle" });
  console.log(JSON.stringify({ pictures: result.response.data.images, images: result.images.length, info: result.info }));
})();
"""


def npm_openai(url: str) -> Pictures:
    found = run_node(_NPM_OPENAI, url)
    assert found["kinds"] == ["image_generation.partial_image", "image_generation.completed"]
    assert found["param"] == "size"
    return decoded(found["pictures"])


def npm_stable_diffusion_api(url: str) -> Pictures:
    found = run_node(_NPM_A1111, url)
    assert found["images"] == 1
    assert json.loads(found["info"])["prompt"] == PROMPT
    return decoded(found["pictures"])


def run_node(script: str, url: str) -> Any:
    """What a script prints as JSON; it runs in the folder that `npm_packages` made."""
    folder = os.environ["DARKROOM_TEST_NPM"]
    done = subprocess.run(
        ["node", "-e", script, "--", url], cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def npm_packages(folder: Path) -> str:
    """Install the packages; only sharp, which would fetch a library from elsewhere, is left out for a stand-in."""
    (folder / "package.json").write_text('{"private": true}')
    packages = ["openai@7", "stable-diffusion-api@0.0.7"]
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=optional", *packages]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=LIMIT_S)
    (folder / "node_modules/sharp/package.json").write_text('{"name": "sharp", "main": "index.js"}')
    (folder / "node_modules/sharp/index.js").write_text("module.exports = (bytes) => ({ bytes });")
    return str(folder)
