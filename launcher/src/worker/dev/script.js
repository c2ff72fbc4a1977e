// Shows how the build goes and reloads the page when something new serves. Only in `launcher dev`.
(() => {
  if (window.launcherDev) return;
  window.launcherDev = true;
  // `kind` is "page" for a page of the plugin, else what the launcher shows in its place.
  const { identity, kind } = document.currentScript.dataset;
  let covered = false;

  function show(html) {
    document.getElementById("launcher-overlay")?.remove();
    covered = Boolean(html);
    if (!html) return;
    const box = document.createElement("template");
    box.innerHTML = html;
    document.body.append(box.content);
  }

  // Once for each generation: a page that the browser takes from its cache would reload for ever.
  function reload(to) {
    const key = `launcher-dev ${location.href}`;
    if (sessionStorage.getItem(key) === to) return;
    sessionStorage.setItem(key, to);
    location.reload();
  }

  const events = new EventSource("/__launcher/dev");
  events.onmessage = ({ data }) => {
    const state = JSON.parse(data);
    if (state.identity !== identity) return reload(state.identity);
    if (state.overlay) return show(state.overlay);
    // What was wrong stays until it is known whether it is right now.
    if (state.build !== "good") return;
    // The sources are as they were before the mistake: nothing new serves, and the page comes back.
    if (kind === "broken" || (kind !== "page" && covered)) return location.reload();
    if (kind === "page") show(null);
  };
  addEventListener("keydown", ({ key }) => key === "Escape" && show(null));
  addEventListener("pagehide", () => events.close());
})();
