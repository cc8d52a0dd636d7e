// The dialog that shows one picture in full with its settings. `step(by)` is called for its arrows, `closed()` after it.
function makeViewer({ step, closed }) {
  const dialog = byId("viewer"), image = byId("viewer-image"), copy = byId("copy");
  let parameters = "";

  function showImage({ url, width, height, alt }) {
    image.hidden = !url;
    if (!url) return image.removeAttribute("src");
    image.src = url;
    image.alt = alt;
    // Small pictures are enlarged to a size one can look at, large ones only to fit the window.
    image.style.maxWidth = `${Math.max(width, 640)}px`;
    image.style.maxHeight = `${Math.max(height, 640)}px`;
  }

  function makeRow([key, value]) {
    const text = make("dd", { textContent: value, dir: "auto", className: key.endsWith("SHA256") ? "hash" : "" });
    return make("div", {}, make("dt", { textContent: key, dir: "auto" }), text);
  }

  function makeLink([name, url]) {
    return make("li", {}, make("a", { textContent: name, href: url, target: "_blank", rel: "noopener" }));
  }

  function show(picture) {
    showImage({ ...picture, alt: picture.prompt || picture.id });
    byId("viewer-error").textContent = picture.error ?? "";
    byId("viewer-error").hidden = !picture.error;
    byId("viewer-name").textContent = picture.name;
    byId("viewer-place").textContent = picture.place;
    byId("viewer-prompt").textContent = picture.prompt || "(empty)";
    byId("viewer-negative").textContent = picture.negative;
    byId("viewer-negative-part").hidden = !picture.negative;
    byId("viewer-settings").replaceChildren(...picture.settings.map(makeRow));
    const earlier = picture.earlier ?? [];
    byId("viewer-earlier-part").hidden = !earlier.length;
    byId("viewer-earlier").replaceChildren(...earlier.map(makeLink));
    byId("viewer-file").textContent = picture.file;
    for (const id of ["viewer-file", "viewer-open"]) {
      if (picture.url) byId(id).href = picture.url;
      else byId(id).removeAttribute("href");
    }
    copy.hidden = byId("viewer-open").hidden = !picture.url;
    byId("previous").disabled = picture.isFirst;
    byId("next").disabled = picture.isLast;
    copy.textContent = "Copy parameters";
    parameters = picture.parameters;
  }

  async function copyParameters() {
    try {
      await navigator.clipboard.writeText(parameters);
    } catch {
      // Some browsers keep the clipboard from pages opened from disk; a selection inside the dialog still works.
      const area = make("textarea", { value: parameters });
      dialog.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    copy.textContent = "Copied";
    copy.focus();
  }

  dialog.addEventListener("close", () => {
    document.documentElement.style.overflow = "";
    image.removeAttribute("src");
    closed();
  });
  byId("close").addEventListener("click", () => dialog.close());
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  copy.addEventListener("click", copyParameters);
  return {
    show,
    showImage,
    get isOpen() { return dialog.open; },
    open() {
      if (dialog.open) return;
      dialog.showModal();
      document.documentElement.style.overflow = "hidden";
    },
  };
}
