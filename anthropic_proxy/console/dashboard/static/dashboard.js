// Behavior of the dashboard: theme, keyboard, charts, live updates. Every page is complete without it.
"use strict";
const [root, main] = [document.documentElement, document.querySelector("main")];
const prefix = new URL(document.querySelector(".brand").href).pathname.slice(0, -"/dashboard".length);
const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });

// Theme: stored in a cookie, so that the server sends the page in the chosen theme.
const isDark = () =>
  root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
function switchTheme() {
  root.dataset.theme = isDark() ? "light" : "dark";
  document.cookie = `anthropic_proxy_theme=${root.dataset.theme}; path=${prefix}/dashboard; max-age=31536000; samesite=strict`;
}
const currentLink = document.querySelector(".top nav a[aria-current]");
if (currentLink) { // scrollIntoView would make the first Tab start there, behind the link to the content
  const nav = currentLink.closest("nav");
  nav.scrollLeft = currentLink.offsetLeft - nav.offsetLeft - (nav.clientWidth - currentLink.offsetWidth) / 2;
}
const actions = { theme: switchTheme, keys: () => document.querySelector("#keys")?.showModal() };
let paused = false;
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { do: action, copy, toggle } = button.dataset;
  actions[action]?.();
  if (action === "palette") openPalette();
  if (action === "newer") refresh();
  if (action === "unfold") {
    const folded = button.closest("section").querySelectorAll("details.fold");
    const opens = [...folded].some((one) => !one.open);
    folded.forEach((one) => { one.open = opens; });
    button.textContent = opens ? "Close all" : "Open all";
  }
  if (action === "pause") {
    paused = !paused;
    button.textContent = paused ? "continue" : "pause";
    button.previousElementSibling.textContent = paused ? "paused" : "updates live";
    if (!paused) refresh();
  }
  if (copy) {
    navigator.clipboard.writeText(copy).then(
      () => { button.textContent = "Copied"; announce("Copied"); },
      () => { getSelection().selectAllChildren(button.previousElementSibling); },
    );
  }
  if (toggle) {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", pressed);
    const drawn = button.closest(".pad").querySelectorAll(`[data-series="${CSS.escape(toggle)}"]`);
    drawn.forEach((one) => one.classList.toggle("off", !pressed));
  }
});
const announce = (text) => { document.querySelector("#announce").textContent = text; };
// Keyboard: g and a letter open a page; j and k choose a row; brackets move the range.
let previous = "";
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeMenus();
  if (event.key === "k" && (event.ctrlKey || event.metaKey) && palette) { openPalette(); event.preventDefault(); return; }
  if (event.target.closest("input, textarea, select, dialog[open]") || event.metaKey || event.ctrlKey || event.altKey) return;
  const before = previous;
  previous = event.key;
  const page = before === "g" && document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
  const search = document.querySelector("#search");
  if (page) page.click();
  else if (event.key === "?") actions.keys();
  else if (event.key === "t") switchTheme();
  else if (event.key === "/" && search) { search.focus(); event.preventDefault(); }
  else if ("[]".includes(event.key)) document.querySelector(`a[data-shift="${event.key}"]`)?.click();
  else if ("jk".includes(event.key)) moveRow(event.key === "j" ? 1 : -1);
});
function closeMenus(except) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (menu === except) continue;
    if (menu.contains(document.activeElement)) menu.querySelector("summary").focus();
    menu.open = false;
  }
}
document.addEventListener("click", (event) => closeMenus(event.target.closest("details.menu")));
function moveRow(step) {
  const neighbor = document.querySelector(`a[data-row-step="${step}"]`);
  if (neighbor) { neighbor.click(); return; }
  const links = [...document.querySelectorAll("tr.go a")].filter((link, index, all) =>
    index === all.findIndex((other) => other.closest("tr") === link.closest("tr")));
  links[Math.min(Math.max(links.indexOf(document.activeElement) + step, 0), links.length - 1)]?.focus();
}
document.addEventListener("click", (event) => {
  const row = event.target.closest("tr.go");
  if (row && !event.target.closest("a, button") && !String(getSelection())) row.querySelector("a").click();
});

// Palette: finds pages, views, sessions, settings and actions by parts of their names, else requests.
const palette = document.querySelector("#palette");
let [entries, chosen, loading] = [[], 0, null];
async function openPalette() {
  const input = palette.querySelector("input");
  if (palette.open) return;
  palette.showModal();
  input.value = "";
  if (!entries.length) loading ??= loadEntries();
  await loading;
  listEntries(input.value);
}
async function loadEntries() {
  const response = await fetch(`${prefix}/dashboard/palette`).catch(() => null);
  if (response?.ok && !response.redirected) {
    ({ entries } = await response.json());
    entries.push({ kind: "Action", text: "Switch between light and dark", note: "t", action: "theme" });
    entries.push({ kind: "Action", text: "Show the keyboard shortcuts", note: "?", action: "keys" });
  }
  loading = null;
}
function listEntries(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = ({ kind, text: name, note }) => words.every((word) => `${kind} ${name} ${note}`.toLowerCase().includes(word));
  const counts = {};
  const most = words.length ? { Page: 5 } : { Page: 9, View: 3, Session: 3 }; // room for each kind
  const isFew = ({ kind }) => (counts[kind] = (counts[kind] ?? 0) + 1) <= (most[kind] ?? (words.length ? 5 : 0));
  const found = entries.filter(fits).filter(isFew).slice(0, 15);
  if (text.trim()) found.push({ kind: "Requests", text: `with “${text.trim()}”`, note: "search", href: `/dashboard/requests?q=${encodeURIComponent(text.trim())}` });
  palette.querySelector("ul").replaceChildren(...found.map((entry, index) => {
    const row = Object.assign(element("li", ""), { id: `palette-${index}`, role: "option" });
    Object.assign(row.dataset, entry.action ? { action: entry.action } : { href: entry.href });
    row.append(element("i", entry.kind), element("span", entry.text), element("i", entry.note));
    return row;
  }));
  choose(0);
}
function choose(index) {
  const rows = [...palette.querySelectorAll("li")];
  chosen = Math.min(Math.max(index, 0), rows.length - 1);
  rows.forEach((row, at) => row.setAttribute("aria-selected", at === chosen));
  rows[chosen]?.scrollIntoView({ block: "nearest" });
  palette.querySelector("input").setAttribute("aria-activedescendant", rows[chosen]?.id ?? "");
}
function follow(row) {
  palette.close();
  if (row?.dataset.action) actions[row.dataset.action]();
  else if (row) location.assign(prefix + row.dataset.href);
}
palette?.addEventListener("input", (event) => listEntries(event.target.value));
palette?.addEventListener("keydown", async (event) => {
  if (event.key === "Escape") { palette.close(); event.preventDefault(); return; } // a search field would only be emptied
  if (/^Arrow(Up|Down)$/.test(event.key)) { choose(chosen + (event.key === "ArrowDown" ? 1 : -1)); event.preventDefault(); }
  if (event.key !== "Enter") return;
  await loading; // `openPalette` waits for it since before, and lists the entries first
  follow(palette.querySelectorAll("li")[chosen]);
});
palette?.addEventListener("click", (event) => {
  const row = event.target.closest("li");
  if (row) follow(row);
  else if (event.target === palette) palette.close();
});

// A search field that also filters panels as the user types. Enter sends it to the server.
document.querySelector("[data-filter]")?.addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  const isEmpty = (part) => words.length > 0 && !part.querySelector("tbody tr:not([hidden])");
  for (const panel of document.querySelectorAll(event.target.dataset.filter)) {
    for (const row of panel.querySelectorAll("tbody tr")) {
      row.hidden = !words.every((word) => row.cells[0].textContent.toLowerCase().includes(word));
    }
    for (const group of panel.querySelectorAll("details")) {
      group.hidden = isEmpty(group);
      group.open = words.length > 0;
    }
    const nothing = panel.querySelector("[data-nothing]");
    if (nothing) nothing.hidden = !isEmpty(panel);
    else panel.hidden = isEmpty(panel);
  }
});

// Charts: one tab stop each; arrow keys move; a card shows the values of the focused column; dragging sets the range.
const findColumn = (stop) => stop.firstElementChild?.getAttribute("x");
function prepareChart(box) {
  for (const chart of box.querySelectorAll(".plot")) {
    const stops = [...chart.querySelectorAll("a")];
    stops.forEach((stop, index) => { stop.setAttribute("tabindex", index === stops.length - 1 ? 0 : -1); });
    chart.addEventListener("keydown", (event) => {
      const column = findColumn(event.target);
      const isVertical = chart.matches(".week") && /^Arrow(Up|Down)$/.test(event.key);
      const step = /^Arrow(Right|Down)$/.test(event.key) ? 1 : -1;
      const at = stops.indexOf(document.activeElement);
      if (!isVertical && !/^Arrow(Left|Right)$/.test(event.key)) return;
      let to = at + step;
      while (isVertical && stops[to] && findColumn(stops[to]) !== column) to += step;
      if (!stops[to]) return;
      stops[at].setAttribute("tabindex", -1);
      stops[to].setAttribute("tabindex", 0);
      stops[to].focus();
      event.preventDefault();
    });
    if (!chart.matches(".week")) dragRange(stops);
  }
  const card = Object.assign(element("div", ""), { className: "card", hidden: true, ariaHidden: "true" });
  box.append(card);
  const show = (event) => {
    const stop = event.target.closest("svg a");
    if (!stop) return;
    const [title, parts = ""] = stop.getAttribute("aria-label").split(": ");
    card.replaceChildren(element("b", title));
    for (const part of parts.split("; ").filter(Boolean)) {
      const row = card.appendChild(document.createElement("span"));
      const cut = part.lastIndexOf(" = ");
      row.append(element("i", part.slice(0, cut)), element("span", part.slice(cut + 3)));
    }
    card.hidden = false;
    const [column, frame] = [stop, box].map((one) => one.getBoundingClientRect());
    const left = column.left - frame.left - card.offsetWidth - 8;
    card.style.left = `${left > 0 ? left : Math.min(column.right - frame.left + 8, frame.width - card.offsetWidth)}px`;
  };
  for (const name of ["pointerover", "focusin"]) box.addEventListener(name, show);
  for (const name of ["pointerleave", "focusout"]) box.addEventListener(name, () => { card.hidden = true; });
}
function dragRange(stops) {
  let first = -1;
  const mark = (last) => stops.forEach((stop, index) => {
    stop.classList.toggle("chosen", first >= 0 && last !== first && (index - first) * (index - last) <= 0);
  });
  stops.forEach((stop, index) => {
    stop.setAttribute("draggable", "false");
    stop.addEventListener("pointerdown", (event) => { if (event.button === 0) first = index; });
    stop.addEventListener("pointerenter", () => { if (first >= 0) mark(index); });
    stop.addEventListener("pointerup", () => {
      const [from, to] = [stops[Math.min(first, index)], stops[Math.max(first, index)]];
      if (first >= 0 && from !== to) {
        const target = new URL(location.href);
        const [start, end] = [new URL(from.href.baseVal, location), new URL(to.href.baseVal, location)];
        for (const name of ["range", "before", "after"]) target.searchParams.delete(name);
        target.searchParams.set("from", start.searchParams.get("from"));
        target.searchParams.set("to", end.searchParams.get("to"));
        location.assign(target);
      }
    });
  });
  addEventListener("pointerup", () => { setTimeout(() => { first = -1; mark(-1); }); });
}
const prepareCharts = (parent) => parent.querySelectorAll(".chart-box").forEach(prepareChart);

// Live updates: an event of the server means that requests have changed; the changed parts of this page are fetched.
const REFRESH_MILLISECONDS = 2000;
let [timer, newer] = [0, 0];
const schedule = () => { if (!timer && !paused && !document.hidden) timer = setTimeout(refresh, REFRESH_MILLISECONDS); };
// While the doctor runs, the page is fetched repeatedly, and once more after its end.
const isExamining = () => Boolean(document.querySelector("[data-running]"));
const sent = new Map([...document.querySelectorAll("[data-live]")].map((panel) => [panel.id, panel.outerHTML]));
prepareCharts(document);
// Replaces an element; the focus, open details and hidden series in it stay.
function replace(old, fresh) {
  const [stops, switches] = ["a, button, summary, [tabindex]", "details, [data-toggle], [data-series]"];
  const focused = [...old.querySelectorAll(stops)].indexOf(document.activeElement);
  const states = old.querySelectorAll(switches);
  old.replaceWith(fresh);
  fresh.querySelectorAll(switches).forEach((one, at) => {
    if (states[at]?.open) one.open = true;
    if (states[at]?.ariaPressed === "false") one.ariaPressed = "false";
    one.classList.toggle("off", Boolean(states[at]?.classList.contains("off")));
  });
  prepareCharts(fresh);
  fresh.querySelectorAll(stops)[focused]?.focus({ preventScroll: true });
}
// Replaces only the changed rows of a table. False: the rows have no id, or the columns have changed.
function replaceRows(table, fresh) {
  const [body, next] = [table.querySelector("tbody"), fresh.querySelector("tbody")];
  if (!next?.querySelector("tr[data-id]") || !table.tHead?.isEqualNode(fresh.tHead)) return false;
  const name = (row) => row.dataset.id ?? `reason of ${row.dataset.reasonOf}`;
  const known = new Map([...body.rows].map((row) => [name(row), row]));
  [...next.rows].forEach((row, at) => {
    const old = known.get(name(row));
    known.delete(name(row));
    const kept = old?.isEqualNode(row) ? old : row;
    if (old && kept !== old) replace(old, row);
    if (body.rows[at] !== kept) body.insertBefore(kept, body.rows[at] ?? null);
  });
  known.forEach((old) => old.remove());
  return true;
}
async function refresh() {
  clearTimeout(timer);
  timer = 0;
  const response = await fetch(location.href, { headers: { accept: "text/html" } }).catch(() => null);
  if (!response?.ok || response.redirected) { lose(response?.redirected); return; }
  markFresh();
  if (paused) return;
  const wasExamining = isExamining();
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const panel of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(panel.id);
    if (!fresh || fresh.outerHTML === sent.get(panel.id)) continue;
    sent.set(panel.id, fresh.outerHTML);
    if (!replaceRows(panel, fresh)) replace(panel, fresh);
  }
  if (wasExamining || isExamining()) schedule();
  if (wasExamining && !isExamining()) announce("The doctor has ended");
  if (newer) announce(`${newer} new request${newer === 1 ? "" : "s"}`);
  newer = 0;
  document.querySelector("#newer")?.setAttribute("hidden", "");
}
function countNewer() {
  newer += 1;
  const button = document.querySelector("#newer");
  if (button && scrollY > 200) Object.assign(button, { hidden: false, textContent: `${newer} newer` });
  else schedule();
}

// A lost connection is shown and made again. The server ends each stream after a minute, so a short gap is normal.
const [GAP, SILENCE, RETRY] = [6000, 75000, 3000];
const timers = { gap: 0, silence: 0, retry: 0 };
let [freshAt, source] = [Date.now(), null];
const start = (name, action, time) => { clearTimeout(timers[name]); timers[name] = setTimeout(action, time); };
function lose(signedOut) {
  root.classList.add("disconnected");
  const line = document.querySelector("#stale");
  const since = `Not updated since ${new Date(freshAt).toLocaleTimeString([], { timeZoneName: "short" })}`;
  line.textContent = signedOut ? `${since}: the session has ended. Reload the page to sign in.`
    : `${since}: the connection to the proxy is lost. Connecting again …`;
  line.hidden = false;
}
function markFresh() {
  freshAt = Date.now();
  if (root.classList.contains("disconnected")) announce("Connected again");
  root.classList.remove("disconnected");
  document.querySelector("#stale")?.setAttribute("hidden", "");
}
function connect() {
  source?.close();
  source = new EventSource(main.dataset.events);
  start("silence", () => { lose(); connect(); }, SILENCE);
  source.addEventListener("snapshot", () => {
    clearTimeout(timers.gap);
    timers.gap = 0;
    start("silence", () => { lose(); connect(); }, SILENCE);
    if (root.classList.contains("disconnected")) refresh();
    freshAt = Date.now();
  });
  source.addEventListener("request", countNewer);
  source.addEventListener("running", schedule);
  source.addEventListener("error", () => {
    timers.gap ||= setTimeout(() => { timers.gap = 0; refresh(); }, GAP);
    start("retry", connect, RETRY);
  });
}
if (main.dataset.events) {
  connect();
  if (isExamining()) schedule();
  document.addEventListener("visibilitychange", () => { if (newer || isExamining()) schedule(); });
}
