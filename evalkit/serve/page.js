"use strict";
const $ = (id) => document.getElementById(id);
let model = null;

const headers = () => {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
};

async function known() {
  if (model) return model;
  const reply = await fetch("v1/models", { headers: headers() });
  const said = await reply.json();
  if (!reply.ok) throw new Error(said.error.message);
  model = said.data[0];
  $("model").textContent = model.id;
  document.title = model.id;
  return model;
}

const asDataUrl = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

function show() {
  $("shown").replaceChildren(...[...$("files").files].map((file) => {
    const frame = document.createElement("div");
    const video = file.type.startsWith("video/");
    const media = document.createElement(video ? "video" : "img");
    media.src = URL.createObjectURL(file);
    media.controls = video;
    if (!video) media.alt = file.name;
    frame.append(media);
    return frame;
  }));
}

// Boxes as (x1,y1),(x2,y2) in thousandths of the picture, over the first one.
function draw(text) {
  const frame = $("shown").firstElementChild;
  frame?.querySelector("svg")?.remove();
  if (!frame || !(model.box_space || "").startsWith("norm1000")) return;
  const found = [...text.matchAll(/\((\d+),\s*(\d+)\)\s*,\s*\((\d+),\s*(\d+)\)/g)];
  if (!found.length) return;
  const make = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
  const svg = make("svg");
  svg.setAttribute("viewBox", "0 0 1000 1000");
  svg.setAttribute("preserveAspectRatio", "none");
  for (const [, x1, y1, x2, y2] of found) {
    const rect = make("rect");
    const place = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    for (const [name, value] of Object.entries(place)) rect.setAttribute(name, Math.max(value, 0));
    svg.append(rect);
  }
  frame.append(svg);
}

async function ask() {
  const { id } = await known();
  const content = [];
  for (const file of $("files").files) {
    const kind = file.type.startsWith("video/") ? "video_url" : "image_url";
    content.push({ type: kind, [kind]: { url: await asDataUrl(file) } });
  }
  content.push({ type: "text", text: $("question").value });
  const body = {
    model: id,
    messages: [{ role: "user", content }],
    max_tokens: Number($("tokens").value) || 128,
    stream: true,
  };
  if ($("pixels").value) body.mm_processor_kwargs = { max_pixels: Number($("pixels").value) };
  const reply = await fetch("v1/chat/completions", {
    method: "POST", headers: headers(), body: JSON.stringify(body),
  });
  if (!reply.ok) throw new Error((await reply.json()).error.message);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (waiting + value).split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const said = JSON.parse(data);
      if (said.error) throw new Error(said.error.message);
      $("answer").textContent += said.choices[0]?.delta.content || "";
    }
  }
}

$("files").addEventListener("change", show);
$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const started = performance.now();
  $("answer").textContent = "";
  $("state").className = "";
  $("state").textContent = "…";
  try {
    await ask();
    draw($("answer").textContent);
    $("state").textContent = `${((performance.now() - started) / 1000).toFixed(1)} s`;
  } catch (error) {
    $("state").className = "failed";
    $("state").textContent = error.message;
  }
});
known().catch(() => {});
