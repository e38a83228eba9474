// What the pages of the dashboard need in the browser: times that go on, cells, colours.
(() => {
  const root = document.documentElement;
  const cookie = (name) => document.cookie.split("; ").find((c) => c.startsWith(name + "="))?.split("=")[1];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const wish = cookie("edgekit_theme") || "auto";
  root.dataset.theme = wish === "auto" ? (dark.matches ? "dark" : "light") : wish;
  if (wish === "auto") dark.addEventListener("change", () => location.reload());

  // The server's clock: a browser's own may be wrong.
  let offset;
  const now = () => {
    const served = offset === undefined && document.querySelector("meta[name=server-time]");
    if (served) offset = Number(served.content) - Date.now() / 1000;
    return Date.now() / 1000 + (offset ?? 0);
  };
  const ago = (t) => {
    const s = Math.max(0, now() - t);
    if (s < 60) return `${Math.floor(s)} s ago`;
    if (s < 3600) return `${Math.floor(s / 60)} min ago`;
    if (s < 172800) return `${Math.floor(s / 3600)} h ago`;
    return `${Math.floor(s / 86400)} d ago`;
  };
  const absolute = (t) => new Date(t * 1000).toLocaleString(undefined, {
    year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
    timeZoneName: "short",
  });
  const stamp = (node) => {
    const t = Number(node.dataset.t), text = t ? ago(t) : "never";
    if (node.textContent !== text) node.textContent = text;
    if (t && node.dataset.shown !== node.dataset.t) {
      node.title = `${absolute(t)} (${node.dataset.clock || "server"} time)`;
      node.dataset.shown = node.dataset.t;
    }
  };
  const tick = () => document.querySelectorAll("[data-t]").forEach(stamp);
  setInterval(tick, 1000);
  new MutationObserver(tick).observe(root, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-t"] });

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const time = (t, clock) => {
    const node = make("time", "num");
    node.dataset.t = t ?? "";
    if (clock) node.dataset.clock = clock;
    stamp(node);
    return node;
  };
  const link = (href, text, className) => {
    const node = make("a", className, text);
    node.href = href;
    return node;
  };
  const state = { true: ["on", "online"], false: ["off", "offline"], null: ["never", "never seen"] };
  // Every cell is made of nodes: what a device says never becomes HTML.
  const cells = {
    device: ({ value: [name, online] }) => {
      const [kind, word] = state[String(online)];
      const node = link(`/devices/${encodeURIComponent(name)}`, undefined, "name");
      const dot = make("i", `dot ${kind}`);
      dot.title = word;
      dot.setAttribute("role", "img");
      dot.setAttribute("aria-label", word);
      node.append(dot, document.createTextNode(name));
      return node;
    },
    to: ({ value }) => (value ? link(value[1], value[0]) : ""),
    time: ({ value }) => (value ? time(value) : make("span", "dim", "never")),
    clock: ({ value }) => (value ? time(value, "device") : "–"),
    tags: ({ value }) => {
      const node = make("span");
      for (const text of value ?? []) node.append(make("span", "tag", text));
      return node;
    },
    badge: ({ value }) => (value ? make("span", `badge ${value}`, value) : make("span", "dim", "–")),
    hot: ({ value }) => (value ? make("span", value[1] ? "hot" : "", value[0]) : make("span", "dim", "–")),
  };
  // A narrow screen shows fewer columns: each says from which width on it is there.
  const fit = ({ api }) => {
    const width = document.body.clientWidth;
    const [shown, hidden] = [[], []];
    for (const column of api.getColumns() ?? []) {
      (width >= (column.getColDef().context?.from ?? 0) ? shown : hidden).push(column.getColId());
    }
    // Each call lays the whole table out anew.
    const other = (ids, wanted) => ids.filter((id) => api.getColumn(id).isVisible() !== wanted);
    for (const [ids, wanted] of [[other(shown, true), true], [other(hidden, false), false]]) {
      if (ids.length) api.setColumnsVisible(ids, wanted);
    }
  };
  const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const escape = (text) => make("i", "", text).innerHTML;
  const three = (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const v = Number(value);
    return v === 0 ? "0" : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en").replaceAll(",", " ")
      : String(Number(v.toPrecision(3)));
  };
  const bytes = (value) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let v = Number(value), at = 0;
    while (Math.abs(v) >= 1024 && at < units.length - 1) { v /= 1024; at += 1; }
    return `${three(v)} ${units[at]}`;
  };
  // A tooltip over time: each line with its unit, and when.
  const tip = (unit) => (items) => {
    const list = [].concat(items).filter((item) => item.value?.[1] !== null && item.value?.[1] !== undefined);
    if (!list.length) return "";
    const write = unit === "bytes" ? bytes : (v) => `${three(v)} ${unit}`;
    return escape(absolute(list[0].value[0] / 1000)) + list.map((item) =>
      `<br>${item.marker} ${escape(item.seriesName)} <b>${escape(write(item.value[1]))}</b>`).join("");
  };
  window.fleet = {
    now, ago, absolute, cells, fit, color, three, bytes, tip, escape,
    share: (v) => `${three(v * 100)} %`,
    // Online share to a colour that the colour-blind tell apart, too.
    mixed: (share) => {
      const parts = (name) => color(name).match(/\w\w/g).map((hex) => parseInt(hex, 16));
      const [bad, good] = [parts("bad"), parts("good")];
      const weight = Math.max(0, Math.min(1, (share - 0.5) * 2));
      return `rgb(${bad.map((b, i) => Math.round(b + (good[i] - b) * weight)).join(",")})`;
    },
    theme: () => {
      const next = { auto: "light", light: "dark", dark: "auto" }[cookie("edgekit_theme") || "auto"];
      document.cookie = `edgekit_theme=${next}; path=/; max-age=31536000; samesite=strict`;
      location.reload();
    },
    go: (url) => { location.href = url; },
  };
})();
