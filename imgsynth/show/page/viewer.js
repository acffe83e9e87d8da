"use strict";
// Volumes in three planes. Voxels come as [right, anterior, superior], the first axis fastest; on the screen the patient's
// right, front and top are at the left, the left and the top, so that every axis runs against the screen's.

const PLANES = [
  { name: "Axial", across: 0, down: 1, through: 2, marks: ["R", "L", "A", "P"] },
  { name: "Coronal", across: 0, down: 2, through: 1, marks: ["R", "L", "S", "I"] },
  { name: "Sagittal", across: 1, down: 2, through: 0, marks: ["A", "P", "S", "I"] },
];
const KINDS = { real: "Real", synthetic: "Synthetic" };
const KEPT = 6; // volumes in memory

const asked = new URLSearchParams(location.hash.slice(1)); // real=N, synthetic=N, at=x,y,z (mm from the centre), debug
const at = (asked.get("at") || "0,0,0").split(",").map(Number); // the crosshair, mm from the centre: one for all volumes
const view = { low: 0, high: 1, listing: null, slots: [], volumes: new Map(), waiting: false };

const byId = (id) => document.getElementById(id);
const fresh = (id) => byId(id).content.firstElementChild.cloneNode(true);

async function start() {
  view.listing = await (await fetch("list.json")).json();
  byId("title").textContent = view.listing.title;
  byId("banner").hidden = !view.listing.local;
  [view.low, view.high] = view.listing.window;
  fillLabels();
  makeTools();
  for (const kind of Object.keys(KINDS)) {
    if (view.listing.entries.some((entry) => entry.kind === kind)) view.slots.push(makeSlot(kind));
  }
  fillLists();
  await Promise.all(view.slots.map((slot) => choose(slot, Number(slot.list.value))));
  draw(); // now, not with the next frame: a page that says it is ready has been drawn
  document.body.dataset.ready = "yes";
}

// --- lists ----------------------------------------------------------------------------------------------------------

function fillLabels() {
  const labels = new Set(view.listing.entries.map((entry) => entry.label).filter((label) => label !== null));
  byId("label").hidden = labels.size === 0;
  for (const label of [...labels].sort()) byId("label").add(new Option(label, label));
  byId("label").onchange = byId("search").oninput = fillLists;
}

function fillLists() {
  const [label, text] = [byId("label").value, byId("search").value.toLowerCase()];
  for (const slot of view.slots) {
    const before = slot.list.value || asked.get(slot.kind);
    const options = [];
    view.listing.entries.forEach((entry, number) => {
      const fits = (!label || entry.label === label) && entry.name.toLowerCase().includes(text);
      if (entry.kind === slot.kind && fits) options.push(new Option(titleOf(entry), number));
    });
    slot.list.replaceChildren(...options);
    slot.list.value = before;
    if (slot.list.selectedIndex < 0 && options.length) slot.list.selectedIndex = 0;
    slot.count.textContent = `${KINDS[slot.kind]} (${options.length})`;
    if (slot.volume && options.length && slot.list.value !== before) choose(slot, Number(slot.list.value));
  }
}

const titleOf = (entry) => (entry.label === null ? entry.name : `${entry.name} · ${entry.label}`);

// --- slots ----------------------------------------------------------------------------------------------------------

function makeSlot(kind) {
  const [root, list] = [fresh("slot"), fresh("list")];
  root.classList.add(kind);
  list.classList.add(kind);
  byId("slots").append(root);
  byId("lists").append(list);
  const slot = {
    kind, root, list: list.querySelector("select"), count: list.querySelector("h2"), title: root.querySelector("h2"),
    message: root.querySelector(".message"), planes: [], volume: null, number: null,
  };
  slot.list.setAttribute("aria-label", `${KINDS[kind]} images`);
  slot.list.onchange = () => choose(slot, Number(slot.list.value));
  for (const plane of PLANES) slot.planes.push(makePlane(slot, plane));
  root.querySelector(".planes").append(root.querySelector(".facts"));
  return slot;
}

async function choose(slot, number) {
  slot.number = number;
  const entry = view.listing.entries[number];
  slot.title.textContent = `${KINDS[slot.kind]}: ${titleOf(entry)}${entry.note ? ` · ${entry.note}` : ""}`;
  try {
    const volume = await load(number);
    if (slot.number !== number) return; // another one was chosen meanwhile
    slot.volume = volume;
    slot.message.hidden = true;
    prepare(slot);
  } catch (error) {
    slot.volume = null;
    slot.message.hidden = false;
    slot.message.textContent = String(error.message || error);
  }
  redraw();
}

async function load(number) {
  if (!view.volumes.has(number)) {
    const answer = await fetch(`volume/${number}`);
    if (!answer.ok) throw new Error(await answer.text());
    const bytes = await answer.arrayBuffer();
    const length = new DataView(bytes).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
    const Voxels = { int16: Int16Array, uint16: Uint16Array, float32: Float32Array }[header.dtype];
    view.volumes.set(number, { ...header, voxels: new Voxels(bytes, 4 + length) });
    const shown = new Set(view.slots.map((slot) => slot.number));
    for (const key of view.volumes.keys()) {
      if (view.volumes.size > KEPT && !shown.has(key)) view.volumes.delete(key);
    }
  }
  return view.volumes.get(number);
}

function prepare(slot) {
  const { shape, spacing } = slot.volume;
  const flat = shape.indexOf(1); // a single image is shown in its own plane alone
  slot.root.querySelector(".planes").classList.toggle("single", flat >= 0);
  for (const one of slot.planes) {
    one.root.hidden = flat >= 0 && one.through !== flat;
    const [width, height] = [shape[one.across], shape[one.down]];
    [one.canvas.width, one.canvas.height] = [width, height];
    one.image = one.context.createImageData(width, height);
    one.slider.max = shape[one.through] - 1;
    one.slider.hidden = shape[one.through] === 1;
    const [across, down] = [width * spacing[one.across], height * spacing[one.down]];
    one.picture.style.aspectRatio = `${across} / ${down}`;
    one.picture.style.width = across >= down ? "100cqw" : `${(100 * across) / down}cqh`;
  }
}

// --- planes ---------------------------------------------------------------------------------------------------------

function makePlane(slot, plane) {
  const root = fresh("plane");
  slot.root.querySelector(".planes").append(root);
  const canvas = root.querySelector("canvas");
  const one = {
    ...plane, root, canvas, slot, context: canvas.getContext("2d"), picture: root.querySelector(".picture"),
    slider: root.querySelector("input"), caption: root.querySelector("figcaption span"),
    lines: [root.querySelector(".across"), root.querySelector(".down")], image: null,
  };
  ["left", "right", "top", "bottom"].forEach((side, i) => (root.querySelector(`.${side}`).textContent = plane.marks[i]));
  canvas.dataset.plane = `${slot.kind}-${plane.name.toLowerCase()}`;
  one.slider.setAttribute("aria-label", `${KINDS[slot.kind]}, ${plane.name.toLowerCase()} slice`);
  one.slider.oninput = () => goTo(one.slot.volume, one.through, Number(one.slider.value));
  root.onwheel = (event) => { event.preventDefault(); scroll(one, event.deltaY < 0 ? 1 : -1); };
  root.onkeydown = (event) => onKey(one, event);
  one.picture.oncontextmenu = (event) => event.preventDefault();
  one.picture.onpointerdown = (event) => onPress(one, event);
  return one;
}

const indexOf = (volume, axis) =>
  Math.min(volume.shape[axis] - 1, Math.max(0, Math.round(at[axis] / volume.spacing[axis] + (volume.shape[axis] - 1) / 2)));

function goTo(volume, axis, index) {
  const inside = Math.min(volume.shape[axis] - 1, Math.max(0, index));
  at[axis] = (inside - (volume.shape[axis] - 1) / 2) * volume.spacing[axis];
  redraw();
}

function scroll(one, by) {
  if (one.slot.volume) goTo(one.slot.volume, one.through, indexOf(one.slot.volume, one.through) + by);
}

function onKey(one, event) {
  const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
  if (!(event.key in steps) || event.target !== one.root) return;
  event.preventDefault();
  scroll(one, steps[event.key]);
}

function onPress(one, event) {
  if (!one.slot.volume) return;
  event.preventDefault();
  one.root.focus({ preventScroll: true });
  const windowing = event.button === 2 || event.shiftKey;
  const [x, y, low, high] = [event.clientX, event.clientY, view.low, view.high];
  const move = (now) => {
    if (windowing) {
      const step = (view.listing.window[1] - view.listing.window[0]) / 400; // 400 pixels: the whole range
      setWindow((low + high) / 2 + (now.clientY - y) * step, high - low + (now.clientX - x) * step);
    } else {
      const box = one.canvas.getBoundingClientRect();
      const { shape } = one.slot.volume;
      const column = Math.floor(((now.clientX - box.left) / box.width) * shape[one.across]);
      const row = Math.floor(((now.clientY - box.top) / box.height) * shape[one.down]);
      goTo(one.slot.volume, one.across, shape[one.across] - 1 - column);
      goTo(one.slot.volume, one.down, shape[one.down] - 1 - row);
    }
  };
  one.picture.setPointerCapture(event.pointerId);
  one.picture.onpointermove = move;
  one.picture.onpointerup = one.picture.onpointercancel = () => (one.picture.onpointermove = null);
  if (!windowing) move(event);
}

// --- window ---------------------------------------------------------------------------------------------------------

function makeTools() {
  const [low, high] = view.listing.window;
  for (const [id, min, max] of [["level", low, high], ["width", 0, 2 * (high - low)]]) {
    Object.assign(byId(id), { min, max, step: "any" });
    byId(id).oninput = () => setWindow(Number(byId("level").value), Number(byId("width").value));
  }
  byId("reset").onclick = () => { at.fill(0); setWindow((low + high) / 2, high - low); };
  setWindow((low + high) / 2, high - low);
}

function setWindow(level, width) {
  const [low, high] = view.listing.window;
  const wide = Math.max(width, (high - low) / 1000);
  [view.low, view.high] = [level - wide / 2, level + wide / 2];
  [byId("level").value, byId("width").value] = [level, wide];
  const digits = high - low > 20 ? 0 : 3;
  [byId("level-value").value, byId("width-value").value] = [level.toFixed(digits), wide.toFixed(digits)];
  redraw();
}

// --- drawing --------------------------------------------------------------------------------------------------------

function redraw() { // once for all that changed before the screen is drawn
  if (view.waiting) return;
  view.waiting = true;
  requestAnimationFrame(draw);
}

function draw() {
  view.waiting = false;
  for (const slot of view.slots) {
    slot.root.querySelector(".planes").hidden = !slot.volume;
    if (slot.volume) drawSlot(slot);
  }
}

function drawSlot(slot) {
  const { shape, spacing, unit, voxels, modality, oblique } = slot.volume;
  for (const one of slot.planes) if (!one.root.hidden) drawPlane(one, slot.volume);
  const [i, j, k] = [0, 1, 2].map((axis) => indexOf(slot.volume, axis));
  const value = voxels[i + shape[0] * (j + shape[1] * k)];
  slot.root.querySelector(".facts").textContent =
    `${modality}, ${shape.join(" × ")} voxels of ${spacing.map((mm) => Number(mm.toFixed(2))).join(" × ")} mm\n` +
    `At the crosshair: ${Number(value.toFixed(2))} ${unit}` + (oblique ? `\nAxes ${oblique}° off the patient's` : "");
}

function drawPlane(one, { shape, voxels }) {
  const volume = one.slot.volume;
  const strides = [1, shape[0], shape[0] * shape[1]];
  const [columns, rows, slice] = [shape[one.across], shape[one.down], indexOf(volume, one.through)];
  const [step, low, scale] = [strides[one.across], view.low, 255 / (view.high - view.low)];
  const pixels = new Uint32Array(one.image.data.buffer);
  for (let row = 0, pixel = 0; row < rows; row++) {
    let voxel = slice * strides[one.through] + (rows - 1 - row) * strides[one.down] + (columns - 1) * step;
    for (let column = 0; column < columns; column++, pixel++, voxel -= step) {
      const grey = Math.min(255, Math.max(0, (voxels[voxel] - low) * scale + 0.5)) | 0;
      pixels[pixel] = 0xff000000 | (grey * 0x010101);
    }
  }
  one.context.putImageData(one.image, 0, 0);
  one.slider.value = slice;
  one.caption.textContent = `${one.name} ${slice + 1}/${shape[one.through]}`;
  one.lines[0].style.top = `${(100 * (rows - 0.5 - indexOf(volume, one.down))) / rows}%`;
  one.lines[1].style.left = `${(100 * (columns - 0.5 - indexOf(volume, one.across))) / columns}%`;
  if (asked.has("debug")) tell(one, columns, rows);
}

function tell(one, columns, rows) { // what is on the canvas, for tests: size and grey values, row by row
  const { data } = one.context.getImageData(0, 0, columns, rows);
  const greys = [];
  for (let byte = 0; byte < data.length; byte += 4) greys.push(data[byte]);
  one.canvas.dataset.pixels = `${columns}x${rows}:${greys.join(",")}`;
}

start().catch((error) => {
  byId("banner").hidden = false;
  byId("banner").textContent = `This page could not be drawn: ${error.message}`;
});
