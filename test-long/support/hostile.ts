// A sandbox that does everything at once to the socket in its first argument, until it is ended.

import { connect } from 'node:net';

const [path = '', idle = '1000', perSecond = '1000'] = process.argv.slice(2);
const POST = 'POST /api/x HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n';

/** A connection that sends `text`, then again what `drip` says each 100 ms, and is opened anew when it is closed. */
function keep(text: string, drip = '', after = ''): void {
  const socket = connect({ path });
  let connected = false;
  let timer: ReturnType<typeof setInterval> | undefined;
  socket.on('connect', () => {
    connected = true;
    if (text !== '') socket.write(text);
    if (drip !== '') timer = setInterval(() => socket.write(drip), 100);
  });
  socket.once('data', () => after !== '' && socket.write(after));
  socket.on('error', () => {});
  socket.on('close', () => {
    clearInterval(timer);
    setTimeout(() => keep(text, drip, after), connected ? 5 : 50);
  });
}

for (let i = 0; i < Number(idle); i++) keep('');
for (let i = 0; i < 50; i++) {
  keep(`${POST}X-Kind: hang\r\nContent-Length: 2\r\n\r\n{}`);
  keep(`${POST}Content-Length: 200000\r\n\r\n`, 'x');
  keep('GET /api/x HTTP/1.1\r\nHost: h\r\nX-A: ', 'a');
  keep(`${POST}Content-Length: 2\r\n\r\n{}`, '', 'GET /api/x HTTP/1.1\r\nX: ');
}
for (let i = 0; i < 4; i++) keep(`${POST}X-Kind: 500\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}`);
setInterval(() => {
  for (let i = 0; i < Number(perSecond) / 50; i++)
    connect({ path }, function (this: { destroy(): void }) {
      this.destroy();
    }).on('error', () => {});
}, 20);
