// What a tab answered, drawn. A kind of block is a function here: (block, together) → element.
// `together` holds what the arms have in common, so that their scales are the same.
import { make, svg } from "./dom.js";
import * as samples from "./samples.js";
import { scatter } from "./scatter.js";
import { push } from "./state.js";

const kinds = { pictures, strip, picks, scatter, table, facts, note, link };

export function draw(blocks, together) {
  return blocks.map((block) => {
    const title = block.title ? [make("h3", {}, block.title)] : [];
    return make("div", { class: `block ${block.kind}` }, ...title, kinds[block.kind](block, together));
  });
}

function pictures(block) {
  const figures = block.items.map(({ src, caption }) => {
    const words = caption ? [make("figcaption", {}, caption)] : [];
    const figure = make("figure", {}, make("img", { src, width: block.size, alt: caption }), ...words);
    figure.style.maxWidth = `${block.size}px`;
    return figure;
  });
  return make("div", { class: "row" }, ...figures);
}

function picks(block) {
  const found = block.items.map(({ number, note, marked }) => {
    const images = samples.areImages();
    const style = `pick${marked ? " marked" : ""}${images ? "" : " text"}`;
    const words = images ? [samples.thumbnail(number, 46), make("span", {}, note)]
      : [make("span", {}, note), samples.caption(number)];
    return make("button", {
      type: "button", class: style, "data-number": number, onclick: () => push(number),
      onmousemove: (event) => images && samples.hint(event, number), onmouseleave: () => samples.hint(),
    }, ...words);
  });
  return make("div", { class: "row" }, ...found);
}

function strip(block, together) {
  const { images, speeds, axis } = block;
  const faces = images.map((src) => make("img", { src, alt: "" }));
  const box = make("div", {}, make("div", { class: "images" }, ...faces));
  const area = svg("path", { class: "area" }), curve = svg("path", { class: "curve" });
  const width = images.length * 100; // about pixels: Chromium blurs what it has to stretch a lot
  const line = svg("line", { class: "axis", x1: 0, x2: width, y1: 100, y2: 100 });
  const view = { viewBox: `0 0 ${width} 100`, preserveAspectRatio: "none", role: "img" };
  const plot = svg("svg", { ...view, "aria-label": axis }, area, line, curve);
  const top = make("span");
  const axes = make("div", { class: "axes" }, make("span", {}, `${axis}, 0 to `, top), make("span", {}, "t: 0 → 1"));
  box.append(plot, axes);
  // a speed lies between its two images
  together.scale(axis, speeds, (_low, high) => {
    const at = speeds.map((v, n) => `${(n + 1) * 100} ${(100 - 96 * (v / (high || 1))).toFixed(2)}`);
    curve.setAttribute("d", `M${at.join("L")}`);
    area.setAttribute("d", `M100 100L${at.join("L")}L${speeds.length * 100} 100Z`);
    top.textContent = Number(high).toPrecision(3);
  });
  return box;
}

function table(block) {
  const cells = (row, tag) => row.map((text) => {
    const style = { go: "go-verdict", "no-go": "no-verdict" }[text];
    return make(tag, style ? { class: style } : {}, text);
  });
  const head = make("thead", {}, make("tr", {}, ...cells(block.head, "th")));
  const body = make("tbody", {}, ...block.rows.map((row) => make("tr", {}, ...cells(row, "td"))));
  return make("div", { class: "scroll" }, make("table", {}, head, body));
}

function facts(block) {
  const items = block.items.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  return make("dl", { class: "facts" }, ...items);
}

function note(block) {
  return make("p", { class: "note" }, block.text);
}

function link(block) {
  return make("a", { href: block.address, target: "_blank", rel: "noopener" }, block.text);
}
