// Hands the microphone's samples to the page, 16 bits each, in packets of 20 ms or a little more.
class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.packet = new Int16Array(Math.ceil(sampleRate / 50));
    this.filled = 0;
  }
  process(inputs) {
    for (const value of inputs[0][0] ?? []) {
      this.packet[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
      if (this.filled === this.packet.length) {
        this.port.postMessage(this.packet.slice().buffer);
        this.filled = 0;
      }
    }
    return true;
  }
}
registerProcessor("recorder", Recorder);
