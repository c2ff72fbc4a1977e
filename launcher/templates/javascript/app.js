// {{name}}: what a browser's service worker can use is here too: Request, Response, URL, fetch, streams.
const page = `<!doctype html>
<title>{{name}}</title>
<h1>Hello from JavaScript!</h1>
`;

async function answer(request) {
  const { pathname } = new URL(request.url);
  switch (pathname) {
    case "/":
      return new Response(page, { headers: { "content-type": "text/html; charset=utf-8" } });
    case "/api/hello":
      return Response.json("Hello from JavaScript!");
    default:
      return new Response("no such page\n", { status: 404 });
  }
}

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));
