// The server's own page: a microphone or a sound file, and our face that says it. Also an example of edgetalker.js.

import { EdgeTalker, tokenOf } from './edgetalker.js';
import { Stage } from './stage.js';

const byId = (id) => document.getElementById(id);
const say = (text) => { byId('state').textContent = text; };
const stage = new Stage(byId('face'));
const talker = new EdgeTalker(location.href, { token: tokenOf(location.href), idle: true });

talker.addEventListener('error', ({ detail }) => say(detail.message));
talker.addEventListener('state', ({ detail }) => say({ open: 'connected', closed: talker.fault?.message ?? 'not connected', connecting: 'connecting' }[detail]));

// Not where it is clicked: the talker stops listening by itself when its connection is refused.
talker.addEventListener('listen', ({ detail }) => { byId('speak').textContent = detail ? 'Stop' : 'Microphone'; });

function slider(name) {
  const label = document.createElement('label');
  const input = document.createElement('input');
  Object.assign(input, { type: 'range', min: 0, max: 1, step: 0.01, value: 0 });
  input.oninput = () => talker.set('emotion', { [name]: Number(input.value) }).catch(() => {});
  label.append(`${name} `, input);
  return label;
}

async function listen() {
  if (talker.microphone) talker.stopListening();
  else await talker.listen();
}

async function play(file) {
  if (!file) return;
  talker.audio ??= new AudioContext();
  await talker.speak(await talker.audio.decodeAudioData(await file.arrayBuffer()));
}

const tried = (work) => work.catch((fault) => say(fault.message));
byId('speak').onclick = () => tried(listen());
byId('file').onchange = ({ target }) => tried(play(target.files[0])).then(() => { target.value = ''; });
byId('again').onclick = () => talker.reset();

function tick() {
  requestAnimationFrame(tick);
  if (talker.update()) stage.stale = true;
  stage.draw();
}

async function start() {
  await stage.showFace('./face.glb', []);
  talker.attach(stage.shown, { head: stage.head });
  requestAnimationFrame(tick);
  const layout = await talker.connect();
  byId('controls').replaceChildren(...(layout.controls.emotion ?? []).map(slider));
}

window.edgetalker = { talker, stage, probe: () => ({ state: talker.state, shown: talker.shown, stats: talker.stats }) };
tried(start());
