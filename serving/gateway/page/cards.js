/* Items as people see them: cover, words, clip, what to do about it, and why it is here. */
const LISTENED = 10, REASONS = 6, SMALLEST_SHARE = 0.01, ALIKE = 0.5;

const nameOf = (item) => item.title || item.item_id;

function blankCover(item) {
  const words = nameOf(item).split(/\s+/).filter(Boolean);
  return make("div", { className: "cover blank", ariaHidden: "true" }, words.slice(0, 2).map((word) => [...word][0]).join("").toUpperCase());
}

function cover(item) {
  if (!item.image) return blankCover(item);
  const image = make("img", { className: "cover", src: item.image, alt: `Cover of ${nameOf(item)}`, loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(blankCover(item)));
  return image;
}

function clip(item) {
  if (item.video) return make("video", { controls: true, preload: "none", src: item.video, poster: item.image ?? "", ariaLabel: `Video of ${nameOf(item)}` });
  if (item.audio && !/\.midi?$/.test(item.audio)) return make("audio", { controls: true, preload: "none", src: item.audio, ariaLabel: `Clip of ${nameOf(item)}` });
  return make("p", { className: "silent" }, "No clip");
}

function facts(item) {
  return [item.domain, item.categories, item.created && item.created.slice(0, 4)].filter(Boolean).join(" · ");
}

/* A clip counts once a list, when it has played for ten seconds or to its half; that one is not counted harms nobody. */
function listening(entry, user) {
  const player = clip(entry.item);
  if (!user || player.tagName === "P") return player;
  player.addEventListener("timeupdate", () => {
    if (player.dataset.counted || player.currentTime < Math.min(LISTENED, player.duration / 2)) return;
    player.dataset.counted = "yes";
    tell(entry, user, player.tagName === "VIDEO" ? "watch" : "listen").catch(() => {});
  });
  return player;
}

function card(entry, user, fresh) {
  const item = entry.item;
  return make("li", { className: fresh ? "card fresh" : "card" },
    cover(item),
    make("div", { className: "head" }, make("span", { className: "rank", ariaHidden: "true" }, `${entry.rank}`), make("h3", {}, nameOf(item)),
      fresh ? make("span", { className: "new" }, "new here") : null),
    make("p", { className: "meta" }, facts(item)),
    item.description ? make("p", { className: "text" }, item.description) : null,
    listening(entry, user), verdict(entry, user),
    make("div", { className: "more" }, alike(item), entry.retrieval_rank ? why(entry, user) : null));
}

function named(node, item) {
  node.append(make("span", { className: "unseen" }, ` ${nameOf(item)}`));
  return node;
}

/* What was done is on the server's disk when it answers, and the next list differs; the log of a release has it later. */
async function tell(entry, user, event) {
  const reply = await ask("/v1/feedback", { events: [{ user_id: user, session_id: SESSION, item_id: entry.item.item_id, event, position: entry.rank,
    propensity: entry.propensity > 0 ? entry.propensity : null, event_id: `${Date.now()}-${token()}` }] });
  if (reply.refused.length) throw new Error(reply.refused[0].error);
  told.unshift({ user, item: entry.item, event, timestamp: Math.floor(Date.now() / 1000), positive: event !== "skip" });
  showHistory();
}

function verdict(entry, user) {
  if (!user) return null;
  const item = entry.item;
  const button = (event, label, said) => {
    const node = named(make("button", { type: "button" }, label), item);
    node.addEventListener("click", async () => {
      if (node.ariaDisabled === "true") return;
      node.ariaDisabled = "true"; /* `disabled` would take the focus from a keyboard */
      try {
        await tell(entry, user, event);
        await noted(node, user, `${said} ${nameOf(item)}.`);
      } catch (error) {
        say(`That was not noted: ${error.message}`);
      } finally {
        node.ariaDisabled = null;
      }
    });
    return node;
  };
  const price = item.price === null ? "Buy" : `Buy ${item.price.toFixed(2)}`;
  return make("div", { className: "verdict" }, button("like", "Like", "Noted that you like"), button("purchase", price, "Noted that you bought"),
    button("skip", "Not for me", "No more of"));
}

function alike(item) {
  const node = named(make("button", { type: "button" }, "Similar"), item);
  node.setAttribute("aria-label", `Similar to ${nameOf(item)}`);
  node.addEventListener("click", () => showFound(`Similar to ${nameOf(item)}`, () => ask("/v1/similar", { item_id: item.item_id, k: pageLength() })));
  return node;
}

/* Reasons are asked for when they are opened, with the score and rank that the list was made with. */
function why(entry, user) {
  const body = make("div", { ariaLive: "polite" });
  const part = make("details", { className: "why" }, named(make("summary", {}, "Why this?"), entry.item), body);
  part.addEventListener("toggle", async () => {
    if (!part.open || part.dataset.asked) return;
    part.dataset.asked = "yes";
    body.replaceChildren(make("p", {}, "Asking the model…"));
    const asked = new URLSearchParams({ user, session_id: SESSION, item: entry.item.item_id, retrieval_score: entry.retrieval_score, retrieval_rank: entry.retrieval_rank });
    for (const word of saidProfile(user)) asked.append("profile", word);
    try {
      body.replaceChildren(...reasons(await ask(`/v1/explain?${asked}`)), ...figures(entry));
    } catch (error) {
      delete part.dataset.asked; /* opened again, it is asked again */
      body.replaceChildren(make("p", {}, `No reasons now: ${error.message}`), ...figures(entry));
    }
  });
  return part;
}

function reasons(answer) {
  const shown = answer.groups.filter((group) => Math.abs(group.share) >= SMALLEST_SHARE)
    .sort((a, b) => Math.abs(b.share) - Math.abs(a.share)).slice(0, REASONS);
  const like = answer.like.filter((each) => each.cosine >= ALIKE);
  return [
    make("p", {}, "What lifts it above, or holds it below, a typical item for this user:"),
    make("dl", {}, ...shown.map((group) => reason(group, Math.abs(shown[0].share)))),
    like.length ? make("ul", { ariaLabel: "What it is like in the history" }, ...like.map((each) =>
      make("li", {}, `${each.words} `, make("b", {}, nameOf(each.item)), ` (${Math.round(100 * each.cosine)} % alike)`))) : null,
  ].filter(Boolean);
}

function measured(name, text, kind, share) {
  const fill = make("i");
  fill.style.setProperty("--share", `${Math.max(0, Math.min(100, 100 * share))}%`);
  return make("div", {}, make("dt", {}, name), make("dd", {}, text), make("dd", { className: kind, ariaHidden: "true" }, fill));
}

function reason(group, largest) {
  const against = group.share < 0, share = Math.abs(group.share);
  return measured(group.words, `${Math.round(100 * share)} % ${against ? "against" : "for"}`, against ? "lean against" : "lean", 0.5 * share / largest);
}

/* The model's own figures, for those who want them. */
function figures(entry) {
  const list = make("dl");
  for (const [name, key] of [["Would click", "click"], ["Would buy", "purchase"]])
    if (entry[key] !== null) list.append(measured(name, `${(100 * entry[key]).toFixed(1)} %`, "bar", entry[key]));
  const moved = entry.retrieval_rank - entry.rank;
  const mark = moved > 0 ? make("span", { className: "up" }, ` ▲ ${moved}`) : moved < 0 ? ` ▼ ${-moved}` : "";
  return [list, make("p", {}, "Retrieved ", make("b", {}, `#${entry.retrieval_rank}`), ", ranked ", make("b", {}, `#${entry.rank}`), mark)];
}

function past(event) {
  const day = event.timestamp ? new Date(1000 * event.timestamp).toISOString().slice(0, 10) : null;
  return make("li", { className: event.positive ? "" : "negative" }, cover(event.item), make("div", { className: "title" }, nameOf(event.item)),
    make("div", { className: "tag" }, event.event), day ? make("div", { className: "tag" }, day) : null);
}

/* One clip at a time. */
document.addEventListener("play", (event) => {
  for (const player of document.querySelectorAll("audio, video")) if (player !== event.target) player.pause();
}, true);
