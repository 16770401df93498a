// What isoproxy does with a flood, and nothing else: accepts on the socket in its first argument, answers, and when
// too many are open closes all, and accepts none for 1 s, then for 16 s. What that costs others is the machine's share.

import { rmSync } from 'node:fs';

const MOST = 3_000;
const path = process.argv[2] as string;
let strikes = 0;
let connections = 0;

function listen(): void {
  rmSync(path, { force: true });
  const server = Bun.listen({
    unix: path,
    socket: {
      open() {
        if (++connections === MOST) setTimeout(cut, 0);
      },
      close() {
        connections--;
      },
      data(socket, bytes) {
        const text = bytes.toString();
        if (text.includes('X-Kind: 500'))
          socket.end('HTTP/1.1 500 no\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
        else if (text.endsWith('{}')) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      },
    },
  });
  function cut(): void {
    server.stop(true);
    setTimeout(listen, ++strikes === 1 ? 1_000 : 16_000);
  }
}

listen();
console.log('listening');
