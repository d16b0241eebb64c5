// Time is what is heard: the audio clock leads, the face follows. Without sound the page's own clock leads.

/** A clip's clock: play, pause, seek, loop. `now` is the second of the clip that is being heard. */
export class ClipClock {
  constructor() {
    this.playing = false;
    this.loop = false;
    this.offset = 0;
    this.seconds = 0;
    this.buffer = null;
    this.context = null;
    this.volume = 1;
  }

  async load(url) {
    this.context ??= new AudioContext();
    const reply = await fetch(url);
    if (!reply.ok) throw new Error(`the sound did not come (${reply.status})`);
    this.buffer = await this.context.decodeAudioData(await reply.arrayBuffer());
    this.seconds = this.buffer.duration;
    this.gain = this.context.createGain();
    this.gain.gain.value = this.volume;
    this.gain.connect(this.context.destination);
  }

  setVolume(volume) {
    this.volume = volume;
    if (this.gain) this.gain.gain.value = volume;
  }

  /** Seconds on the clock that leads, less what the way to the ear takes. */
  clock() {
    if (!this.buffer) return performance.now() / 1000;
    const { context } = this;
    return context.currentTime - (context.outputLatency || context.baseLatency || 0);
  }

  now() {
    if (!this.playing) return this.offset;
    const time = this.offset + Math.max(this.clock() - this.begun, 0);
    if (time < this.seconds) return time;
    if (this.loop && this.seconds > 0) return time % this.seconds;
    this.pause();
    this.offset = this.seconds;
    return this.seconds;
  }

  async play() {
    if (this.playing) return;
    if (this.offset >= this.seconds - 1e-3) this.offset = 0;
    if (this.buffer) {
      await this.context.resume();
      this.source = this.context.createBufferSource();
      this.source.buffer = this.buffer;
      this.source.loop = this.loop;
      this.source.connect(this.gain);
      this.source.start(0, this.offset);
      this.begun = this.context.currentTime;
    } else {
      this.begun = performance.now() / 1000;
    }
    this.playing = true;
  }

  pause() {
    if (!this.playing) return;
    const time = this.offset + Math.max(this.clock() - this.begun, 0);
    this.playing = false;
    this.source?.stop();
    this.source = null;
    this.offset = this.loop && this.seconds > 0 ? time % this.seconds : Math.min(time, this.seconds);
  }

  async seek(time) {
    const again = this.playing;
    this.pause();
    this.offset = Math.min(Math.max(time, 0), this.seconds);
    if (again) await this.play();
  }

  async setLoop(loop) {
    const time = this.now();
    this.loop = loop;
    await this.seek(time);
  }
}

const LIVE_DELAY = 0.2; // seconds of sound kept in hand against uneven arrival

/** A live talker's clock: its sound is played as it comes, once the listener asks for it. */
export class LiveClock {
  constructor() {
    this.volume = 0;
    this.zero = null;
  }

  setVolume(volume) {
    this.volume = volume;
    if (volume > 0 && !this.context) {
      this.context = new AudioContext();
      this.gain = this.context.createGain();
      this.gain.connect(this.context.destination);
    }
    this.context?.resume();
    if (this.gain) this.gain.gain.value = volume;
  }

  begin() {
    this.zero = null;
  }

  hear({ rate, first, samples }) {
    if (!this.context || this.volume === 0 || this.context.state !== 'running') return;
    const { context } = this;
    const start = first / rate;
    if (this.zero === null || this.zero + start < context.currentTime) this.zero = context.currentTime + LIVE_DELAY - start;
    const buffer = context.createBuffer(1, samples.length, rate);
    buffer.copyToChannel(samples, 0);
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.gain);
    source.start(this.zero + start);
  }

  /** The second that is being heard, or null when the newest frame should be shown at once. */
  now() {
    if (!this.context || this.volume === 0 || this.zero === null || this.context.state !== 'running') return null;
    return this.context.currentTime - (this.context.outputLatency || 0) - this.zero;
  }
}
