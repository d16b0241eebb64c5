// edgetalker in a page: sends speech to `edgetalker serve`, plays it, and moves any three.js face with it.
// One ES module, no build step, no dependency. docs/browser.md has the manual.
//
//   import { EdgeTalker } from './edgetalker.js';
//   const talker = new EdgeTalker(location.href); // or the server's address
//   talker.attach(gltf.scene);                            // whatever has morphTargetDictionary
//   renderer.setAnimationLoop(() => { talker.update(); renderer.render(scene, camera); });
//   await talker.speak(audioBuffer);                      // after a click: browsers want one before they play sound

const SECOND_PIECES = 0.25; // seconds of sound in one message
const AHEAD = 8; // seconds of sound that the server is given before they are heard
const BLEND = 0.15; // seconds in which one utterance's face gives way to another's
const QUIET_RATE = 8000, QUIET_AHEAD = 0.08, QUIET_MS = 40; // silence, for a face that nobody speaks through
const RETRY_MS = [300, 600, 1200, 2400, 4000];
const HEAD_ANGLES = ['HeadYaw', 'HeadPitch', 'HeadRoll'];
const HEAD_BYTES = 28; // of a frame: see docs/serve.md

/** A name of a shape as all spellings have it: EyeBlinkLeft, eyeBlinkLeft, eyeBlink_L, blendShape1.eyeBlink_L. */
export function plainName(name) {
  const plain = name.slice(name.lastIndexOf('.') + 1).replace(/_l$/i, 'Left').replace(/_r$/i, 'Right');
  return plain.replace(/[^a-z0-9]/gi, '').toLowerCase();
}

/** The word behind the # of a page's address, percent-encoded or as it is. */
export function tokenOf(address) {
  const word = new URL(address).hash.slice(1);
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}

/** What went wrong, with the server's `code` and, where it has one, what mends it in `hint`. */
export class TalkerError extends Error {
  constructor(code, message, hint = '') {
    super(hint ? `${message} (${hint})` : message);
    Object.assign(this, { name: 'TalkerError', code, hint });
  }
}

/** Return one frame of a binary message: { index, time, outcome, serial, values }. */
export function readFrame(buffer) {
  const view = new DataView(buffer);
  const count = view.getUint32(24, true);
  return {
    index: view.getUint32(4, true),
    time: view.getFloat64(8, true),
    outcome: view.getUint32(16, true),
    serial: view.getUint32(20, true),
    values: new Float32Array(buffer.slice(HEAD_BYTES, HEAD_BYTES + 4 * count)),
  };
}

/** Samples as 16-bit numbers, from floats in [-1, 1]. */
function toInt16(samples) {
  return Int16Array.from(samples, (value) => Math.max(-32768, Math.min(32767, Math.round(value * 32768))));
}

/** An AudioBuffer's samples in pieces, its channels mixed to one. */
function* piecesOfBuffer(buffer) {
  const step = Math.ceil(buffer.sampleRate * SECOND_PIECES);
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, k) => buffer.getChannelData(k));
  for (let at = 0; at < buffer.length; at += step) {
    const length = Math.min(step, buffer.length - at);
    yield Float32Array.from({ length }, (_, k) => channels.reduce((sum, samples) => sum + samples[at + k], 0) / channels.length);
  }
}

/** What a ReadableStream holds, in browsers whose streams cannot be iterated, too. */
async function* piecesOfStream(stream) {
  const reader = stream.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Pieces of sound as Int16Array, whatever they were: floats, 16-bit numbers, or bytes that may be cut anywhere. */
async function* toPieces(source) {
  let odd = null; // the first half of a sample
  const most = 48_000;
  for await (const piece of source) {
    let samples = piece;
    if (piece instanceof Float32Array) samples = toInt16(piece);
    else if (piece instanceof ArrayBuffer || piece instanceof Uint8Array) {
      let bytes = new Uint8Array(piece);
      if (odd !== null) bytes = Uint8Array.of(odd, ...bytes);
      odd = bytes.length % 2 ? bytes[bytes.length - 1] : null;
      samples = new Int16Array(bytes.slice(0, bytes.length & ~1).buffer);
    } else if (!(piece instanceof Int16Array)) {
      throw new TalkerError('input', 'sound came in an unknown form', 'Int16Array, Float32Array, or bytes of 16-bit samples');
    }
    for (let at = 0; at < samples.length; at += most) yield samples.slice(at, at + most);
  }
}

/** One utterance: its sound, its frames, and when its second 0 is heard. */
class Utterance {
  constructor(name, rate, play) {
    Object.assign(this, { name, rate, play });
    this.pieces = []; // { first, samples }: kept until they were heard and a while longer, for a connection that breaks
    this.length = 0; // samples so far
    this.complete = false; // all sound is here
    this.over = false; // all frames are here
    this.sent = 0; // samples
    this.base = 0; // seconds: where the server's clock of it begins, after a connection broke
    this.zero = null; // the audio clock's time at its second 0
    this.frames = [];
    this.done = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.done.catch(() => {}); // told where `speak` is awaited, and by the event
  }

  add(samples) {
    const piece = { first: this.length, samples };
    this.pieces.push(piece);
    this.length += samples.length;
    return piece;
  }

  get seconds() {
    return this.length / this.rate;
  }
}

/**
 * A talker on a server. Events: `state` (detail: connecting, open, closed), `frame` (detail: index, time, outcome,
 * values, rate, and sound: the 16-bit samples that belong to the frame), `begin`, `end`, `error` (detail: a TalkerError).
 */
export class EdgeTalker extends (globalThis.EventTarget ?? class {}) {
  /**
   * url: of the server (http, https, ws or wss; default: where the page came from). token: the word that it wants.
   * audio: an AudioContext (default: one of its own, made at the first sound). lead: seconds from an utterance's first
   * frame until it is heard; what frames may be late by on their way. idle: let the talker hear silence between
   * utterances, so that the face blinks, looks about and keeps its expression; this holds a talker of the server.
   */
  constructor(url = globalThis.location?.href, { token = '', audio = null, lead = 0.15, idle = false } = {}) {
    super();
    const address = new URL('v1/talk', url);
    address.protocol = { 'http:': 'ws:', 'https:': 'wss:' }[address.protocol] ?? address.protocol;
    if (token) address.searchParams.set('token', token);
    Object.assign(this, { address, audio, lead, idle });
    this.state = 'closed';
    this.layout = null;
    this.stats = { frames: 0, late: 0, underruns: 0, connections: 0 };
    this.drives = []; // [place in values, influences, place in influences]
    this.roots = [];
    this.current = null; // the utterance that is being said
    this.microphone = null;
    this.quiet = null; // silence that the talker hears while there is nothing else
    this.line = []; // whose sound the server has, in order: frames are the first one's until its end is told
    this.shown = null; // what update() put on the face last: { index, time, heard }
    this.turn = Promise.resolve();
    this.takings = 0; // barge-ins, which end what waits for its turn
    this.serial = 0;
    this.deaf = false; // frames from before a barge-in are on their way
    this.sources = new Set();
    this.count = 0;
    this.tries = 0;
    this.wanted = false;
  }

  // Connection

  /** Connect; return the layout ({ names, fps, controls, … }). Rejects with a TalkerError that says why it cannot. */
  connect() {
    this.wanted = true;
    if (this.state === 'closed') this.open();
    return this.ready;
  }

  open() {
    this.become('connecting');
    this.ready = new Promise((resolve, reject) => Object.assign(this, { welcome: resolve, refuse: reject }));
    this.ready.catch(() => {});
    const socket = new WebSocket(this.address);
    this.socket = socket;
    socket.binaryType = 'arraybuffer';
    socket.onmessage = (event) => socket === this.socket && this.take(event.data);
    socket.onclose = (event) => socket === this.socket && this.lose(event);
  }

  become(state) {
    this.state = state;
    this.tell('state', state);
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  fail(error) {
    this.tell('error', error);
    return error;
  }

  /** The connection is gone. It comes back by itself while something is being said or listened to. */
  async lose(event) {
    const never = this.state === 'connecting';
    const { refuse } = this;
    clearTimeout(this.timer);
    this.stopQuiet();
    [this.serial, this.deaf, this.line] = [0, false, []];
    this.become('closed');
    if (!this.wanted) {
      refuse(new TalkerError('closed', 'the talker was closed'));
      return;
    }
    if (never) {
      const fault = await this.diagnose();
      refuse(fault);
      if (this.tries === 0) this.fail(fault);
      if (fault.code !== 'unreachable') return this.giveUp(fault);
    } else if (event.code === 1013 || event.code === 1008 || event.code === 1009) {
      return this.giveUp(this.fault ?? new TalkerError('closed', event.reason || 'the server closed the connection'));
    } else if (!this.current && !this.microphone && !this.idle) {
      return; // idle: the next word connects anew
    }
    const wait = RETRY_MS[Math.min(this.tries, RETRY_MS.length - 1)];
    this.tries += 1;
    this.timer = setTimeout(() => this.wanted && this.state === 'closed' && this.open(), wait);
  }

  giveUp(error) {
    this.wanted = false;
    this.stopListening();
    this.interrupt(error);
  }

  /** Say why a connection could not be made: browsers tell a WebSocket nothing. */
  async diagnose() {
    const page = new URL(this.address);
    page.protocol = { 'ws:': 'http:', 'wss:': 'https:' }[page.protocol];
    const { origin } = globalThis.location;
    const reply = await fetch(page, { cache: 'no-store' }).catch(() => null);
    if (reply?.status === 401) return new TalkerError('token', 'the server does not know this token', 'new EdgeTalker(url, { token })');
    if (reply && reply.status !== 426) return new TalkerError('refused', `the server refused: ${(await reply.text()).trim()}`);
    const hint = origin === page.origin ? 'is `edgetalker serve` running?'
      : `is it running, and does it let this page in? edgetalker serve --origin ${origin}`;
    return new TalkerError('unreachable', `${page.origin} cannot be reached`, hint);
  }

  /** Disconnect and be silent. */
  close() {
    this.wanted = false;
    this.stopListening();
    this.stopQuiet();
    this.interrupt(null);
    clearTimeout(this.timer);
    const { socket } = this;
    this.socket = null; // what it still says is nobody's
    socket?.close();
    if (this.state !== 'closed') this.lose(); // now, so that connect() may follow at once
  }

  send(message) {
    if (this.state !== 'open' || this.socket.readyState > WebSocket.OPEN) return; // it closes: we are told soon
    this.socket.send(message instanceof Int16Array ? message : JSON.stringify(message));
  }

  take(data) {
    if (typeof data !== 'string') {
      this.takeFrame(readFrame(data));
      return;
    }
    const message = JSON.parse(data);
    if (message.type === 'layout') this.takeLayout(message);
    else if (message.type === 'reset') [this.serial, this.deaf] = [message.serial, false];
    else if (message.type === 'end') this.takeEnd(message.utterance);
    else if (message.type === 'error' && message.code !== 'idle') { // idle: we had nothing to say, and will come back
      this.fault = this.fail(new TalkerError(message.code, message.message, message.hint));
    }
  }

  takeLayout(layout) {
    this.layout = { ...layout, fps: layout.fps.split('/').reduce((a, b) => a / b) };
    this.tries = 0;
    this.fault = null;
    this.stats.connections += 1;
    this.bind();
    this.become('open');
    const { current } = this;
    if (current?.opened) { // it broke in mid-word: go on from what is heard
      current.base = current.play ? Math.max(this.heard(current) ?? 0, 0) : this.framesEnd(current);
      current.sent = Math.min(Math.floor(current.base * current.rate), current.length);
      current.frames = current.frames.filter((frame) => frame.time <= current.base);
      current.over = false;
      this.begin(current);
    }
    if (this.microphone) this.begin(this.microphone);
    if (!current) this.beQuiet();
    this.welcome(this.layout);
  }

  begin(utterance) {
    this.send({ type: 'start', utterance: utterance.name, rate: utterance.rate, format: 'binary' });
    utterance.begun = true;
    this.pump(utterance);
  }

  /** Give the server sound of an utterance. */
  sendSound(utterance, samples) {
    if (!this.line.includes(utterance)) this.line.push(utterance);
    this.send(samples);
  }

  beQuiet() {
    if (!this.idle || this.quiet || this.microphone || this.state !== 'open') return;
    const quiet = new Utterance(`q${this.count += 1}`, QUIET_RATE, false);
    this.quiet = quiet;
    this.begin(quiet);
    const began = performance.now() / 1000;
    quiet.timer = setInterval(() => {
      const wanted = Math.round((performance.now() / 1000 - began + QUIET_AHEAD) * QUIET_RATE) - quiet.sent;
      this.sendSound(quiet, new Int16Array(Math.min(wanted, QUIET_RATE))); // a page in the background is woken seldom
      quiet.sent += wanted;
    }, QUIET_MS);
  }

  stopQuiet() {
    clearInterval(this.quiet?.timer);
    this.quiet = null;
  }

  // Speech

  /**
   * Say something: an AudioBuffer, or a ReadableStream or an async iterable of Int16Array, Float32Array or bytes of
   * 16-bit samples at `rate`. Utterances wait for each other. play: false leaves the sound to somebody else, who
   * takes it from the `frame` events. Resolves when it was heard to { seconds, interrupted }.
   */
  speak(source, { rate, play = true } = {}) {
    const takings = this.takings;
    const said = this.turn.then(() => (takings === this.takings ? this.say(source, rate, play) : { seconds: 0, interrupted: true }));
    this.turn = said.catch(() => {});
    return said;
  }

  async say(source, rate, play) {
    const isBuffer = typeof source?.getChannelData === 'function';
    if (!isBuffer && !(rate > 0)) throw new TalkerError('rate', 'a stream has no sample rate', 'speak(stream, { rate: 24000 })');
    if (this.microphone) throw new TalkerError('busy', 'the microphone is being listened to', 'stopListening() first');
    if (play) await this.sounding();
    const takings = this.takings;
    await this.connect();
    if (takings !== this.takings) return { seconds: 0, interrupted: true };
    this.count += 1;
    const utterance = new Utterance(`u${this.count}`, isBuffer ? source.sampleRate : rate, play);
    this.current = utterance;
    const pieces = isBuffer ? piecesOfBuffer(source) : source.getReader ? piecesOfStream(source) : source;
    this.hear(utterance, toPieces(pieces));
    return utterance.done;
  }

  /** Take the sound as it comes. */
  async hear(utterance, pieces) {
    try {
      for await (const samples of pieces) {
        if (this.current !== utterance) return;
        const piece = utterance.add(samples);
        if (!utterance.opened) { // until now the face was alive with silence
          this.stopQuiet();
          utterance.opened = true;
          this.begin(utterance);
        }
        if (utterance.zero !== null) this.schedule(utterance, piece);
        this.pump(utterance);
        const room = () => utterance.seconds - this.progress(utterance) < 4 * AHEAD;
        while (this.current === utterance && !room()) await new Promise((done) => { setTimeout(done, 50); });
      }
    } catch (fault) {
      const error = fault instanceof TalkerError ? fault : new TalkerError('input', `the sound broke off: ${fault.message ?? fault}`);
      this.fail(error);
      if (this.current === utterance) this.reset(error);
      return;
    }
    if (this.current !== utterance) return; // its flush would end what is said now
    utterance.complete = true;
    if (utterance.opened) this.pump(utterance);
    else this.finish(utterance); // there was no sound
  }

  /** Give the server what it has room for. */
  pump(utterance) {
    if (this.state !== 'open' || !utterance.begun || utterance.over) return;
    const limit = (this.progress(utterance) + AHEAD) * utterance.rate;
    for (const { first, samples } of utterance.pieces) {
      const from = utterance.sent - first;
      if (from < 0 || from >= samples.length) continue;
      if (utterance.sent >= limit) return;
      this.sendSound(utterance, from ? samples.slice(from) : samples);
      utterance.sent = first + samples.length;
    }
    if (utterance.complete && utterance.sent >= utterance.length) {
      this.send({ type: 'flush' });
      utterance.begun = false; // all is said
      if (utterance.base >= utterance.seconds) this.takeEnd(utterance.name);
    }
  }

  /** How far an utterance has come, in seconds. */
  progress(utterance) {
    return Math.max(this.heard(utterance) ?? utterance.frames[utterance.frames.length - 1]?.time ?? 0, utterance.base);
  }

  /** The second after the last frame of an utterance whose sound somebody else plays. */
  framesEnd(utterance) {
    const last = utterance.frames[utterance.frames.length - 1];
    return last ? last.time + 1 / this.layout.fps : utterance.base;
  }

  takeFrame(frame) {
    const [utterance] = this.line;
    if (this.deaf || frame.serial !== this.serial || !utterance) return;
    frame.time += utterance.base;
    this.stats.frames += 1;
    if (utterance === this.current && !utterance.told) this.start(utterance);
    const heard = this.heard(utterance);
    if (heard !== null && utterance.play) this.watch(utterance, frame.time - heard);
    utterance.frames.push(frame);
    // What was heard is not needed any more, but for the frame that is on.
    const old = utterance.frames.findLastIndex((other) => other.time <= (heard ?? frame.time) - 1);
    if (old > 0) utterance.frames.splice(0, old);
    const over = Math.min((Math.min(heard ?? frame.time, frame.time) - AHEAD) * utterance.rate, utterance.sent);
    while (utterance.pieces.length && utterance.pieces[0].first + utterance.pieces[0].samples.length <= over) utterance.pieces.shift();
    const { rate } = utterance;
    const [from, to] = [frame.time, frame.time + 1 / this.layout.fps].map((time) => Math.round(time * rate));
    this.tell('frame', { ...frame, rate, sound: this.cut(utterance, from, to) });
    this.pump(utterance);
  }

  /** The samples from one number to another, as far as they are there. */
  cut(utterance, from, to) {
    const parts = utterance.pieces.filter(({ first, samples }) => first < to && first + samples.length > from);
    const found = new Int16Array(Math.max(Math.min(to, utterance.length) - from, 0));
    for (const { first, samples } of parts) {
      const part = samples.subarray(Math.max(from - first, 0), Math.max(to - first, 0));
      found.set(part, Math.max(first - from, 0));
    }
    return found;
  }

  takeEnd(name) {
    this.line.splice(0, this.line.findIndex((one) => one.name === name) + 1);
    const utterance = this.current;
    if (utterance?.name !== name) return;
    utterance.over = true;
    const left = utterance.play && utterance.zero !== null ? utterance.seconds - this.heard(utterance) : 0;
    setTimeout(() => this.finish(utterance), Math.max(left, 0) * 1000);
  }

  finish(utterance, interrupted = false, error = null) {
    if (this.current !== utterance) return;
    this.current = null;
    this.rest = utterance; // its last frame stays on the face
    if (error) utterance.reject(error);
    else utterance.resolve({ seconds: interrupted ? Math.max(this.heard(utterance) ?? 0, 0) : utterance.seconds, interrupted });
    this.tell('end', { utterance: utterance.name, interrupted });
    this.beQuiet();
  }

  // Barge-in

  /** Barge-in: be silent now, forget what waits, and let the talker begin anew. Returns the second that was heard. */
  reset(error = null) {
    const heard = this.current ? this.heard(this.current) : null;
    if (this.state === 'open') {
      this.deaf = true;
      this.line = [];
      this.send({ type: 'reset' });
    }
    this.stopQuiet();
    this.interrupt(error);
    if (this.microphone) this.begin(this.microphone);
    this.beQuiet();
    return heard;
  }

  interrupt(error) {
    this.takings += 1;
    for (const source of this.sources) source.stop();
    this.sources.clear();
    if (this.current) this.finish(this.current, true, error);
  }

  /** Change a control: set('emotion', { joy: 0.7 }), at a second of the utterance or now. */
  async set(control, values, time) {
    await this.connect();
    this.send({ type: 'set', control, values, ...(time === undefined ? {} : { time }) });
  }

  // Sound

  async sounding() {
    this.audio ??= new AudioContext();
    if (this.audio.state !== 'running') await Promise.race([this.audio.resume(), new Promise((done) => { setTimeout(done, 1000); })]);
    if (this.audio.state !== 'running') {
      throw this.fail(new TalkerError('silent', 'the browser does not let this page play sound yet', 'speak after a click'));
    }
    if (this.gain?.context !== this.audio) {
      this.gain = this.audio.createGain(); // the page may set its volume, or connect it to somewhere else
      this.gain.connect(this.audio.destination);
    }
  }

  /** The first frame came: second 0 is heard `lead` from now. */
  start(utterance) {
    utterance.zero = utterance.play ? this.audio.currentTime + this.lead - utterance.base : null;
    if (utterance.play) utterance.pieces.forEach((piece) => this.schedule(utterance, piece));
    utterance.told = true;
    this.tell('begin', { utterance: utterance.name });
  }

  schedule(utterance, { first, samples }) {
    if (!utterance.play) return;
    const { audio } = this;
    const at = first / utterance.rate;
    if (utterance.zero + at < audio.currentTime) { // it came too late: all that follows is heard later
      utterance.zero = audio.currentTime + this.lead - at;
      this.stats.underruns += 1;
    }
    const buffer = audio.createBuffer(1, samples.length, utterance.rate);
    buffer.copyToChannel(Float32Array.from(samples, (value) => value / 32768), 0);
    const source = audio.createBufferSource();
    source.buffer = buffer;
    source.connect(this.gain);
    source.start(utterance.zero + at);
    this.sources.add(source);
    source.onended = () => this.sources.delete(source);
  }

  /** The second of an utterance that leaves the loudspeaker now; null where it has no clock. */
  heard(utterance = this.current ?? this.rest) {
    if (!utterance || utterance.zero === null || !this.audio) return null;
    return this.audio.currentTime - (this.audio.outputLatency || this.audio.baseLatency || 0) - utterance.zero;
  }

  /** Keep the server's clock in step with the loudspeaker's: frames should come between half and twice the lead early. */
  watch(utterance, early) {
    if (early < 0) this.stats.late += 1;
    utterance.early = 0.9 * (utterance.early ?? this.lead) + 0.1 * early;
    const now = performance.now();
    if (now - (this.wrote ?? 0) < 500 || (utterance.early > this.lead / 2 && utterance.early < 2 * this.lead)) return;
    this.wrote = now;
    utterance.early = this.lead;
    this.send({ type: 'position', seconds: this.heard(utterance) - utterance.base + this.lead });
  }

  // Microphone

  /** Let the talker hear a microphone (default: the one that the browser asks for). It is not played. */
  async listen(stream = null) {
    if (this.current) throw new TalkerError('busy', 'something is being said', 'await speak(…), or reset()');
    const media = stream ?? await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true } });
    try {
      await this.sounding();
      await this.connect();
      if (!this.recorders?.has(this.audio)) await this.audio.audioWorklet.addModule(import.meta.url);
      (this.recorders ??= new WeakSet()).add(this.audio);
    } catch (fault) {
      if (!stream) media.getTracks().forEach((track) => track.stop());
      throw fault;
    }
    const recorder = new AudioWorkletNode(this.audio, 'edgetalker-recorder', { numberOfOutputs: 0 });
    const input = this.audio.createMediaStreamSource(media);
    input.connect(recorder);
    this.stopQuiet();
    const utterance = new Utterance(`m${this.count += 1}`, this.audio.sampleRate, false);
    Object.assign(utterance, { recorder, input, media: stream ? null : media });
    this.microphone = utterance;
    this.tell('listen', true);
    this.begin(utterance);
    recorder.port.onmessage = ({ data }) => { // live: what cannot be sent now is of no use later
      if (this.microphone === utterance && this.state === 'open' && this.socket.bufferedAmount < 65536) this.sendSound(utterance, new Int16Array(data));
    };
  }

  stopListening() {
    const { microphone } = this;
    if (!microphone) return;
    this.send({ type: 'flush' });
    microphone.input.disconnect();
    microphone.recorder.port.onmessage = null;
    microphone.media?.getTracks().forEach((track) => track.stop());
    this.microphone = null;
    this.tell('listen', false);
    this.rest = microphone;
    this.beQuiet();
  }

  // Face

  /**
   * Move a three.js object and what is below it: meshes whose morphTargetDictionary has ARKit's names in any usual
   * spelling. head: an object that turns with the head's angles. Throws a TalkerError where nothing is known.
   */
  attach(root, { head = null } = {}) {
    const known = [];
    const look = (part) => part.morphTargetDictionary && known.push(...Object.keys(part.morphTargetDictionary));
    if (root.traverse) root.traverse(look);
    else look(root);
    const plain = new Set(known.map(plainName));
    if (!['jawopen', 'mouthclose', 'eyeblinkleft'].some((name) => plain.has(name))) {
      const found = known.slice(0, 5).join(', ') || 'none';
      throw new TalkerError('mesh', `no morph targets with ARKit's names; there are ${found}`, 'jawOpen, eyeBlinkLeft, …');
    }
    this.roots.push({ root, head });
    if (this.layout) this.bind();
  }

  detach(root) {
    this.roots = this.roots.filter((one) => one.root !== root);
    if (this.layout) this.bind();
  }

  bind() {
    const places = new Map(this.layout.names.map((name, place) => [plainName(name), place]));
    this.drives = [];
    const look = (part) => Object.entries(part.morphTargetDictionary ?? {}).forEach(([name, target]) => {
      const place = places.get(plainName(name));
      if (place !== undefined) this.drives.push([place, part.morphTargetInfluences, target]);
    });
    for (const { root } of this.roots) {
      if (root.traverse) root.traverse(look);
      else look(root);
    }
    this.angles = HEAD_ANGLES.map((name) => places.get(plainName(name)));
  }

  /** The frame that is on at a second, moved towards the next: { frame, values }; null before the first. */
  at(utterance, time) {
    const { frames } = utterance;
    let place = frames.length - 1;
    while (place > 0 && frames[place].time > time + 1e-6) place -= 1;
    const frame = frames[place];
    if (!frame) return null;
    const next = frames[place + 1];
    const share = (time - frame.time) * this.layout.fps;
    if (!next || share <= 0 || share >= 1 || next.index !== frame.index + 1) return { frame, values: frame.values };
    return { frame, values: frame.values.map((value, k) => value + share * (next.values[k] - value)) };
  }

  /** Put what is heard now on the face. Call it for each picture. Returns { index, time, heard }, null before there is any. */
  update() {
    const utterance = [this.current, this.microphone, this.quiet, this.rest].find((one) => one?.frames.length);
    if (!utterance) return this.shown;
    const heard = this.heard(utterance);
    const { frame, values } = this.at(utterance, heard ?? utterance.frames[utterance.frames.length - 1].time);
    this.pose(this.blend(utterance, values));
    this.shown = { index: frame.index, time: frame.time, heard, utterance: utterance.name };
    return this.shown;
  }

  /** Faces change softly: from another utterance's, and to rest when all was said. */
  blend(utterance, values) {
    const now = performance.now() / 1000;
    const at = utterance === this.rest ? null : utterance;
    if (at !== this.posed) [this.posed, this.left, this.turned] = [at, this.values, now];
    const target = at ? values : values.map(() => 0);
    const share = Math.min((now - this.turned) / BLEND, 1);
    this.values = this.left && share < 1 ? target.map((value, k) => this.left[k] + share * (value - this.left[k])) : target;
    return this.values;
  }

  pose(values) {
    for (const [place, influences, target] of this.drives) influences[target] = values[place];
    for (const { head } of this.roots) {
      const [yaw, pitch, roll] = this.angles.map((place) => values[place] ?? 0);
      head?.rotation.set(pitch, yaw, roll, 'YXZ');
    }
  }
}

// The same file is the microphone's worklet: packets of 20 ms, 16 bits.
if (typeof globalThis.registerProcessor === 'function') {
  globalThis.registerProcessor('edgetalker-recorder', class extends globalThis.AudioWorkletProcessor {
    constructor() {
      super();
      this.packet = new Int16Array(Math.ceil(globalThis.sampleRate / 50));
      this.filled = 0;
    }

    process([input]) {
      for (const value of input[0] ?? []) {
        this.packet[this.filled] = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
        this.filled += 1;
        if (this.filled === this.packet.length) {
          this.port.postMessage(this.packet.slice().buffer);
          this.filled = 0;
        }
      }
      return true;
    }
  });
}
