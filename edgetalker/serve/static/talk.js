// Sends the browser's microphone to /v1/talk and shows the motion that comes back on the viewer's face.

import { Stage } from './stage.js';

const byId = (id) => document.getElementById(id);
const stage = new Stage(byId('face'));
let socket = null;
let names = null; // of the face's values; null: the motion is not for our face

function say(text) { byId('state').textContent = text; }

async function layout(message) {
  if (message.kind !== 'arkit') return say(`motion of the kind ${message.kind} has no face here`);
  await stage.showFace('face.glb', message.names);
  names = message.names;
}

async function speak() {
  const audio = new AudioContext();
  const media = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true } });
  await audio.audioWorklet.addModule('recorder.js');
  const recorder = new AudioWorkletNode(audio, 'recorder');
  audio.createMediaStreamSource(media).connect(recorder);
  const token = location.hash.slice(1);
  const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
  socket = new WebSocket(`${scheme}//${location.host}/v1/talk${token ? '?token=' + encodeURIComponent(token) : ''}`);
  socket.onopen = () => {
    socket.send(JSON.stringify({ type: 'start', rate: audio.sampleRate }));
    recorder.port.onmessage = (event) => {
      if (socket.readyState === WebSocket.OPEN && socket.bufferedAmount < 65536) socket.send(event.data);
    };
    say('speak');
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === 'layout') layout(message).catch((error) => say(String(error)));
    if (message.type === 'frame' && names) stage.pose(names.map((name) => message.shapes[name]));
    if (message.type === 'error') say(message.message);
  };
  socket.onclose = (event) => {
    say(`closed: ${event.reason || event.code}`);
    for (const track of media.getTracks()) track.stop();
    audio.close();
  };
}

byId('speak').onclick = () => speak().catch((error) => say(String(error)));
byId('again').onclick = () => {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: 'reset' }));
};
say('not connected');

(function draw() {
  stage.draw();
  requestAnimationFrame(draw);
})();
