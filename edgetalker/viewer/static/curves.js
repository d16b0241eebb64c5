// The curves of chosen shapes over the waveform, with the playhead.

export const COLOURS = ['#ef8477', '#5fb3c9', '#e7c46a', '#8fcf8a', '#c79be0', '#f2a65a', '#7f9cf5', '#e58fb0'];
const LIVE_SECONDS = 10;

export class Curves {
  constructor(canvas) {
    this.canvas = canvas;
    this.chosen = [];
    this.peaks = null;
  }

  /** Keep the largest sample of each of 1500 pieces. */
  hear(samples) {
    const piece = Math.max(1, Math.floor(samples.length / 1500));
    this.peaks = Array.from({ length: Math.ceil(samples.length / piece) }, (_, k) => {
      let most = 0;
      for (let i = k * piece; i < Math.min((k + 1) * piece, samples.length); i += 1) most = Math.max(most, Math.abs(samples[i]));
      return most;
    });
  }

  /** Return [first, last] second on show. */
  span(motion, seconds) {
    if (!motion.live) return [0, Math.max(seconds, 0.1)];
    const end = Math.max(motion.seconds, LIVE_SECONDS);
    return [end - LIVE_SECONDS, end];
  }

  draw(motion, now, seconds) {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const scale = Math.min(devicePixelRatio, 2);
    if (canvas.width !== Math.round(width * scale)) [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    const pen = canvas.getContext('2d');
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const [first, last] = this.span(motion, seconds);
    const x = (time) => ((time - first) / (last - first)) * width;
    this.drawSound(pen, x, seconds, height);
    this.chosen.forEach((name, k) => this.drawCurve(pen, motion, name, COLOURS[k % COLOURS.length], x, height));
    pen.fillStyle = '#ffffffcc';
    pen.fillRect(x(now) - 0.5, 0, 1.5, height);
  }

  drawSound(pen, x, seconds, height) {
    if (!this.peaks) return;
    pen.fillStyle = '#3a4658';
    const wide = Math.max((x(seconds) - x(0)) / this.peaks.length, 0.5);
    this.peaks.forEach((peak, k) => pen.fillRect(x(0) + k * wide, (height * (1 - peak)) / 2, wide, Math.max(height * peak, 1)));
  }

  drawCurve(pen, motion, name, colour, x, height) {
    const place = motion.names.indexOf(name);
    const angle = name.startsWith('Head');
    const y = (value) => 4 + (height - 8) * (angle ? 0.5 - value : 1 - value);
    pen.strokeStyle = colour;
    pen.lineWidth = 1.5;
    pen.beginPath();
    let before = null;
    for (const frame of motion.frames) {
      if (!frame) continue;
      const spot = [x(frame.time), y(frame.values[place])];
      if (before === null || frame.index > before + 1) pen.moveTo(...spot);
      else pen.lineTo(...spot);
      before = frame.index;
    }
    pen.stroke();
  }
}

/** The names that move most, at most `count`: the jaw first, and of a pair the left one. */
export function liveliest(motion, count) {
  const frames = motion.frames.filter(Boolean);
  const range = (name) => {
    const place = motion.names.indexOf(name);
    let [least, most] = [Infinity, -Infinity];
    for (const { values } of frames) [least, most] = [Math.min(least, values[place]), Math.max(most, values[place])];
    return name === 'JawOpen' && most - least > 0.02 ? Infinity : most - least;
  };
  return motion.names
    .filter((name) => !name.startsWith('Head') && !name.endsWith('Right'))
    .map((name) => [name, range(name)])
    .filter(([, spread]) => spread > 0.02)
    .sort((a, b) => b[1] - a[1] || 0)
    .slice(0, count)
    .map(([name]) => name);
}
