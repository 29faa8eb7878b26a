// What the dashboard does in a page: looks once a second while it is seen, draws plots, shows times in the reader's zone,
// follows a running job, copies. Without it every page still works; it is then as old as its loading.
(function () {
  "use strict";
  const live = document.getElementById("live");
  const lost = document.getElementById("lost");
  const all = (selector, within) => Array.from((within || document).querySelectorAll(selector));

  // ── times ──
  function localise(within) {
    for (const time of all("time[datetime]", within)) {
      const at = new Date(time.dateTime);
      const exact = at.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
      if (time.dataset.show === "exact") time.textContent = exact;
      time.title = exact + " · " + at.toISOString();
    }
  }

  // ── one look a second, fewer of a gateway that is slow to answer, none while the tab is hidden ──
  let asked = 0, rests = 0;
  function look() {
    if (document.hidden || !live || !live.hasAttribute("hx-get")) return;
    if (Date.now() - asked < 10000 || Date.now() < rests) return; // the last look is under way, or took long
    asked = Date.now();
    live.dispatchEvent(new CustomEvent("look"));
  }
  setInterval(look, 1000);
  document.addEventListener("visibilitychange", look);
  document.addEventListener("htmx:finally:request", () => {
    if (asked) rests = Date.now() + Math.min(10000, 20 * (Date.now() - asked));
    asked = 0;
  });
  document.addEventListener("htmx:after:request", () => { asked = 0; lost.hidden = true; });
  document.addEventListener("htmx:error", () => { asked = 0; lost.hidden = false; });
  document.addEventListener("htmx:after:swap", () => { localise(live); follow(); });

  // ── plots ──
  const LINES = {
    ended: [["completed", "--good", (d) => rate(d.ended.completed, d)], ["failed", "--bad", (d) => rate(d.ended.failed, d)],
      ["cancelled", "--dim", (d) => rate(d.ended.cancelled, d)], ["expired", "--warn", (d) => rate(d.ended.expired, d)]],
    first: [["p50", "--good", (d) => d.quantiles["first p50"]], ["p95", "--warn", (d) => d.quantiles["first p95"]]],
    call: [["p50", "--good", (d) => d.quantiles["call p50"]], ["p95", "--warn", (d) => d.quantiles["call p95"]]],
    oldest: [["oldest", "--warn", (d) => d.oldest]],
    in_flight: [["in flight", "--link", (d) => d.in_flight]],
    cost: [["cost", "--link", (d) => d.cost_usd]],
  };
  const rate = (counts, d) => counts.map((n) => n * 60 / d.step);
  const colour = (name) => {
    const probe = document.createElement("span");
    probe.style.color = "var(" + name + ")";
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const CLOCK = { hour: "2-digit", minute: "2-digit" }, DAY = { month: "short", day: "numeric" };
  const drawn = new Map();
  function draw(at, d) {
    const lines = LINES[at.dataset.plot];
    const data = [d.at, ...lines.map((line) => line[2](d))];
    const before = drawn.get(at);
    if (before) { before.setData(data); return; }
    const axis = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const plot = new uPlot({
      width: at.clientWidth, height: at.clientHeight - 34, legend: { live: true },
      cursor: { drag: { x: false, y: false } },
      scales: { y: { range: (u, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, space: 80, values: (u, at) => at.map((t) => new Date(t * 1000).toLocaleString([], d.step < 3600 ? CLOCK : DAY)) }, { ...axis, size: 52 }],
      series: [{ value: (u, t) => t === null ? "" : new Date(t * 1000).toLocaleString([], { ...DAY, ...CLOCK }) }, ...lines.map((line) => ({ label: line[0], stroke: colour(line[1]), width: 1.6, points: { show: true, size: 3 } }))],
    }, data, at);
    drawn.set(at, plot);
  }
  async function plots() {
    const here = all("[data-plot]");
    if (document.hidden || !here.length) return;
    try {
      const answer = await fetch("/ui/rates/" + here[0].dataset.span, { headers: { accept: "application/json" } });
      if (answer.ok) { const d = await answer.json(); here.forEach((at) => draw(at, d)); }
    } catch (error) { /* the next look shows it */ }
  }
  setInterval(plots, 10000);
  addEventListener("resize", () => drawn.forEach((plot, at) => plot.setSize({ width: at.clientWidth, height: at.clientHeight - 34 })));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawn.forEach((plot) => plot.destroy());
    drawn.clear();
    plots();
  });

  // ── a job's tokens, from the first on, whatever was loaded when ──
  const unseen = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]/gu;
  const named = (c) => c < 0x20 ? String.fromCharCode(0x2400 + c) : c === 0x7f ? "\u2421" : "\u27e8" + c.toString(16).toUpperCase().padStart(4, "0") + "\u27e9";
  const visible = (text) => text.replaceAll("\r\n", "\n").replace(unseen, (c) => named(c.charCodeAt(0)));
  let followed = null;
  function follow() {
    const at = document.querySelector("[data-events]");
    if (!at || followed === at.dataset.events) return;
    followed = at.dataset.events;
    let frame = 0;
    stockpot(followed, {
      change(job) { // once a frame, however fast they come
        if (!frame) frame = requestAnimationFrame(() => { frame = 0; at.textContent = visible(job.text); });
      },
      end() { location.reload(); }, // the whole answer, what it cost, what may be done now
    });
  }

  // ── a double click presses a button once ──
  let sent = new WeakSet();
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (sent.has(event.target)) event.preventDefault();
    sent.add(event.target);
    setTimeout(() => sent.delete(event.target), 10000); // one whose answer was not waited for
  });
  addEventListener("pageshow", () => { sent = new WeakSet(); });

  // ── copy ──
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    } catch (error) { button.textContent = "Press Ctrl-C"; getSelection().selectAllChildren(document.getElementById(button.dataset.copy)); }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  localise(document);
  plots();
  follow();
})();
