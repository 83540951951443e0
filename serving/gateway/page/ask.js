"use strict";
/* What both pages share: finding and making elements, and asking the gateway. */
const find = (id) => document.getElementById(id);

/* Of this tab alone: what it is called, and the key that its visitor typed in. */
function kept(name, make) {
  const value = sessionStorage.getItem(name) ?? make();
  if (value) sessionStorage.setItem(name, value);
  return value;
}

/* Thirty-two characters that nobody has had before; `crypto.randomUUID` is missing where a page comes without TLS. */
const token = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/* Everything that came from outside becomes a text node or a checked property: never markup. */
function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

async function fetchChecked(path, options = {}) {
  const key = kept("key", () => "");
  const reply = await fetch(path, { ...options, headers: { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) } })
    .catch((error) => { throw error instanceof TypeError ? new Error("the server cannot be reached") : error; });
  if (reply.status === 401) find("key-part").hidden = false;
  if (reply.ok) return reply;
  const answer = await reply.json().catch(() => ({}));
  throw new Error(answer.error || `The server answered ${reply.status}.`);
}

async function ask(path, body) {
  const options = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
  return (await fetchChecked(path, options)).json();
}

/* Whether another key than before has been typed in. */
function keepKey() {
  const typed = find("key").value.trim(), another = Boolean(typed) && typed !== kept("key", () => "");
  if (another) sessionStorage.setItem("key", typed);
  return another;
}
