// A control for each kind: what it shows, and the value it has. `changed` is called on every change.
import { make } from "./dom.js";
import * as samples from "./samples.js";
import { picked, pick } from "./state.js";

const kinds = { number, text, choice, sample, mask };

// [{element, value()}] of a tab's controls. `values` keeps what was set when the tab is left.
export function build(controls, values, changed) {
  let place = 0; // the first sample of every tab is the same one, and so is the second
  return controls.map((control) => {
    const set = (value) => { values[control.name] = value; changed(); };
    const start = values[control.name] ?? control.value;
    const slot = control.kind === "sample" ? place++ : 0;
    const made = kinds[control.kind](control, start, set, { slot, values, controls });
    const element = make("div", { class: "control" }, ...made.parts);
    if (control.help) element.append(make("small", {}, control.help));
    return { name: control.name, element, value: made.value };
  });
}

// Show what is picked, as long as the element is on the page.
function while_there(element, show) {
  document.addEventListener("picked", function again() {
    if (element.isConnected) show();
    else document.removeEventListener("picked", again);
  });
}

function labelled(control, input, ...more) {
  input.id = `control-${control.name}`;
  return [make("label", { for: input.id }, control.label, ...more), input];
}

function number(control, start, set) {
  const { least, most, step } = control;
  const slides = (most - least) / step <= 200;
  const type = slides ? "range" : "number";
  const input = make("input", { type, min: least, max: most, step, value: start });
  const shown = make("output", {}, String(start));
  input.oninput = () => { shown.textContent = input.value; };
  input.onchange = () => set(Number(input.value));
  return { parts: labelled(control, input, ...(slides ? [shown] : [])), value: () => Number(input.value) };
}

function text(control, start, set) {
  const input = control.lines > 1
    ? make("textarea", { rows: control.lines })
    : make("input", { type: "text" });
  input.value = start;
  input.onchange = () => set(input.value);
  return { parts: labelled(control, input), value: () => input.value };
}

function choice(control, start, set) {
  const options = control.options.map((name) => make("option", { value: name }, name));
  const input = make("select", {}, ...options);
  input.value = start;
  input.onchange = () => set(input.value);
  return { parts: labelled(control, input), value: () => input.value };
}

function sample(control, _start, set, { slot }) {
  const face = make("div"), words = make("div", { class: "caption" });
  const show = () => {
    const now = picked(slot);
    if (now.upload) {
      const image = make("img", { class: "thumb", src: now.upload, width: 64, height: 64, alt: "" });
      image.style.objectFit = "cover";
      face.replaceChildren(image);
      words.textContent = now.name;
    } else if (now.number === undefined) {
      words.textContent = "none yet";
    } else {
      face.replaceChildren(...(samples.areImages() ? [samples.thumbnail(now.number, 64)] : []));
      words.textContent = samples.caption(now.number);
    }
  };
  const take = (value) => { pick(slot, value); show(); set(value); };
  const actions = make("div", { class: "actions" });
  if (control.count) {
    actions.append(make("button", {
      type: "button", class: "link", "data-choose": control.name,
      onclick: async () => {
        const number = await samples.choose(control.label);
        if (number !== undefined) take({ number });
      },
    }, "Choose"));
  }
  if (control.uploads) actions.append(...upload(control, take));
  show();
  while_there(face, show);
  face.hidden = !samples.areImages() && !control.uploads;
  const row = make("div", { class: "sample" }, face, make("div", { class: "words" }, words, actions));
  const label = make("div", { class: "label" }, control.label);
  return { parts: [label, row], value: () => picked(slot) };
}

function upload(control, take) {
  const file = make("input", { type: "file", accept: "image/*", hidden: true, name: control.name });
  file.onchange = () => {
    const [given] = file.files;
    if (!given) return;
    const reader = new FileReader();
    reader.onload = () => take({ upload: reader.result, name: given.name });
    reader.readAsDataURL(given);
    file.value = "";
  };
  const ask = make("button", { type: "button", class: "link", onclick: () => file.click() }, "Upload");
  return [ask, file];
}

const SIDE = 128; // of the mask that is sent

function mask(control, _start, _set, { controls }) {
  const under = make("canvas", { width: 232, height: 232 });
  const over = make("canvas", { width: SIDE, height: SIDE, "data-mask": control.name });
  const box = make("div", { class: "paint" }, under, over);
  const brush = over.getContext("2d");
  let painted = false, last;
  const stroke = (event) => {
    const scale = SIDE / over.clientWidth;
    const [x, y] = [event.offsetX * scale, event.offsetY * scale];
    brush.strokeStyle = "rgb(230 30 60)";
    brush.lineWidth = 16;
    brush.lineCap = "round";
    brush.beginPath();
    brush.moveTo(...(last ?? [x, y]));
    brush.lineTo(x, y + 0.01);
    brush.stroke();
    last = [x, y];
    painted = true;
  };
  over.onpointerdown = (event) => { over.setPointerCapture(event.pointerId); last = undefined; stroke(event); };
  over.onpointermove = (event) => { if (event.buttons) stroke(event); };
  const clear = make("button", {
    type: "button", class: "link",
    onclick: () => { brush.clearRect(0, 0, SIDE, SIDE); painted = false; },
  }, "Clear");
  const slot = controls.filter((c) => c.kind === "sample").findIndex((c) => c.name === control.over);
  const show = () => draw_under(under, picked(Math.max(slot, 0)));
  show();
  while_there(box, show);
  const label = make("div", { class: "label" }, control.label, clear);
  return { parts: [label, box], value: () => (painted ? in_black_and_white(over) : null) };
}

async function draw_under(canvas, now) {
  const context = canvas.getContext("2d"), side = canvas.width;
  context.clearRect(0, 0, side, side);
  if (now.number !== undefined) return samples.draw(context, now.number, 0, 0, side);
  if (!now.upload) return undefined;
  const image = new Image();
  image.src = now.upload;
  await image.decode();
  const [w, h] = [image.naturalWidth, image.naturalHeight], cut = Math.min(w, h);
  if (samples.squeezed()) return context.drawImage(image, 0, 0, side, side);
  return context.drawImage(image, (w - cut) / 2, (h - cut) / 2, cut, cut, 0, 0, side, side);
}

function in_black_and_white(canvas) {
  const flat = make("canvas", { width: SIDE, height: SIDE });
  const context = flat.getContext("2d");
  context.drawImage(canvas, 0, 0);
  const pixels = context.getImageData(0, 0, SIDE, SIDE);
  for (let n = 0; n < pixels.data.length; n += 4) {
    const white = pixels.data[n + 3] > 64 ? 255 : 0;
    pixels.data.set([white, white, white, 255], n);
  }
  context.putImageData(pixels, 0, 0);
  return flat.toDataURL("image/png");
}
