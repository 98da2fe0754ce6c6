// The page: which arms are shown, which tab is open, and a question to the server for each arm.
import { draw } from "./blocks.js";
import { build } from "./controls.js";
import { make } from "./dom.js";
import { forget } from "./scatter.js";
import * as samples from "./samples.js";
import { begin } from "./state.js";

const [arms_box, tabs_box, help, form, panels, main] =
  ["#arms", "#tabs", "#help", "#controls", "#panels", "main"].map((s) => document.querySelector(s));
const kept = {}; // values by tab, so that a tab is found as it was left
let page, open, controls, turn = 0, shown, waiting;

async function ask(address, values) {
  const how = values === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values),
  };
  const answer = await fetch(address, how);
  const told = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(told.error ?? `the server answered ${answer.status}`);
  return told;
}

async function start() {
  try {
    page = await ask("api/page");
    await samples.load(page.samples);
  } catch (error) {
    panels.replaceChildren(make("p", { class: "error" }, String(error.message)));
    return;
  }
  begin(page.samples.count);
  shown = new Set(page.arms.filter((arm) => arm.shown).map((arm) => arm.key));
  list_arms();
  list_tabs();
  document.addEventListener("picked", () => {
    if (open.live && open.controls.some((control) => control.kind === "sample")) later();
  });
  const wanted = page.tabs.find((tab) => tab.name === location.hash.slice(1));
  choose(wanted ?? page.tabs[0]);
}

function list_arms() {
  const runs = grouped(page.arms);
  const rows = [...runs].map(([name, arms]) => {
    const buttons = arms.filter((arm) => arm.stage).map((arm) => make("button", {
      type: "button", "aria-pressed": shown.has(arm.key), "data-arm": arm.key,
      onclick: (event) => toggle(arm, event.currentTarget),
    }, arm.stage));
    return make("div", { class: "run" }, `${name} (${arms[0].recipe})`, ...buttons);
  });
  arms_box.replaceChildren(...rows);
  document.title = `${[...runs.keys()].join(", ")} · latentsmith explore`;
}

function grouped(arms) {
  const found = new Map();
  for (const arm of arms) found.set(arm.run, [...(found.get(arm.run) ?? []), arm]);
  return found;
}

function toggle(arm, button) {
  if (!shown.delete(arm.key)) shown.add(arm.key);
  button.setAttribute("aria-pressed", shown.has(arm.key));
  show();
}

function list_tabs() {
  tabs_box.replaceChildren(...page.tabs.map((tab) => make("button", {
    type: "button", role: "tab", id: `tab-${tab.name}`, onclick: () => choose(tab),
  }, tab.title)));
}

function choose(tab) {
  open = tab;
  history.replaceState(null, "", `#${tab.name}`);
  for (const button of tabs_box.children) {
    button.setAttribute("aria-selected", button.id === `tab-${tab.name}`);
  }
  help.textContent = tab.help;
  main.classList.toggle("alone", !tab.controls.length);
  main.querySelector("aside").hidden = !tab.controls.length;
  controls = build(tab.controls, (kept[tab.name] ??= {}), () => open.live && later());
  const go = make("button", { class: "go", type: "submit" }, tab.button);
  form.replaceChildren(...controls.map((control) => control.element), ...(tab.live ? [] : [go]));
  panels.replaceChildren();
  show();
}

form.onsubmit = (event) => { event.preventDefault(); answer(); };

// Several changes at once make one question.
function later() {
  clearTimeout(waiting);
  waiting = setTimeout(answer, 120);
}

function show() {
  if (open.live || panels.querySelector(".block")) answer();
  else empty_panels();
}

// A tab that suits arms which are all hidden shows them all the same.
function arms_of(tab) {
  const fits = page.arms.filter((arm) => tab.arms.includes(arm.key));
  const wanted = fits.filter((arm) => shown.has(arm.key));
  return wanted.length ? wanted : fits;
}

function empty_panels() {
  panels.replaceChildren(make("p", { class: "note empty" }, `Set the controls, then press ${open.button}.`));
}

function panel_of(arm) {
  const known = [...panels.children].find((panel) => panel.dataset.arm === arm.key);
  if (known) return known;
  const name = arm.stage && open.name !== "run" ? [arm.stage, make("small", {}, arm.run)] : [arm.run];
  const panel = make("section", { class: "panel", "data-arm": arm.key },
    make("h2", {}, ...name), make("div", { class: "content" }));
  return panel;
}

async function answer() {
  const mine = ++turn, tab = open, arms = arms_of(tab);
  const values = Object.fromEntries(controls.map(({ name, value }) => [name, value()]));
  const found = arms.map(panel_of);
  panels.replaceChildren(...found);
  panels.classList.toggle("stacked", tab.stacked || arms.length === 1);
  found.forEach((panel) => panel.classList.add("busy"));
  forget();
  const together = common();
  for (const [n, arm] of arms.entries()) {
    const content = found[n].querySelector(".content");
    try {
      const { blocks } = await ask(`api/show/${tab.name}/${arm.key}`, values);
      if (mine !== turn) return; // somebody has asked something else by now
      content.replaceChildren(...draw(blocks, together));
    } catch (error) {
      if (mine !== turn) return;
      content.replaceChildren(make("p", { class: "error" }, error.message));
    }
    found[n].classList.remove("busy");
  }
}

// One scale for numbers of one name in all arms: each arm that comes redraws the others.
function common() {
  const scales = new Map();
  return {
    scale(name, values, redraw) {
      const known = scales.get(name) ?? { low: Infinity, high: -Infinity, all: [] };
      for (const value of values) {
        known.low = Math.min(known.low, value);
        known.high = Math.max(known.high, value);
      }
      known.all.push(redraw);
      scales.set(name, known);
      known.all.forEach((again) => again(known.low, known.high));
    },
  };
}

start();
