// The frames that came: all of a clip, or the last seconds of a live talker.

const LIVE_SECONDS = 10;

export class Motion {
  constructor(hello) {
    this.live = hello.mode === 'live';
    this.names = hello.layout.names;
    this.fps = hello.layout.fps[0] / hello.layout.fps[1];
    this.frames = []; // a clip's by index; a live talker's in order
    this.between = new Float32Array(hello.layout.count);
    this.first = 0;
  }

  /** A clip that is animated anew keeps its old frames until new ones take their place. */
  begin() {
    if (this.live) this.frames = [];
  }

  add(frames) {
    if (!this.live) {
      for (const frame of frames) this.frames[frame.index] = frame;
      return;
    }
    this.frames.push(...frames);
    const surplus = this.frames.length - Math.ceil(LIVE_SECONDS * this.fps);
    if (surplus > 0) this.frames.splice(0, surplus);
  }

  get newest() {
    return this.frames[this.frames.length - 1];
  }

  get seconds() {
    return this.frames.length ? this.newest.time + 1 / this.fps : 0;
  }

  /** The frame that is on at a time, and its values moved towards the next frame's: { frame, values }. */
  at(time) {
    const place = this.live ? this.placeOf(time) : Math.floor(time * this.fps + 1e-6);
    const frame = this.frames[Math.min(Math.max(place, 0), this.frames.length - 1)];
    if (!frame) return null;
    const next = this.frames[place + 1];
    const share = Math.min(Math.max((time - frame.time) * this.fps, 0), 1);
    if (!next || next.index !== frame.index + 1 || share === 0) return { frame, values: frame.values };
    const { between } = this;
    for (let k = 0; k < between.length; k += 1) between[k] = frame.values[k] + share * (next.values[k] - frame.values[k]);
    return { frame, values: between };
  }

  placeOf(time) {
    let place = this.frames.length - 1;
    while (place > 0 && this.frames[place].time > time) place -= 1;
    return place;
  }
}
