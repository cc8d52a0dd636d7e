// Talks to the server: the API key, what there is to choose from, and one picture with its progress.

const KEY = "darkroom-api-key"; // in sessionStorage, which ends with the tab

/** What the server refused or failed at; `error` is its answer's, `status` the HTTP status. */
export class Refusal extends Error {
  constructor(error, status = 200) {
    super(error.message);
    Object.assign(this, { error, status });
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const keepKey = (key) => sessionStorage.setItem(KEY, key);

async function ask(path, { headers = {}, ...rest } = {}) {
  const key = sessionStorage.getItem(KEY);
  const authorization = key === null ? {} : { Authorization: `Bearer ${key}` };
  let answer;
  try {
    // Without "omit" a browser would answer a 401 with a password dialog of its own.
    answer = await fetch(path, { ...rest, headers: { ...headers, ...authorization }, credentials: "omit" });
  } catch (error) {
    throw error.name === "TypeError" ? unanswered("doesn’t answer") : error;
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  if (answer.status === 401) sessionStorage.removeItem(KEY);
  throw body?.error ? new Refusal(body.error, answer.status) : unanswered(`answered with ${answer.status}`);
}

const unanswered = (why) =>
  new Refusal({ code: "E-SERVER", what: "the server", value: null, why, hint: "see whether it still runs" });

/** Models, samplers, presets and so on, and the settings of a picture that nobody asked anything of. */
export async function loadOptions() {
  return (await ask("options.json")).json();
}

/** Makes a picture: yields [event, data] as the server tells of them, the last being "picture" or "error". */
export async function* render(body, signal) {
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream" };
  const answer = await ask("render", { method: "POST", headers, body: JSON.stringify(body), signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", name = "";
  while (name !== "picture" && name !== "error") {
    const { done, value } = await reader.read().catch((error) => {
      throw signal.aborted ? error : unanswered("broke the connection off");
    });
    if (done) throw unanswered("ended before the picture was there");
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const [, event, data] = block.match(/^event: (\w+)\ndata: (.*)$/) ?? [];
      if (!event) continue;
      name = event;
      yield [event, JSON.parse(data)];
    }
  }
}
