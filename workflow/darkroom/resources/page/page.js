// Brings the parts together: unlocking, rendering, progress and errors.

import { hasKey, keepKey, loadOptions, Refusal, render } from "./api.js";
import { byId } from "./dom.js";
import { mark, offer, read, write } from "./form.js";
import { add, endPreview, preview, shownBlob, shownRequest, shownStart } from "./picture.js";
import { readChain, writeStages } from "./stages.js";
import { restore, snapshot, startFrom } from "./start.js";

const PREVIEWS = 3; // each costs a decoding

let running = null; // the AbortController of the picture under way

/** Text for those who don't see the page; said once, however often it is told. */
function say(text) {
  if (byId("said").textContent !== text) byId("said").textContent = text;
}

function tell({ code, what, value, why, hint }) {
  byId("error-message").textContent = `${what.replace("request: ", "")}${value === null ? "" : ` '${value}'`}: ${why}`;
  byId("error-hint").textContent = hint ? `Hint: ${hint}` : "";
  byId("error-code").textContent = code;
  (byId("form").hidden ? byId("result") : byId("go")).prepend(byId("error"));
  byId("error").hidden = false;
  byId("error").scrollIntoView({ block: "nearest" });
}

function askForKey(wasTried) {
  byId("key-label").textContent = wasTried ? "That is not this server’s API key." : "This server asks for its API key.";
  byId("key").value = "";
  byId("key-form").hidden = false;
  byId("key").focus();
}

/** Shows what went wrong; for a missing key, a field for it. */
function complain(error, wasTried) {
  if (!(error instanceof Refusal)) throw error;
  if (error.status === 401) return askForKey(wasTried);
  mark(error.error.what);
  tell(error.error);
}

async function unlock() {
  const wasTried = hasKey();
  byId("error").hidden = true;
  try {
    const options = await loadOptions();
    byId("key-form").hidden = true;
    if (!byId("form").hidden) return;
    offer(options);
    byId("form").hidden = byId("picture").hidden = false;
    if (matchMedia("(pointer: fine)").matches) byId("prompt").focus(); // elsewhere a keyboard would cover the page
  } catch (error) {
    complain(error, wasTried);
  }
}

function showProgress({ stage, step, steps, waiting, loaded }) {
  const texts = {
    waiting: waiting ? `waiting, ${waiting} before you` : "waiting",
    loading: loaded ? `loading the model, ${Math.floor(100 * loaded)} %` : "loading the model",
    denoising: step ? `step ${step} of ${steps}` : "starting",
    decoding: "decoding",
  };
  byId("stage").textContent = texts[stage];
  if (stage === "loading" && loaded) byId("progress").value = loaded;
  else if (step) byId("progress").value = step / steps;
  else if (stage === "decoding") byId("progress").value = 1;
  else byId("progress").removeAttribute("value");
  say(stage === "denoising" ? "rendering" : texts[stage]);
}

function setRunning(isRunning) {
  byId("run").hidden = !isRunning;
  byId("render").setAttribute("aria-disabled", String(isRunning)); // "disabled" would take the focus away
  byId("result").setAttribute("aria-busy", String(isRunning));
}

async function renderPicture() {
  if (running || byId("form").hidden) return;
  const wasTried = hasKey(), controller = running = new AbortController();
  const request = read(), { settings, pictures } = readChain(request), start = snapshot();
  const body = { request: { ...request, ...settings }, model: byId("model").value, pictures, previews: PREVIEWS };
  byId("error").hidden = true;
  mark(null);
  showProgress({ stage: "waiting" });
  setRunning(true);
  byId("run").scrollIntoView({ block: "nearest" });
  try {
    for await (const [name, data] of render(body, controller.signal)) {
      if (name === "progress") showProgress(data);
      else if (name === "preview") preview(data.png);
      else if (name === "error") throw new Refusal(data.error);
      else add(data, request.seed, start);
    }
    say("The picture is there.");
  } catch (error) {
    say(controller.signal.aborted ? "cancelled" : ""); // an error is an alert already
    if (!controller.signal.aborted) complain(error, wasTried);
  } finally {
    running = null;
    endPreview();
    setRunning(false);
  }
}

function submit(id, action) {
  byId(id).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

submit("form", renderPicture);
submit("key-form", () => {
  keepKey(byId("key").value);
  unlock();
});
byId("cancel").addEventListener("click", () => {
  running?.abort();
  byId("render").focus();
});
byId("again").addEventListener("click", () => {
  byId("seed").value = shownRequest().seed;
});
byId("reuse").addEventListener("click", () => {
  write(shownRequest());
  restore(shownStart());
  writeStages(shownRequest().stages);
  byId("seed").value = shownRequest().seed;
  byId("prompt").focus();
});
byId("continue").addEventListener("click", async () => {
  await startFrom(shownBlob());
  byId("start-part").scrollIntoView({ block: "start" });
  byId("mask").focus({ preventScroll: true });
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || byId("key-form").contains(event.target)) return;
  event.preventDefault();
  renderPicture();
});
unlock();
