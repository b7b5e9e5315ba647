// Small tools for drawing. Text only ever goes into the page through textContent, or onto a canvas.

const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

// Colours of the theme, 256 each: `heat` from nothing to all, `sign` from minus over zero to plus.
const palette = { heat: null, sign: null };

function ramp(stops) {
  const colours = stops.map(rgb);
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (colours.length - 1);
    const low = Math.min(Math.floor(at), colours.length - 2);
    const [r, g, b] = colours[low].map((from, c) => Math.round(from + (colours[low + 1][c] - from) * (at - low)));
    return (255 << 24) | (b << 16) | (g << 8) | r;
  });
}

function readPalette() {
  palette.heat = ramp(css("--heat").split(/\s+/));
  palette.sign = ramp(["--minus", "--zero", "--plus"].map(css));
}

// A canvas of width x height colours, to be drawn at any scale.
function picture(width, height, colour) {
  const canvas = make("canvas", { width, height, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colour(i);
  context.putImageData(image, 0, 0);
  return canvas;
}

const signColour = (value, most) => palette.sign[Math.round(127.5 + 127.5 * Math.max(-1, Math.min(1, value / (most || 1))))];

function paint(colour) {
  return `rgb(${colour & 255} ${(colour >> 8) & 255} ${(colour >> 16) & 255})`;
}

// Black or white, whichever is easier to read on a colour.
function inkOn(colour) {
  const light = 0.299 * (colour & 255) + 0.587 * ((colour >> 8) & 255) + 0.114 * ((colour >> 16) & 255);
  return light > 140 ? "#1b1a22" : "#fff";
}

// A canvas measured in CSS pixels, sharp on fine screens up to the size that browsers allow.
function board(width, height, attributes = {}) {
  const fine = Math.max(0.5, Math.min(window.devicePixelRatio || 1, 16000 / height, 16000 / width));
  const canvas = make("canvas", { width: Math.round(width * fine), height: Math.round(height * fine), ...attributes });
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(fine, fine);
  context.imageSmoothingEnabled = false;
  return [canvas, context];
}

function write(context, words, x, y, { size = 12, colour = css("--ink"), align = "left", mono = false, room = 1e9 } = {}) {
  context.font = `${size}px ${mono ? css("--mono") : "system-ui, sans-serif"}`;
  context.fillStyle = colour;
  context.textAlign = align;
  context.textBaseline = "middle";
  while (words.length > 1 && context.measureText(words).width > room) words = `${words.replace(/…$/, "").slice(0, -1)}…`;
  context.fillText(words, x, y);
}

function tip(event, words) {
  const box = $("tip");
  box.hidden = !words;
  if (!words) return;
  box.textContent = words;
  const left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8);
  const below = event.clientY + 16 + box.offsetHeight < innerHeight;
  box.style.left = `${left}px`;
  box.style.top = `${below ? event.clientY + 16 : event.clientY - box.offsetHeight - 10}px`;
}

const rowHeight = (size) => (size <= 40 ? 25 : size <= 80 ? 19 : 14);
