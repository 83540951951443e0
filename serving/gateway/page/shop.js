/* The shop: whom for, what is asked, and the list that answers. */
const NEW_VISITOR = "a-new-visitor";
const SESSION = kept("session", token);
/* Words for `mmr_lambda`. Not against the release's own, which nobody here knows: a step named "more" could be less than that. */
const VARIETY = [["as released", null], ["none", 1], ["a little", 0.85], ["some", 0.7], ["much", 0.5], ["as wide as can be", 0.35]];
const LARGEST_FILE = 16 * 2 ** 20;
const STAND_IN = "The search did not answer: popular items stand in, they do not match what was asked.";
const HISTORY = 24, CLOCKS_APART = 300;
const told = []; /* what was done on this page, most recent first */
const collator = new Intl.Collator("en", { numeric: true });
let turn = 0, before = null, sampled = null, stranger = null;
let logged = { user: null, events: [] };
let asked = null, last = null; /* whom the page was last asked for, and the search since then */

const say = (text) => { find("status").textContent = text; };
const pageLength = () => Number(find("count").value);
const userId = () => find("user").value.trim();
const chosenDomain = () => document.querySelector("#domains input:checked")?.value ?? "";

function request(user) {
  const [, weight] = VARIETY[Number(find("variety").value)];
  return { user_id: user, session_id: SESSION, k: pageLength(), domain: chosenDomain(), profile: saidProfile(user), policy: weight === null ? [] : [`mmr_lambda=${weight}`] };
}

/* Only whom nobody knows is asked who they are: of the others it is known. */
const saidProfile = (user) => stranger !== user ? [] : [...document.querySelectorAll("#profile select")]
  .filter((select) => select.value).map((select) => `${select.name}=${select.value}`);

function profileChoice(column, words) {
  const select = make("select", { name: column, id: `profile-${column}` }, make("option", { value: "" }, "not said"),
    ...[...words].sort(collator.compare).map((word) => make("option", { value: word }, word)));
  select.addEventListener("change", () => show(userId()));
  return make("div", { className: "count" }, make("label", { htmlFor: select.id }, column.replaceAll("_", " ")), select);
}

function askWho(answer, user) {
  if (answer.fallback) return;
  if (stranger !== user) for (const select of document.querySelectorAll("#profile select")) select.value = "";
  stranger = answer.known_user ? null : user;
  find("profile").hidden = stranger === null || !find("profile").querySelector("select");
}

/* What was just done comes before the log, until the log has it. */
function showHistory() {
  const inLog = (one) => logged.events.some((each) =>
    each.item.item_id === one.item.item_id && each.event === one.event && each.timestamp >= one.timestamp - CLOCKS_APART);
  const events = [...told.filter((one) => one.user === logged.user && !inLog(one)), ...logged.events].slice(0, HISTORY);
  const count = events.length;
  find("history-part").hidden = !count;
  find("history-note").textContent = `The last ${count} event${count === 1 ? "" : "s"}, most recent first; skipped items are struck through.`;
  find("history").replaceChildren(...events.map(past));
  find("history").scrollLeft = 0;
}

function showNotice(answer) {
  find("notice").hidden = !answer.fallback;
  find("notice").textContent = answer.fallback
    ? `The model server did not answer (${answer.fallback_reason}), so these are the items most people chose. Nothing here is personal.` : "";
}

function showTiming(answer) {
  const parts = Object.entries(answer.seconds).map(([stage, seconds]) => `${stage} ${(1000 * seconds).toFixed(1)} ms`);
  const models = Object.entries(answer.versions ?? {}).map(([model, version]) => `${model} ${version}`);
  find("timing").textContent = [parts.join(" · "), models.length ? `models: ${models.join(", ")}` : ""].filter(Boolean).join(" — ");
}

function showSample(node = null) {
  if (sampled && sampled !== node?.src) URL.revokeObjectURL(sampled);
  sampled = node?.src ?? null;
  find("sample").hidden = !node;
  find("sample").replaceChildren(...(node ? [node] : []));
}

/* Who stands in the list when it is made anew goes on at its head; who is elsewhere by then stays there. */
function replaceItems(cards) {
  const inside = find("results").contains(document.activeElement);
  find("items").replaceChildren(...cards);
  if (inside) find("results").focus({ preventScroll: true });
}

/* A search asks every domain and comes best first: neither a domain nor variety is to be chosen beside what it found. */
function showChoices() {
  find("variety-part").hidden = !find("back").hidden;
  find("domains").hidden = !find("back").hidden || find("domains").querySelectorAll("input").length < 3; /* "all" is one */
}

/* `before` is the list that these replace, so that what has come in can be seen. */
function showRecommended(answer, user) {
  const ids = answer.items.map((entry) => entry.item.item_id);
  const fresh = (entry) => before !== null && before.user === user && !before.ids.has(entry.item.item_id);
  replaceItems(answer.items.map((entry) => card(entry, user, fresh(entry))));
  before = { user, ids: new Set(ids) };
  showNotice(answer);
  showTiming(answer);
  showSample();
  askWho(answer, user);
  find("back").hidden = true;
  showChoices();
  find("results-title").textContent = "Recommended";
  find("results-note").textContent = answer.fallback ? "Popular items stand in for the model."
    : answer.known_user ? "Chosen for this user. A like, a purchase or a skip changes the list at once."
    : saidProfile(user).length ? "This user was never seen: what suits someone who says this of themselves."
    : "This user was never seen, so this is a cold start: what suits someone unknown.";
}

/* The address names the user, and Back leads to the one before; the first is where the visit began. */
function keepAddress(user) {
  const named = new URLSearchParams(location.search).get("user");
  if (named === user) return;
  window.history[named === null ? "replaceState" : "pushState"](null, "", `?user=${encodeURIComponent(user)}`);
}

async function show(user, said = "") {
  const mine = ++turn;
  asked = user;
  last = null;
  const shown = user || "someone without an id";
  find("user").value = user;
  say(said || `Asking for ${shown}…`);
  for (const button of document.querySelectorAll("#examples button")) button.ariaPressed = String(button.dataset.user === user);
  try {
    const [history, answer] = await Promise.all([
      user ? ask(`/v1/history/${encodeURIComponent(user)}?limit=${HISTORY}`).catch(() => ({ events: [] })) : { events: [] }, /* needs a key with more rights */
      ask("/v1/recommend", request(user))]);
    if (mine !== turn) return; /* a later question has been asked meanwhile */
    logged = { user, events: history.events };
    showHistory();
    showRecommended(answer, user);
    say(`${said} ${answer.items.length} ${answer.fallback ? "popular items" : "items"} for ${shown}.`.trim());
    keepAddress(user);
  } catch (error) {
    if (mine === turn) say(`That did not work: ${error.message}`);
  }
}

/* Items found by words, by likeness or by a file; `sample` is what was sent, to be looked at or heard. Asked `again`, as for
   more items, it moves nobody. */
async function showFound(title, question, sample = null, again = false) {
  const mine = ++turn, user = userId();
  last = () => showFound(title, question, sample, true);
  say("Searching…");
  try {
    const answer = await question();
    if (mine !== turn) return;
    replaceItems(answer.items.map((entry) => card(entry, user, false)));
    showNotice(answer);
    showTiming(answer);
    showSample(sample);
    find("back").hidden = false;
    showChoices();
    const count = answer.items.length;
    find("results-title").textContent = answer.fallback ? "Popular items" : title;
    find("results-note").textContent = answer.fallback ? STAND_IN : count ? "Best first." : "Nothing was found.";
    say(answer.fallback ? STAND_IN : `${count ? `${count} items` : "Nothing"}: ${title}.`);
    if (again) return;
    find("results").focus({ preventScroll: true });
    find("results").scrollIntoView({ block: "start" });
  } catch (error) {
    if (mine === turn) say(`That did not work: ${error.message}`);
  }
}

/* A list of recommendations is made anew; one that was searched for stays. */
async function noted(button, user, said) {
  if (find("back").hidden) return show(user, said);
  button.ariaPressed = "true";
  say(said);
}

function asBase64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result.slice(reader.result.indexOf(",") + 1)));
    reader.addEventListener("error", () => reject(new Error("the file could not be read")));
    reader.readAsDataURL(file);
  });
}

async function searchByFile(file) {
  const sound = file.type.startsWith("audio/") || file.type === "application/ogg";
  if (!sound && !file.type.startsWith("image/")) return say(`${file.name} is neither a picture nor a clip: JPEG, PNG, WebP, GIF, WAV, FLAC, MP3 or OGG.`);
  if (file.size > LARGEST_FILE) return say(`${file.name} is too large: at most 16 MB.`);
  const address = URL.createObjectURL(file);
  const sample = sound ? make("audio", { controls: true, src: address, ariaLabel: `Your clip ${file.name}` })
    : make("img", { src: address, alt: `Your picture ${file.name}` });
  const name = sound ? "audio_base64" : "image_base64";
  await showFound(sound ? `Sounds like ${file.name}` : `Looks like ${file.name}`,
    async () => ask("/v1/search/media", { [name]: await asBase64(file), k: pageLength() })
      .catch((error) => { throw new Error(error.message.replace(`${name}: `, "")); }), sample); /* a visitor knows of no fields */
}

function example(user, label, detail) {
  const button = make("button", { type: "button", ariaPressed: "false" }, label, make("small", {}, ` ${detail}`));
  button.dataset.user = user;
  button.addEventListener("click", () => show(user));
  return make("li", {}, button);
}

function domainChoice(domain, label) {
  const input = make("input", { type: "radio", name: "domain", value: domain, checked: !domain });
  input.addEventListener("change", () => show(userId()));
  return make("label", {}, input, label);
}

function sayVariety() {
  const [words] = VARIETY[Number(find("variety").value)];
  find("variety-said").textContent = words;
  find("variety").setAttribute("aria-valuetext", words);
}

/* What a key does not open stays away: users need more rights than recommendations do. */
async function choices() {
  const [{ users }, { domains }, { columns }] = await Promise.all([
    ask("/v1/users?count=6").catch(() => ({ users: [] })), ask("/v1/domains").catch(() => ({ domains: [] })),
    ask("/v1/profile").catch(() => ({ columns: {} }))]);
  find("profile").replaceChildren(find("profile").firstElementChild, ...Object.entries(columns).map((each) => profileChoice(...each)));
  find("domains").replaceChildren(find("domains").firstElementChild, domainChoice("", "all"),
    ...domains.map((each) => domainChoice(each.domain, each.domain)));
  showChoices();
  find("examples").replaceChildren(
    ...users.map((user) => example(user.user_id, user.user_id, [`${user.events} events`, ...Object.values(user.profile).slice(0, 2)].join(" · "))),
    example(NEW_VISITOR, "A new visitor", "never seen"));
  return users;
}

async function start() {
  const users = await choices();
  const named = new URLSearchParams(location.search).get("user");
  show(named ?? (users.length ? users[0].user_id : NEW_VISITOR));
}

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (keepKey()) choices().then(() => show(userId()));
  else show(userId());
});
find("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = find("query").value.trim();
  if (query) showFound(`Found for “${query}”`, () => ask("/v1/search", { query, k: pageLength() }));
  else find("query").focus();
});
find("file").addEventListener("change", () => {
  const [file] = find("file").files;
  find("file").value = ""; /* the same file may be chosen again */
  if (file) searchByFile(file);
});
for (const kind of ["dragover", "dragleave", "drop"])
  find("search").addEventListener(kind, (event) => {
    event.preventDefault();
    find("search").classList.toggle("dropping", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) searchByFile(event.dataTransfer.files[0]);
  });
find("back").addEventListener("click", () => show(userId()));
find("count").addEventListener("change", () => last ? last() : show(userId()));
find("variety").addEventListener("input", sayVariety);
find("variety").addEventListener("change", () => show(userId()));
window.addEventListener("popstate", () => {
  const named = new URLSearchParams(location.search).get("user");
  if (named !== null && named !== asked) show(named); /* a link inside the page is told of here too */
});
sayVariety();
start();
