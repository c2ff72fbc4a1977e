// Runs app.js in Node: `npm test`.
import assert from "node:assert/strict";
import { test } from "node:test";

let listener;
globalThis.addEventListener = (kind, added) => kind === "fetch" && (listener = added);
await import("./app.js");

const ask = (path) =>
  new Promise((respondWith) => listener({ request: new Request(`http://localhost${path}`), respondWith }));

test("the page greets", async () => {
  const response = await ask("/");
  assert.equal(response.status, 200);
  assert.match(await response.text(), /^<!doctype html>/);
});

test("other pages are not there", async () => {
  assert.equal((await ask("/nowhere")).status, 404);
});
