"use strict";
// The numbers of the page: base64 bytes, unpacked on first use.

const DATA = JSON.parse(document.getElementById("data").textContent);

function unpack(base64) {
  const raw = atob(base64);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

const WEIGHT = Float32Array.from({ length: 256 }, (_, byte) => (byte / 255) ** 2); // a byte is the square root of a weight

class Text {
  constructor(source) {
    this.source = source;
    this.tokens = source.tokens;
    this.size = source.tokens.length;
    this.pooled = source.pooled;
    this.unpacked = new Map();
  }

  part(layer, name, as = Uint8Array) {
    const key = `${layer} ${name}`;
    if (!this.unpacked.has(key)) this.unpacked.set(key, new as(unpack(this.source.layers[layer][name]).buffer));
    return this.unpacked.get(key);
  }

  // One head's weights as bytes, (S * S): row i is where token i looks.
  weights(layer, head) {
    const area = this.size * this.size;
    return this.part(layer, "probs").subarray(head * area, (head + 1) * area);
  }

  // q or k of one token in one head, (K).
  vector(name, layer, head, token) {
    const size = this.source.layers[layer].size;
    const at = head * this.size + token;
    const step = this.part(layer, `${name}_step`, Float32Array)[at];
    return Float32Array.from(this.part(layer, name, Int8Array).subarray(at * size, (at + 1) * size), (n) => n * step);
  }
}

const TEXTS = DATA.texts.map((source) => new Text(source));

// The reader's choices.
const chosen = { text: 0, layer: 0, head: 0, token: null, view: "lines", share: 1, bare: false, search: 0 };
const LATE = { maxsim: "MaxSim", meanmaxsim: "mean MaxSim" }; // in place of a pooling: late interaction
const NAMES = DATA.masked ? ["As written", "Masked"] : LATE[DATA.pooling[0]] ? ["Query", "Document"] : ["Text A", "Text B"];

const text = () => TEXTS[chosen.text];
const weights = () => text().weights(chosen.layer, chosen.head);
const heads = (layer) => text().source.layers[layer].heads;

// Positions of the tokens that are shown: all, or those that are not of the template, as [CLS] and [SEP] are.
function places() {
  const { template } = text().source;
  return [...text().tokens.keys()].filter((i) => !(chosen.bare && template.includes(i)));
}

function percent(weight) {
  return weight >= 0.0995 ? `${(100 * weight).toFixed(0)} %` : `${(100 * weight).toFixed(1)} %`;
}

function signed(number, digits = 2) {
  return (number < 0 ? "−" : "+") + Math.abs(number).toFixed(digits);
}
