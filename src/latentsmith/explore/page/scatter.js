// A map: a point for each sample, or its picture; the same sample is ringed in all maps at once.
import { make } from "./dom.js";
import * as samples from "./samples.js";
import { picked, push } from "./state.js";

const NAMED = ["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1",
  "#ff9da7", "#9c755f", "#8c8c8c"]; // Tableau 10
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis
const MARGIN = 26, NEAR = 14;
const maps = new Set();
let pictured = false;

const class_colour = (n) => NAMED[n] ?? `hsl(${(n * 137.5) % 360} 55% 55%)`;

function ramp(share) {
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1), n = Math.min(Math.floor(place), RAMP.length - 2);
  const mix = RAMP[n].map((v, k) => Math.round(v + (place - n) * (RAMP[n + 1][k] - v)));
  return `rgb(${mix.join(" ")})`;
}

export function scatter(block, together) {
  const canvas = make("canvas", { tabindex: 0, role: "img", "aria-label": "map of the latent space" });
  const legend = make("div", { class: "legend" });
  const map = { block, canvas, low: 0, high: 1, hovered: undefined };
  maps.add(map);
  const redraw = () => paint(map);
  if (block.colour === "scale") {
    together.scale(block.axis, block.values, (low, high) => {
      Object.assign(map, { low, high });
      scale_legend(legend, block.axis, low, high);
      redraw();
    });
  } else {
    class_legend(legend, block);
  }
  canvas.onmousemove = (event) => hover(map, event);
  canvas.onmouseleave = (event) => { samples.hint(event); ring(undefined); };
  canvas.onclick = (event) => {
    const number = under(map, event);
    if (number !== undefined) { push(number); ring(number); }
  };
  new ResizeObserver(redraw).observe(canvas);
  return make("div", {}, canvas, legend);
}

export const forget = () => maps.clear();
document.addEventListener("picked", () => maps.forEach(paint));

function ring(number) {
  for (const map of maps) { map.hovered = number; paint(map); }
}

function hover(map, event) {
  const number = under(map, event);
  const { colour, values, axis } = map.block;
  const more = number !== undefined && colour === "scale" ? `${axis}: ${values[number]}` : "";
  samples.hint(event, number, more);
  if (number !== map.hovered) ring(number);
}

function under(map, event) {
  let found, best = NEAR ** 2;
  (map.at ?? []).forEach(([x, y], number) => {
    const far = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
    if (far < best) [found, best] = [number, far];
  });
  return found;
}

// Points on the canvas, one scale for both directions: distances on the map mean something.
function placed(points, width, height) {
  const [low, high] = [0, 1].map((side) => [0, 1].map((axis) =>
    points.reduce((m, p) => (side ? Math.max(m, p[axis]) : Math.min(m, p[axis])), side ? -Infinity : Infinity)));
  const spread = [high[0] - low[0] || 1, high[1] - low[1] || 1];
  const scale = Math.min((width - 2 * MARGIN) / spread[0], (height - 2 * MARGIN) / spread[1]);
  return points.map(([x, y]) => [
    width / 2 + (x - (low[0] + high[0]) / 2) * scale,
    height / 2 - (y - (low[1] + high[1]) / 2) * scale,
  ]);
}

function paint(map) {
  const { canvas, block } = map, sharp = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = Math.round(Math.min(width * 0.82, innerHeight * 0.66));
  if (!width) return;
  canvas.style.height = `${height}px`;
  [canvas.width, canvas.height] = [width * sharp, height * sharp];
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  map.at = placed(block.points, width, height);
  const size = block.points.length > 1500 ? 2.5 : 4;
  map.at.forEach(([x, y], n) => {
    if (pictured && samples.areImages()) return framed(context, n, x, y, colour(map, n));
    context.beginPath();
    context.arc(x, y, size, 0, 7);
    context.fillStyle = colour(map, n);
    context.globalAlpha = 0.82;
    context.fill();
    context.globalAlpha = 1;
    return undefined;
  });
  mark(map, context);
}

function framed(context, number, x, y, colour) {
  const size = 22;
  context.fillStyle = colour;
  context.fillRect(x - size / 2 - 1.5, y - size / 2 - 1.5, size + 3, size + 3);
  samples.draw(context, number, x - size / 2, y - size / 2, size);
}

function mark(map, context) {
  const style = getComputedStyle(document.documentElement);
  const rings = [[picked(1).number, "--mark", "B"], [picked(0).number, "--mark", "A"], [map.hovered, "--ink", ""]];
  for (const [number, name, letter] of rings) {
    const at = map.at[number];
    if (!at) continue;
    context.font = "bold 15px system-ui, sans-serif";
    // a wide stroke in the colour of the paper first, so that it stands out among points
    for (const [colour, width] of [["--paper", 6], [name, 2.5]]) {
      context.strokeStyle = context.fillStyle = style.getPropertyValue(colour);
      context.lineWidth = width;
      context.beginPath();
      context.arc(...at, 10, 0, 7);
      context.stroke();
      if (width > 3) context.strokeText(letter, at[0] + 13, at[1] - 8);
      else context.fillText(letter, at[0] + 13, at[1] - 8);
    }
  }
}

function colour({ block, low, high }, number) {
  if (!block.values.length) return "#6b7f99";
  const value = block.values[number];
  return block.colour === "classes" ? class_colour(value) : ramp((value - low) / (high - low || 1));
}

function class_legend(legend, block) {
  const names = block.values.length ? block.names.slice(0, 24) : [];
  const items = names.map((name, n) => {
    const dot = make("i");
    dot.style.background = class_colour(n);
    return make("span", {}, dot, name);
  });
  legend.replaceChildren(...items, ...pictures_switch());
}

function scale_legend(legend, axis, low, high) {
  const bar = make("span", { class: "ramp" });
  bar.style.background = `linear-gradient(90deg, ${RAMP.map((_, n) => ramp(n / (RAMP.length - 1))).join(",")})`;
  const ends = [low, high].map((v) => Number(v).toPrecision(2));
  const scale = make("span", { class: "scale" }, ends[0], bar, ends[1]);
  legend.replaceChildren(make("span", {}, axis), scale, ...pictures_switch());
}

function pictures_switch() {
  if (!samples.areImages()) return [];
  const box = make("input", { type: "checkbox", "data-pictures": true });
  box.checked = pictured;
  box.onchange = () => {
    pictured = box.checked;
    document.querySelectorAll("[data-pictures]").forEach((other) => { other.checked = pictured; });
    maps.forEach(paint);
  };
  return [make("label", {}, box, "pictures")];
}
