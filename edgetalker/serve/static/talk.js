// Sends the browser's microphone to /v1/talk and draws the motion that comes back as a plain face.
const state = document.getElementById("state");
const canvas = document.getElementById("face");
const context = canvas.getContext("2d");
let socket = null;

function say(text) { state.textContent = text; }

function draw(shapes) {
  const of = name => shapes[name] ?? 0;
  const pair = name => (of(name + "Left") + of(name + "Right")) / 2;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, 480, 480);
  context.translate(240 + 120 * of("HeadYaw"), 240 + 120 * of("HeadPitch"));
  context.rotate(of("HeadRoll"));
  context.lineWidth = 4;
  for (const [side, x] of [["Left", 70], ["Right", -70]]) {
    const open = Math.max(1, 26 * (1 - of("EyeBlink" + side) + 0.5 * of("EyeWide" + side)));
    context.beginPath();
    context.ellipse(x, -60, 36, open, 0, 0, 2 * Math.PI);
    context.stroke();
    const brow = -105 - 25 * of("BrowInnerUp") - 15 * of("BrowOuterUp" + side) + 20 * of("BrowDown" + side);
    context.strokeRect(x - 36, brow, 72, 1);
  }
  const width = 80 * (1 + 0.3 * pair("MouthSmile") - 0.5 * of("MouthPucker") - 0.35 * of("MouthFunnel"));
  const height = Math.max(2, 110 * (of("JawOpen") - of("MouthClose")) + 20 * pair("MouthLowerDown"));
  const corner = 95 - 40 * pair("MouthSmile") + 30 * pair("MouthFrown");
  context.beginPath();
  context.moveTo(-width, corner);
  context.quadraticCurveTo(0, 85 - 15 * pair("MouthUpperUp"), width, corner);
  context.quadraticCurveTo(0, 105 + 2 * height, -width, corner);
  context.stroke();
}

async function speak() {
  const audio = new AudioContext();
  const media = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true } });
  await audio.audioWorklet.addModule("recorder.js");
  const recorder = new AudioWorkletNode(audio, "recorder");
  audio.createMediaStreamSource(media).connect(recorder);
  const token = location.hash.slice(1);
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/v1/talk${token ? "?token=" + encodeURIComponent(token) : ""}`);
  socket.onopen = () => {
    socket.send(JSON.stringify({ type: "start", rate: audio.sampleRate }));
    recorder.port.onmessage = event => {
      if (socket.readyState === WebSocket.OPEN && socket.bufferedAmount < 65536) socket.send(event.data);
    };
    say("speak");
  };
  socket.onmessage = event => {
    const message = JSON.parse(event.data);
    if (message.type === "frame" && message.shapes) draw(message.shapes);
    if (message.type === "error") say(message.message);
  };
  socket.onclose = event => {
    say(`closed: ${event.reason || event.code}`);
    for (const track of media.getTracks()) track.stop();
    audio.close();
  };
}

document.getElementById("speak").onclick = () => speak().catch(error => say(String(error)));
document.getElementById("reset").onclick = () => socket?.send(JSON.stringify({ type: "reset" }));
draw({});
