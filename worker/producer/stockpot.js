// Follows a Stockpot job in a page: shows its text as it comes, through reloads, restarts and broken attempts.
// No dependency, no build. Made to read; its contract is docs/streams.md.
//
//   const job = stockpot(url, { show: element, change(job) {…}, end(job) {…} });
//   job.text, job.status ("waiting", "running", then "completed", "failed", "cancelled", "expired"), job.error
//   job.stop()      stops following; the job goes on
//
// `url`: a signed one (`pot.stream_url`), one of your own that sends `pot.sse`'s frames, or a function that gives (a
// promise of) one: it is asked again after each loss of connection, so that an expired link can be renewed.
(function (root) {
  "use strict";
  root.stockpot = function (url, on) {
    on = on || {};
    const job = { text: "", status: "waiting", seq: 0, error: null, usage: null, stop: stop };
    let source = null, timer = null, failures = 0, stopped = false;

    function take(message) {
      const event = JSON.parse(message.data);
      const end = /^job\.(completed|failed|cancelled|expired)$/.exec(event.type);
      if (event.seq <= job.seq && !end) return; // seen before a reconnect
      job.seq = event.seq;
      failures = 0;
      if (event.type === "attempt.reset") job.text = ""; // another attempt begins: what was shown is void
      if (event.type === "chunk") job.text += event.text;
      job.status = end ? end[1] : "running";
      if (end) { job.error = event.error || null; job.usage = event.usage || null; stop(); }
      if (on.show) on.show.textContent = job.text; // text, never HTML
      if (on.change) on.change(job);
      if (end && on.end) on.end(job);
    }

    async function connect() {
      timer = null;
      let target;
      try { target = typeof url === "function" ? await url() : url; } catch (error) { return again(); }
      if (stopped) return;
      if (job.seq) target += (target.includes("?") ? "&" : "?") + "after=" + job.seq;
      source = new EventSource(target);
      source.onopen = function () { failures = 0; };
      source.onmessage = take;
      // The browser comes back by itself, with Last-Event-ID; after an answer other than 200 it does not.
      source.onerror = function () { if (source && source.readyState === EventSource.CLOSED) again(); };
    }

    function again() {
      if (source) source.close();
      if (stopped || timer) return;
      failures += 1;
      timer = setTimeout(connect, Math.min(500 * 2 ** failures, 15000) * (0.5 + Math.random() / 2));
    }

    function stop() {
      stopped = true;
      clearTimeout(timer);
      if (source) source.close();
    }

    connect();
    return job;
  };
})(typeof globalThis === "undefined" ? window : globalThis);
