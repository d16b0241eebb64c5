// The side panel: what became of the frames, how long they took, sliders, and which curves to draw.
// Everything that came over the wire is put in as text, never as markup.

import { COLOURS } from './curves.js';

const byId = (id) => document.getElementById(id);

function make(tag, text, settings = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  return Object.assign(element, settings);
}

export function showLink(on) {
  byId('link').textContent = on ? 'connected' : 'reconnecting';
  byId('link').className = `pill ${on ? 'on' : 'off'}`;
}

let noticeTimer = 0;

/** Say something over the face; it goes after a while unless it stays. */
export function notice(text, stays = false) {
  clearTimeout(noticeTimer);
  byId('notice').textContent = text;
  byId('notice').hidden = !text;
  if (text && !stays) noticeTimer = setTimeout(() => { byId('notice').hidden = true; }, 5000);
}

export function showTally({ outcomes, viewers, dropped, done }) {
  const due = Object.values(outcomes).reduce((sum, count) => sum + count, 0);
  const rows = [['due', due], ...Object.entries(outcomes).filter(([name, count]) => count || name === 'on_time')];
  rows.push(['viewers', viewers], ['not shown here (too slow)', dropped]);
  byId('tally').replaceChildren(...rows.flatMap(([name, count]) => [make('dt', name.replace('_', ' ')), make('dd', String(count))]));
  byId('tally').dataset.done = done;
}

export function buildSliders(controls, send) {
  byId('controls').hidden = controls.length === 0;
  const parts = controls.flatMap((control) => [
    make('h3', control.name),
    ...control.places.map((place) => slider(place, (value) => send({ type: 'set', control: control.name, values: { [place.name]: value } }))),
  ]);
  byId('sliders').replaceChildren(...parts);
  byId('reset').onclick = () => send({ type: 'reset' });
}

function slider(place, send) {
  const row = make('label', undefined, { className: 'slider' });
  const input = make('input', undefined, { type: 'range', min: place.low, max: place.high, step: (place.high - place.low) / 100 });
  const value = make('output', place.value.toFixed(2));
  input.value = place.value;
  input.dataset.name = place.name;
  let waiting = null;
  input.oninput = () => {
    value.textContent = Number(input.value).toFixed(2);
    waiting ??= setTimeout(() => {
      waiting = null;
      send(Number(input.value));
    }, 50);
  };
  row.append(make('span', place.name), input, value);
  return row;
}

export function buildNames(names, curves) {
  const paint = () => {
    for (const button of byId('names').children) {
      const place = curves.chosen.indexOf(button.textContent);
      button.setAttribute('aria-pressed', place >= 0);
      button.style.background = place >= 0 ? COLOURS[place % COLOURS.length] : '';
    }
  };
  const buttons = names.map((name) => make('button', name, {
    type: 'button',
    onclick: () => {
      const place = curves.chosen.indexOf(name);
      if (place >= 0) curves.chosen.splice(place, 1);
      else curves.chosen.push(name);
      paint();
    },
  }));
  byId('names').replaceChildren(...buttons);
  paint();
  return paint;
}

const sorted = (values) => values.filter((value) => value > 0).sort((a, b) => a - b);
const quantile = (values, share) => values[Math.min(values.length - 1, Math.floor(share * values.length))];

/** Draw the cost of the last frames as bars under the line of one frame's time. */
export function showLatency(motion, shown) {
  const canvas = byId('latency');
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== width) [canvas.width, canvas.height] = [width, height];
  const end = motion.live ? motion.frames.length : Math.min(shown.index + 1, motion.frames.length);
  const frames = motion.frames.slice(Math.max(0, end - Math.floor(width / 3)), end).filter(Boolean);
  const costs = sorted(frames.map((frame) => frame.cost));
  const budget = 1000 / motion.fps;
  const top = Math.max(budget * 1.15, costs.at(-1) ?? 0);
  const pen = canvas.getContext('2d');
  pen.clearRect(0, 0, width, height);
  frames.forEach((frame, k) => {
    pen.fillStyle = frame.cost > budget || frame.late > 0 ? '#ef8477' : '#5fb3c9';
    pen.fillRect(k * 3, height * (1 - frame.cost / top), 2, (height * frame.cost) / top);
  });
  pen.fillStyle = '#ffffff66';
  pen.fillRect(0, height * (1 - budget / top), width, 1);
  byId('cost').textContent = costs.length
    ? `frame ${shown.index}: ${shown.cost.toFixed(1)} ms · median ${quantile(costs, 0.5).toFixed(1)} · 99 % ${quantile(costs, 0.99).toFixed(1)} · of ${budget.toFixed(1)} ms`
    : `frame ${shown.index} · one each ${budget.toFixed(1)} ms · no times recorded`;
}
