// The page: frames come over the link, the clock says what is heard, the stage shows what belongs to it.

import { ClipClock, LiveClock } from './clock.js';
import { Curves, liveliest } from './curves.js';
import { tokenOf } from './edgetalker.js';
import { Link } from './link.js';
import { Motion } from './motion.js';
import { buildNames, buildSliders, notice, showLatency, showLink, showTally } from './panel.js';
import { Stage } from './stage.js';

const byId = (id) => document.getElementById(id);
const token = tokenOf(location.href);
const look = new URLSearchParams(location.search); // face: nothing but it; background, framing, sound=0
const bare = look.has('face');
const stage = new Stage(byId('face'), { framing: look.get('framing'), still: bare });
const curves = new Curves(byId('curves'));
let motion = null;
let clock = null;
let paintNames = null;
let shown = null; // what is on the screen: { frame, time }
let status = null;
let ready = false;

const secret = (path) => `${path.replace(/^\//, '')}?token=${encodeURIComponent(token)}`;

/** What is shown is new: another talker, or this page came back. */
async function hello(message) {
  const [time, loop] = clock instanceof ClipClock ? [clock.now(), clock.loop] : [0, false];
  clock?.pause?.();
  ready = false;
  shown = null;
  motion = new Motion(message);
  clock = motion.live ? new LiveClock() : new ClipClock();
  clock.loop = loop;
  document.body.classList.toggle('live', motion.live);
  byId('title').textContent = message.title;
  byId('volume').value = (motion.live && !bare) || look.get('sound') === '0' ? 0 : 1;
  clock.setVolume(Number(byId('volume').value));
  curves.peaks = null;
  buildSliders(message.controls, (request) => link.send(request));
  paintNames = buildNames(motion.names, curves);
  const mine = motion;
  try {
    if (message.mesh) await stage.showMesh(secret(message.mesh));
    else await stage.showFace('/face.glb', motion.names);
    if (message.audio && mine === motion) await hearClip(message.audio, time);
    if (mine === motion) ready = true;
    if (bare && !motion.live) clock.setLoop(true).then(() => clock.play());
  } catch (fault) {
    notice(String(fault.message ?? fault), true);
  }
}

async function hearClip(audio, time) {
  const mine = clock;
  await mine.load(secret(audio.url));
  mine.offset = Math.min(time, mine.seconds);
  curves.hear(mine.buffer.getChannelData(0));
}

const hearers = {
  hello,
  frames: (frames) => motion.add(frames),
  sound: (sound) => clock.hear?.(sound),
  take: () => {
    motion.begin();
    clock.begin?.();
  },
  status: (message) => {
    status = message;
    showTally(message);
  },
  error: ({ message, hint }) => notice(hint ? `${message}: ${hint}` : message),
  state: (on, refusal) => {
    showLink(on);
    if (bare && motion && !refusal) return; // the public need not read of it; the page tries again
    notice(on ? '' : refusal || 'The talker is not there. If it was started anew, open its new address.', true);
  },
};

/** How the page looks, as its address says. */
function dress() {
  document.body.classList.toggle('face', bare);
  const background = look.get('background');
  if (!background) return;
  const paint = /^([0-9a-f]{3}){1,2}$/i.test(background) ? `#${background}` : background;
  document.documentElement.style.colorScheme = 'light'; // a dark page has an opaque ground of its own
  for (const part of [document.body, byId('stage')]) part.style.background = paint;
}

dress();
if (!token) {
  notice('This address has no token: open the one that `edgetalker` printed, or put # and the word of its token file behind this one.', true);
}
const link = token ? new Link(token, hearers) : { send: () => {} };
// Browsers let a page be heard after a click; a kiosk's allows it at once (--autoplay-policy=no-user-gesture-required).
for (const kind of ['pointerdown', 'keydown']) addEventListener(kind, () => clock?.context?.resume());

function chooseCurves() {
  if (!motion.names.length || curves.chosen.length || motion.frames.length < motion.fps) return;
  curves.chosen = liveliest(motion, 4);
  paintNames();
}

function wanted() {
  if (!motion.live) return motion.at(clock.now());
  const time = clock.now();
  return time === null ? motion.newest && { frame: motion.newest, values: motion.newest.values } : motion.at(time);
}

function tick() {
  requestAnimationFrame(tick);
  if (motion && ready && motion.frames.length) {
    // A clip without sound is as long as its motion.
    if (!motion.live && !clock.buffer) clock.seconds = motion.seconds;
    const time = clock.now() ?? motion.newest.time;
    const next = wanted();
    if (next && (next.frame !== shown?.frame || time !== shown?.time)) {
      shown = { frame: next.frame, time };
      if (next.values.every(Number.isFinite)) stage.pose(next.values);
      else notice(`Frame ${next.frame.index} holds numbers that are not finite; the face keeps still.`);
      showLatency(motion, next.frame);
    }
    stage.hold(!motion.live && !clock.playing);
    chooseCurves();
    const seconds = motion.live ? motion.seconds : clock.seconds;
    curves.draw(motion, time, seconds);
    showTransport(time, seconds);
  }
  stage.draw();
}

function showTransport(time, seconds) {
  if (motion.live) return;
  byId('play').textContent = clock.playing ? '❚❚' : '▶';
  byId('scrub').max = seconds;
  if (document.activeElement !== byId('scrub') || clock.playing) byId('scrub').value = time;
  byId('position').textContent = `${time.toFixed(2)} / ${seconds.toFixed(2)}`;
}

const toggle = () => (clock.playing ? clock.pause() : clock.play());
const isClip = () => clock instanceof ClipClock && ready;

byId('play').onclick = () => isClip() && toggle();
byId('scrub').oninput = () => isClip() && clock.seek(Number(byId('scrub').value));
byId('loop').onchange = () => isClip() && clock.setLoop(byId('loop').checked);
byId('volume').oninput = () => clock?.setVolume(Number(byId('volume').value));
byId('curves').onclick = (event) => isClip() && clock.seek((event.offsetX / byId('curves').clientWidth) * clock.seconds);
document.addEventListener('keydown', (event) => {
  if (!isClip() || event.target.matches('input, button')) return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === ' ') toggle();
  else if (step) clock.seek(clock.now() + step / motion.fps);
  else return;
  event.preventDefault();
});

/** For tests: what is on the screen, and what the sound card plays by its own account. */
window.edgetalker = {
  probe: () => ({
    ready: ready && shown !== null,
    live: motion?.live ?? null,
    frames: motion ? motion.frames.filter(Boolean).length : 0,
    take: motion?.newest?.take ?? null,
    shown: shown && { index: shown.frame.index, time: shown.time },
    playing: clock?.playing ?? false,
    now: clock?.now() ?? null,
    seconds: clock?.seconds ?? null,
    output: clock?.context?.getOutputTimestamp?.() ?? null,
    begun: clock?.begun ?? null,
    offset: clock?.offset ?? null,
    status,
    pace: stage.pace ?? null,
    ratio: stage.renderer.getPixelRatio(),
  }),
};

requestAnimationFrame(tick);
