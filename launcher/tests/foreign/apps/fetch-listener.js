// A component by componentize-js: StarlingMonkey, the listener of service workers, WASI 0.2.10.
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  return new Response(`Hello from JavaScript: ${new URL(request.url).pathname}\n`);
}
