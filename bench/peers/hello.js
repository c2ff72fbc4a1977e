// The hello handler for Node: under pm2 as it is; alone it forks WORKERS processes with `cluster`.
// A response says which process gave it and which version of VERSION_FILE it has read.
'use strict';
const cluster = require('node:cluster');
const fs = require('node:fs');
const http = require('node:http');

const workers = Number(process.env.WORKERS || 1);
const version = process.env.VERSION_FILE ? fs.readFileSync(process.env.VERSION_FILE, 'utf8').trim() : '0';
const body = 'Hello from Node!\n';
const headers = {
  'content-type': 'text/plain; charset=utf-8',
  'content-length': String(body.length),
  'x-process': String(process.pid),
  'x-version': version,
};

if (cluster.isPrimary && !process.env.PM2_HOME) {
  for (let n = 0; n < workers; n++) cluster.fork();
  cluster.on('exit', () => cluster.fork());
} else {
  const server = http.createServer((request, response) => {
    response.writeHead(200, headers);
    response.end(body);
  });
  server.keepAliveTimeout = 0;
  server.listen(Number(process.env.PORT), '127.0.0.1');
}
