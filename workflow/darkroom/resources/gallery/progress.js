// A page that a run wrote while pictures were made: says so once the run should have written a newer one.
function watchProgress() {
  const line = byId("progress");
  if (!line?.dataset.nextBy) return;
  const check = () => {
    const late = Date.now() / 1000 - Number(line.dataset.nextBy);
    if (late < 0) {
      setTimeout(check, Math.min(1000 - late * 1000, 60000));
      return;
    }
    line.classList.add("stale");
    line.lastElementChild.append(" If that shows nothing newer, the run has ended or was killed.");
  };
  check();
}
watchProgress();
