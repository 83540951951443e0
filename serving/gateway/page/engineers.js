/* The page for engineers: Prometheus's text read into tables. */
const PREFIX = "triptych_gateway_", SECONDS = 5000;
const STEADY = 0.1, CHANGED = 0.25; /* of the population stability index, by the usual rule of thumb */
let timer = null;

/* Lines `name{label="value"} number` as [name, labels, number]. */
function samples(text) {
  const lines = text.split("\n").filter((line) => line.startsWith(PREFIX));
  return lines.map((line) => {
    const [, name, inside, number] = line.match(/^([a-z0-9_]+)(?:\{(.*)\})? (\S+)$/i);
    const labels = Object.fromEntries([...(inside ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key, value]));
    return { name: name.slice(PREFIX.length), labels, value: number === "+Inf" ? Infinity : Number(number) };
  });
}

const of = (all, name) => all.filter((sample) => sample.name === name);
const one = (all, name) => of(all, name)[0]?.value ?? NaN;
const total = (all, name, labels = {}) => of(all, name).filter((sample) => Object.entries(labels).every(([key, value]) => sample.labels[key] === value))
  .reduce((sum, sample) => sum + sample.value, 0);
const whole = (value) => Number.isFinite(value) ? value.toLocaleString("en") : "not known yet";
const percent = (value) => Number.isFinite(value) ? `${(100 * value).toFixed(1)} %` : "not known yet";

/* A quantile of a histogram: the buckets' counts are cumulative, and inside a bucket seconds are taken as even. */
function quantile(buckets, share) {
  const wanted = share * buckets.at(-1).count;
  const at = buckets.findIndex((bucket) => bucket.count >= wanted);
  const low = at ? buckets[at - 1] : { le: 0, count: 0 };
  if (buckets[at].le === Infinity) return `over ${1000 * low.le} ms`;
  const inside = (wanted - low.count) / Math.max(buckets[at].count - low.count, 1);
  return `${(1000 * (low.le + inside * (buckets[at].le - low.le))).toFixed(1)} ms`;
}

function fact(name, value, note = "") {
  return make("div", {}, make("dt", {}, name), make("dd", {}, value, note ? make("small", {}, note) : null));
}

function table(caption, heads, lines) {
  if (!lines.length) return make("p", {}, "Nothing was asked yet.");
  return make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...lines.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((cell) => make("td", {}, cell))))));
}

function showRelease(all, health) {
  const answered = Object.fromEntries(of(all, "release").map((sample) => [sample.labels.model, sample.value]));
  const names = [...new Set([...Object.keys(health.models), ...Object.keys(answered)])].sort();
  find("release").replaceChildren(
    fact("Models", health.status === "ok" ? "answering" : "degraded", health.error ?? `${whole(health.items)} items, ${whole(health.users)} users`),
    ...names.map((name) => fact(name, name in answered ? `version ${answered[name]}` : "not asked yet",
      Object.entries(health.models[name] ?? {}).map(([version, state]) => `${version} ${state.toLowerCase()}`).join(", "))),
    ...of(all, "circuit_breaker").filter((sample) => sample.value === 1 && sample.labels.state !== "closed")
      .map((sample) => fact(`Breaker of ${sample.labels.model}`, sample.labels.state)));
}

function showDrift(all) {
  const index = one(all, "score_drift");
  const reading = !Number.isFinite(index) ? "too few scores so far" : index < STEADY ? "steady" : index < CHANGED ? "moving" : "changed: look at it";
  find("drift").replaceChildren(
    fact("Score drift", Number.isFinite(index) ? index.toFixed(3) : "not known yet", `population stability index: ${reading}`),
    fact("Coverage", percent(one(all, "coverage")), "of the catalogue in the last 500 lists"),
    fact("Strangers", whole(one(all, "unknown_users_total")), "recommendations for ids never seen"));
}

function showLatency(all) {
  const stages = new Map();
  for (const sample of of(all, "stage_seconds_bucket")) {
    const le = sample.labels.le === "+Inf" ? Infinity : Number(sample.labels.le);
    stages.set(sample.labels.stage, [...(stages.get(sample.labels.stage) ?? []), { le, count: sample.value }]);
  }
  const lines = [...stages].filter(([, buckets]) => buckets.at(-1).count > 0)
    .map(([stage, buckets]) => [stage, whole(buckets.at(-1).count), ...[0.5, 0.95, 0.99].map((share) => quantile(buckets, share))]);
  find("latency").replaceChildren(table("Read from histograms, so between two bounds of a bucket.", ["Stage", "Count", "Median", "95 %", "99 %"], lines));
}

function showTraffic(all) {
  const routes = new Map();
  for (const sample of of(all, "requests_total")) {
    const name = `${sample.labels.method} ${sample.labels.route}`, kind = Math.floor(Number(sample.labels.status) / 100);
    const counts = routes.get(name) ?? {};
    counts[kind] = (counts[kind] ?? 0) + sample.value;
    routes.set(name, counts);
  }
  const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);
  const lines = [...routes].sort((a, b) => sum(b[1]) - sum(a[1])).map(([name, counts]) =>
    [name, whole(sum(counts)), ...[2, 4, 5].map((kind) => whole(counts[kind] ?? 0))]);
  find("traffic").replaceChildren(table("All since the start.", ["Route", "All", "Answered", "Refused", "Failed"], lines));
}

function showMore(all) {
  const hits = total(all, "cache_total", { result: "hit" }), misses = total(all, "cache_total", { result: "miss" });
  const reasons = of(all, "fallbacks_total").filter((sample) => sample.value).map((sample) => `${sample.labels.stage} ${sample.labels.reason} ${sample.value}`).join(", ");
  find("more").replaceChildren(
    fact("Popular stand-ins", whole(total(all, "fallbacks_total")), reasons || "the models answered every time"),
    fact("Answers kept from before", percent(hits / (hits + misses)), `${whole(hits)} of ${whole(hits + misses)}`),
    fact("Calls sent twice", whole(total(all, "hedges_total")), "a slow call is asked a second time"),
    fact("Feedback", whole(total(all, "feedback_total", { result: "new" })), `events; ${whole(total(all, "feedback_total", { result: "duplicate" }))} came twice`),
    fact("Sessions", whole(one(all, "sessions")), "that feedback opened"),
    fact("Added items", whole(one(all, "added_items")), "younger than the release"));
}

async function read() {
  try {
    const [metrics, health] = await Promise.all([fetchChecked("/metrics").then((reply) => reply.text()), ask("/healthz")]);
    const all = samples(metrics);
    showRelease(all, health);
    showDrift(all);
    showLatency(all);
    showTraffic(all);
    showMore(all);
    find("timing").textContent = `Read at ${new Date().toLocaleTimeString()}.`;
    if (!timer) find("status").textContent = "The figures are read.";
  } catch (error) {
    if (kept("key", () => "")) find("key-part").hidden = false; /* one that was typed into the shop may not open this */
    find("status").textContent = `That did not work: ${error.message}`;
  }
}

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey();
  read();
});
find("follow").addEventListener("click", () => {
  clearInterval(timer);
  timer = timer ? null : setInterval(read, SECONDS);
  find("follow").ariaPressed = String(Boolean(timer));
  find("status").textContent = timer ? "The figures are read every five seconds." : "The figures stay as they are.";
});
read();
