// Round trips of process.send and back, between a process and its child. Usage: node messages.js KIND COUNT WINDOW
// KIND: messages, or handles (a connected socket each way).
'use strict';
const { fork } = require('node:child_process');
const net = require('node:net');

if (process.argv[2] === 'echo') {
  process.on('message', (message, handle) => {
    process.send(message, handle);
  });
  // It holds what it was given, which would keep it alive, and whoever reads its output waiting.
  process.on('disconnect', () => process.exit(0));
} else {
  const [kind, count, window] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
  const child = fork(__filename, ['echo']);
  const measure = (next, done) => {
    const started = process.hrtime.bigint();
    let sent = 0;
    let back = 0;
    const fill = () => {
      while (sent < count && sent - back < window) {
        next(sent);
        sent += 1;
      }
    };
    child.on('message', (message, handle) => {
      if (message.n !== back) {
        throw new Error(`${message.n} came back where ${back} was expected`);
      }
      back += 1;
      done(handle);
      if (back === count) {
        const seconds = Number(process.hrtime.bigint() - started) / 1e9;
        console.log(JSON.stringify({ count, ms: Math.round(seconds * 1000), rate: Math.round(count / seconds) }));
        process.exit(0);
      }
      fill();
    });
    fill();
  };
  if (kind === 'messages') {
    measure((n) => child.send({ n }), () => {});
  } else {
    // A listening socket: what Node passes without connecting anybody first. The same one each time.
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      measure(
        (n) => child.send({ n }, server),
        (handle) => {
          if (!handle) {
            throw new Error('a handle was lost');
          }
          handle.close();
        },
      );
    });
  }
}
