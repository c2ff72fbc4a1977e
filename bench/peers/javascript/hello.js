// The small handler as a component of JavaScript: what of it is large is the engine that it brings.
addEventListener("fetch", (event) => event.respondWith(new Response("Hello from JavaScript!\n")));
