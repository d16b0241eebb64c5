// The WebSocket to the talker: comes back by itself, and turns binary messages into frames and sound.

const RETRY_MS = [300, 600, 1200, 2400, 4000];

/** Read a frames message (see wire.py). Values are views into the message. */
export function readFrames(buffer) {
  const head = new DataView(buffer);
  const [take, count, width] = [4, 8, 12].map((at) => head.getUint32(at, true));
  let at = 16;
  const part = (Type, length) => {
    const values = new Type(buffer, at, length);
    at += values.byteLength;
    return values;
  };
  const time = part(Float64Array, count);
  const index = part(Uint32Array, count);
  const outcome = part(Uint32Array, count);
  const cost = part(Float32Array, count);
  const late = part(Float32Array, count);
  const values = part(Float32Array, count * width);
  return Array.from({ length: count }, (_, k) => ({
    take, index: index[k], time: time[k], outcome: outcome[k], cost: cost[k], late: late[k],
    values: values.subarray(k * width, (k + 1) * width),
  }));
}

/** Read a sound message: { take, rate, first, samples }. */
export function readSound(buffer) {
  const head = new DataView(buffer);
  const [take, rate, count] = [4, 8, 12].map((at) => head.getUint32(at, true));
  return { take, rate, first: head.getFloat64(16, true), samples: new Float32Array(buffer, 24, count) };
}

export class Link {
  /** hear: { frames, sound, state, and one function for each JSON type }. */
  constructor(token, hear) {
    this.token = token;
    this.hear = hear;
    this.tries = 0;
    this.connect();
  }

  connect() {
    // Beside the page, whatever is in front of it: a tunnel, a proxy with TLS, a proxy with a path of its own.
    const address = new URL(`ws?token=${encodeURIComponent(this.token)}`, location.href);
    address.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(address);
    this.socket = socket;
    socket.binaryType = 'arraybuffer';
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.tries = 0;
      this.hear.state(true);
    };
    socket.onmessage = (event) => this.take(event.data);
    socket.onclose = async () => {
      this.hear.state(false, opened ? '' : await this.refusal(address));
      const wait = RETRY_MS[Math.min(this.tries, RETRY_MS.length - 1)];
      this.tries += 1;
      setTimeout(() => this.connect(), wait);
    };
  }

  /** Browsers tell a page nothing of a WebSocket that was refused: ask once more over HTTP. */
  async refusal(address) {
    const page = new URL(address);
    page.protocol = location.protocol;
    const reply = await fetch(page, { cache: 'no-store' }).catch(() => null);
    return reply && reply.status !== 426 ? (await reply.text()).trim() : '';
  }

  take(data) {
    if (typeof data === 'string') {
      const message = JSON.parse(data);
      this.hear[message.type]?.(message);
      return;
    }
    const magic = String.fromCharCode(...new Uint8Array(data, 0, 4));
    if (magic === 'ETV1') this.hear.frames(readFrames(data));
    if (magic === 'ETA1') this.hear.sound(readSound(data));
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }
}
