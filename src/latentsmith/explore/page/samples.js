// The samples that all arms look at: thumbnails on one sheet, or texts.
import { make } from "./dom.js";

let told = { kind: "none", count: 0, captions: [], labels: [], classes: [] };
const sheet = new Image();

export async function load(samples) {
  told = samples;
  if (told.kind !== "images" || !told.count) return;
  sheet.src = "thumbnails.png";
  await sheet.decode();
}

export const areImages = () => told.kind === "images";
export const count = () => told.count;
export const squeezed = () => told.crop === "none";

export function caption(number) {
  const name = told.labels.length ? told.classes[told.labels[number]] : "";
  return [name, told.captions[number]].filter(Boolean).join(" · ") || `sample ${number}`;
}

function corner(number) {
  return [number % told.across, Math.floor(number / told.across)].map((n) => n * told.side);
}

// A thumbnail on a canvas of its own, `size` pixels wide.
export function thumbnail(number, size) {
  const canvas = make("canvas", { class: "thumb", width: told.side, height: told.side });
  canvas.style.width = canvas.style.height = `${size}px`;
  draw(canvas.getContext("2d"), number, 0, 0, told.side);
  return canvas;
}

export function draw(context, number, x, y, size) {
  context.imageSmoothingEnabled = size < told.side;
  context.drawImage(sheet, ...corner(number), told.side, told.side, x, y, size, size);
}

// Ask which sample is meant; resolves to its number, or undefined.
export function choose(title) {
  const dialog = document.getElementById("chooser");
  const grid = make("div", { class: areImages() ? "grid" : "grid texts" });
  for (let number = 0; number < told.count; number++) {
    const face = areImages() ? thumbnail(number, 44) : caption(number);
    grid.append(
      make("button", { type: "button", title: caption(number), "data-number": number }, face),
    );
  }
  const close = make("button", { type: "button", class: "link", onclick: () => dialog.close() }, "Close");
  const head = make("div", { class: "head" }, make("strong", {}, title), close);
  dialog.replaceChildren(head, grid);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    grid.onclick = (event) => {
      const button = event.target.closest("button[data-number]");
      if (button) dialog.close(button.dataset.number);
    };
    dialog.onclick = (event) => event.target === dialog && dialog.close();
    dialog.onclose = () => resolve(dialog.returnValue ? Number(dialog.returnValue) : undefined);
  });
}

const tip = document.getElementById("tip");

// What lies under the mouse; `undefined` for nothing.
export function hint(event, number, more = "") {
  tip.hidden = number === undefined;
  if (tip.hidden) return;
  const face = areImages() ? [thumbnail(number, 112)] : [];
  tip.replaceChildren(...face, make("div", {}, caption(number)), make("div", { class: "note" }, more));
  const left = event.clientX + 18, top = event.clientY + 14;
  tip.style.left = `${left + tip.offsetWidth > innerWidth ? event.clientX - 14 - tip.offsetWidth : left}px`;
  tip.style.top = `${Math.min(top, innerHeight - tip.offsetHeight - 8)}px`;
}
