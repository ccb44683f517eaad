"use strict";
// Everything from the contents goes on the page through textContent and attributes, never as markup.
const ROW = 28;
const $ = (id) => document.getElementById(id);
const state = { a: 0, b: -1, shown: [], at: 0, boxes: true };
let holds, byPlace;

function node(tag, text, classes) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

function theme(dark) {
  document.documentElement.classList.toggle("dark", dark);
}

function start() {
  holds = JSON.parse($("contents").textContent);
  $("contents").remove();
  byPlace = holds.cells.map((cell) => new Map(cell.answers.map((answer) => [answer.sample, answer])));
  for (const [i, cell] of holds.cells.entries()) {
    $("a").append(new Option(`${holds.tasks[cell.task].name}: ${cell.label}`, i));
  }
  $("faults").textContent = holds.faults.join("; ");
  chooseA(0);
}

function chooseA(index) {
  state.a = index;
  state.b = -1;
  $("b").replaceChildren(new Option("none", -1));
  for (const [i, cell] of holds.cells.entries()) {
    if (i !== index && cell.task === holds.cells[index].task) $("b").append(new Option(cell.label, i));
  }
  filter();
}

function task() {
  return holds.tasks[holds.cells[state.a].task];
}

function fits(kind, answer, other, best, worst) {
  const { score, unparsed, error } = answer;
  switch (kind) {
    case "wrong": return score === worst;
    case "right": return score === best;
    case "partly": return score !== undefined && score !== best && score !== worst;
    case "unparsed": return Boolean(unparsed);
    case "error": return Boolean(error);
    case "changed": return other !== undefined && (other.score !== score || other.text !== answer.text);
    default: return true;
  }
}

function searchable(place) {
  const sample = task().samples[place];
  sample.search ??= [sample.id, sample.question, JSON.stringify(sample.metadata), JSON.stringify(sample.target)].join(" ").toLowerCase();
  return sample.search;
}

function filter() {
  const cell = holds.cells[state.a];
  const kind = $("only").value, words = $("words").value.toLowerCase();
  const others = state.b >= 0 ? byPlace[state.b] : new Map();
  const kept = state.shown[state.at]?.sample;
  state.shown = cell.answers.filter((answer) =>
    fits(kind, answer, others.get(answer.sample), cell.best, cell.worst)
    && (!words || searchable(answer.sample).includes(words) || (answer.text ?? "").toLowerCase().includes(words)));
  state.at = Math.max(0, state.shown.findIndex((answer) => answer.sample === kept));
  $("count").textContent = `${state.shown.length} of ${cell.answers.length}`;
  $("rows").style.height = `${state.shown.length * ROW}px`;
  $("list").scrollTop = Math.max(0, state.at * ROW - 5 * ROW);
  paint();
  detail();
}

function paint() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(state.shown.length, first + Math.ceil(list.clientHeight / ROW) + 10);
  const rows = [];
  for (let i = first; i < last; i++) {
    const answer = state.shown[i];
    const row = node("div", null, i === state.at ? "row chosen" : "row");
    row.style.top = `${i * ROW}px`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", i === state.at);
    row.append(node("span", task().samples[answer.sample].id, "id"), node("span", score(answer), "score"));
    if (state.b >= 0) row.append(node("span", score(byPlace[state.b].get(answer.sample)), "score said-b"));
    row.append(node("span", answer.error ? `error: ${answer.error}` : answer.text, "said"));
    row.addEventListener("click", () => go(i));
    rows.push(row);
  }
  $("rows").replaceChildren(...rows);
}

function score(answer) {
  if (!answer) return "–";
  if (answer.error) return "error";
  return answer.score === undefined ? "–" : answer.score.toFixed(2) + (answer.unparsed ? "?" : "");
}

function go(i) {
  if (!state.shown.length) return;
  state.at = Math.min(Math.max(i, 0), state.shown.length - 1);
  const list = $("list"), top = state.at * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  paint();
  detail();
}

function isBox(value) {
  return Array.isArray(value) && value.length === 4 && value.every((v) => typeof v === "number");
}

function box(corners, colour, dashed) {
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const [x1, y1, x2, y2] = corners;
  const put = { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1), fill: "none" };
  for (const [key, value] of Object.entries(put)) rect.setAttribute(key, value);
  rect.style.stroke = `var(--${colour})`;
  rect.setAttribute("stroke-width", 2.5);
  rect.setAttribute("vector-effect", "non-scaling-stroke");
  if (dashed) rect.setAttribute("stroke-dasharray", "6 4");
  return rect;
}

function picture(media, boxes) {
  if (media.fault) return node("p", `no picture: ${media.fault}`, "fault");
  if (!media.src) return node("p", `picture of ${media.width} x ${media.height} pixels, left out`, "label");
  const frame = node("div", null, "picture");
  const image = document.createElement("img");
  image.loading = "lazy";
  image.alt = "what the model was shown";
  image.src = media.src;
  frame.append(image);
  if (boxes.length && state.boxes) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${media.width} ${media.height}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.append(...boxes);
    frame.append(svg);
  }
  return frame;
}

function field(label, text, classes) {
  const part = node("div");
  part.append(node("div", label, "label"), node("pre", text, classes));
  return part;
}

function detail() {
  const place = $("detail");
  const answer = state.shown[state.at];
  if (!answer) { place.replaceChildren(node("p", "No sample fits.")); return; }
  const sample = task().samples[answer.sample];
  const other = state.b >= 0 ? byPlace[state.b].get(answer.sample) : undefined;
  const boxes = [];
  if (task().boxes) {
    if (isBox(sample.target)) boxes.push(box(sample.target, "truth", false));
    if (isBox(answer.box)) boxes.push(box(answer.box, "said", true));
    if (other && isBox(other.box)) boxes.push(box(other.box, "other", true));
  }
  const parts = sample.media.map((place, i) => picture(holds.pictures[place], i === 0 ? boxes : []));
  parts.push(field("question", sample.question ?? "(not in the data at hand)"));
  if (sample.choices?.length) parts.push(field("choices", sample.choices.join("\n")));
  const target = Array.isArray(sample.target) ? sample.target.join(isBox(sample.target) ? ", " : "\n") : sample.target;
  parts.push(field("target", Number.isInteger(sample.target) && sample.choices?.length ? sample.choices[sample.target] : target, "truth"));
  const answers = node("div", null, "answers");
  for (const [which, said, classes] of [[state.a, answer, "said-a"], [state.b, other, "said-b"]]) {
    if (!said) continue;
    const cell = holds.cells[which];
    const all = said.scores ? Object.entries(said.scores).map(([name, value]) => `${name} ${value.toFixed(2)}`).join(", ") : `${cell.metric} ${score(said)}`;
    const how = said.error ? "error" : `${all}${said.unparsed ? ", unparsed" : ""}`;
    answers.append(field(`${cell.label}: ${how}`, said.error ?? said.text, classes));
  }
  parts.push(answers, field("sample", `${sample.id}, cluster ${sample.cluster}, ${JSON.stringify(sample.metadata)}`));
  place.replaceChildren(...parts);
  place.scrollTop = 0;
}

theme(matchMedia("(prefers-color-scheme: dark)").matches);
$("theme").addEventListener("click", () => theme(!document.documentElement.classList.contains("dark")));
$("a").addEventListener("change", () => chooseA(Number($("a").value)));
$("b").addEventListener("change", () => { state.b = Number($("b").value); filter(); });
$("only").addEventListener("change", filter);
$("words").addEventListener("input", filter);
$("list").addEventListener("scroll", paint, { passive: true });
addEventListener("resize", paint);
addEventListener("keydown", (event) => {
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { j: () => go(state.at + 1), ArrowDown: () => go(state.at + 1), k: () => go(state.at - 1), ArrowUp: () => go(state.at - 1),
    "/": () => $("words").focus(), b: () => { state.boxes = !state.boxes; detail(); }, t: () => $("theme").click() };
  if (keys[event.key] && (!event.key.startsWith("Arrow") || document.activeElement === $("list"))) { event.preventDefault(); keys[event.key](); }
});
requestAnimationFrame(() => setTimeout(start));
