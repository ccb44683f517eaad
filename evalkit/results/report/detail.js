// One sample: its pictures with boxes, question, target, every chosen cell's answer.
const isBox = (value) => Array.isArray(value) && value.length === 4 && value.every((v) => typeof v === "number" && Number.isFinite(v));

function iouOf(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const overlap = Math.max(0, width) * Math.max(0, height);
  const area = (c) => Math.max(0, c[2] - c[0]) * Math.max(0, c[3] - c[1]);
  const union = area(a) + area(b) - overlap;
  return union > 0 ? overlap / union : 0;
}

function Boxes({ width, height, boxes }) {
  return html`<svg viewBox=${`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true">${boxes.map(({ corners: [x1, y1, x2, y2], stroke, dashed }, i) => html`
    <rect key=${i} x=${Math.min(x1, x2)} y=${Math.min(y1, y2)} width=${Math.abs(x2 - x1)} height=${Math.abs(y2 - y1)} fill="none" style=${{ stroke }}
      stroke-width="2.5" vector-effect="non-scaling-stroke" stroke-dasharray=${dashed ? "6 4" : null} />`)}</svg>`;
}

// A picture, or a clip: its frames, and the clip itself where a server can play it.
function Picture({ media, boxes, sources, marks }) {
  const [large, setLarge] = useState(false), video = useRef();
  if (media.fault) return html`<${Fault}>no picture: ${media.fault}</${Fault}>`;
  if (!media.src) return html`<p class="note">picture of ${media.width} x ${media.height} pixels, left out</p>`;
  const src = media.src.startsWith("#") ? sources[Number(media.src.slice(1))] : media.src;
  const shown = html`<img src=${src} alt=${media.clip ? "frames of the clip that the model was shown" : "the picture that the model was shown"} />
    ${boxes.length > 0 && !media.clip && html`<${Boxes} width=${media.width} height=${media.height} boxes=${boxes} />`}`;
  return html`<figure><button class="picture" onClick=${() => setLarge(true)} title="enlarge (z)" data-enlarge>${shown}</button>
    <figcaption>${media.clip ? `${media.shown ? "frames that the model was shown" : "evenly spaced frames of the clip"}, at ${(media.times ?? []).map((t) => number(t, 2)).join(", ")} s` : `${media.width} x ${media.height} pixels`}</figcaption>
    ${media.play && html`<video ref=${video} src=${media.play} controls preload="metadata" aria-label="the clip"></video>`}
    ${media.clip && html`<${TimeLine} seconds=${media.seconds ?? 0} marks=${marks} video=${media.play ? video : null} />`}
    ${large && html`<${Enlarged} close=${() => setLarge(false)}>${shown}</${Enlarged}>`}</figure>`;
}

// When the frames stand in a clip that each model was really shown; where the clip plays, they lead to it.
function TimeLine({ seconds, marks, video }) {
  const there = marks.filter(({ times }) => times?.length);
  if (!there.length) return null;
  const end = Math.max(seconds, ...there.flatMap(({ times }) => times), 1e-3);
  const seek = (time) => { video.current.pause(); video.current.currentTime = time; };
  const step = (times, by) => {
    const now = video.current.currentTime, next = by > 0 ? times.find((t) => t > now + 0.01) : times.findLast((t) => t < now - 0.01);
    if (next !== undefined) seek(next);
  };
  return html`<ul class="timelines">${there.map(({ k, label, times }) => html`<li key=${k}><span><${Swatch} i=${k} />${label}: ${times.length} ${times.length === 1 ? "frame" : "frames"} of ${number(end, 1)} s
      ${video && html`<button onClick=${() => step(times, -1)} aria-label=${`the frame before that ${label} was shown`}>‹</button><button onClick=${() => step(times, 1)} aria-label=${`the next frame that ${label} was shown`}>›</button>`}</span>
    <svg class="timeline" viewBox="0 0 1000 16" preserveAspectRatio="none" role="img" aria-label=${`frames shown at ${times.map((t) => number(t, 2)).join(", ")} seconds`}
      onClick=${video && ((e) => { const box = e.currentTarget.getBoundingClientRect(), at = ((e.clientX - box.left) / box.width) * end; seek(times.reduce((a, b) => (Math.abs(b - at) < Math.abs(a - at) ? b : a))); })}>
      <line x1="0" x2="1000" y1="8" y2="8" class="grid" />${times.map((t, i) => html`<line key=${i} x1=${(t / end) * 1000} x2=${(t / end) * 1000} y1="1" y2="15" style=${{ stroke: colour(k) }}><title>${number(t, 2)} s</title></line>`)}</svg></li>`)}</ul>`;
}

// The picture over the page; the wheel, + and - zoom, dragging scrolls.
function Enlarged({ close, children }) {
  const [zoom, setZoom] = useState(1), dialog = useRef();
  useEffect(() => {
    dialog.current.showModal();
    return () => dialog.current?.close();
  }, []);
  const step = (factor) => setZoom((z) => Math.min(16, Math.max(0.25, z * factor)));
  return html`<dialog ref=${dialog} class="enlarged" onClose=${close} aria-label="enlarged picture"
    onWheel=${(e) => { e.preventDefault(); step(e.deltaY < 0 ? 1.2 : 1 / 1.2); }}
    onKeyDown=${(e) => { if (e.key === "+") step(1.2); if (e.key === "-") step(1 / 1.2); e.stopPropagation(); }}>
    <div class="controls"><button onClick=${() => step(1.2)}>larger</button><button onClick=${() => step(1 / 1.2)}>smaller</button><span>${Math.round(zoom * 100)} %</span><button onClick=${close}>close</button></div>
    <div class="canvas"><div class="picture" style=${{ width: `${zoom * 90}vw` }}>${children}</div></div></dialog>`;
}

// Differences letter by letter, by graphemes: a letter with its marks is one, in any script.
const segments = (text) => (globalThis.Intl?.Segmenter ? Array.from(new Intl.Segmenter().segment(text), (s) => s.segment) : Array.from(text));
const MOST_LETTERS = 1500;
function lettersOf(from, to) {
  const a = segments(from), b = segments(to);
  let head = 0, tail = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const x = a.slice(head, a.length - tail), y = b.slice(head, b.length - tail);
  const out = [["same", a.slice(0, head)]];
  if (x.length * y.length > MOST_LETTERS * MOST_LETTERS) out.push(["absent", x], ["added", y]);
  else {
    const table = Array.from({ length: x.length + 1 }, () => new Uint16Array(y.length + 1)); // longest common subsequences
    for (let i = x.length - 1; i >= 0; i--) for (let j = y.length - 1; j >= 0; j--) table[i][j] = x[i] === y[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    let i = 0, j = 0;
    while (i < x.length || j < y.length) {
      if (i < x.length && j < y.length && x[i] === y[j]) { out.push(["same", [x[i]]]); i += 1; j += 1; }
      else if (j >= y.length || (i < x.length && table[i + 1][j] >= table[i][j + 1])) out.push(["absent", [x[i++]]]);
      else out.push(["added", [y[j++]]]);
    }
  }
  out.push(["same", tail ? a.slice(-tail) : []]);
  const runs = [];
  for (const [kind, letters] of out) {
    if (!letters.length) continue;
    if (runs.length && runs[runs.length - 1][0] === kind) runs[runs.length - 1][1] += letters.join("");
    else runs.push([kind, letters.join("")]);
  }
  return runs;
}

function Letters({ from, to, named }) {
  const runs = useMemo(() => lettersOf(from, to), [from, to]);
  return html`<p class="note legend-of-letters"><del>abc</del> ${named}, not in the answer; <ins>abc</ins> in the answer alone</p><div class="said letters" dir="auto">${runs.map(([kind, text], i) => kind === "same" ? html`<span key=${i}>${text}</span>`
    : kind === "absent" ? html`<del key=${i} title=${`${named}, not in the answer`}>${text}</del>` : html`<ins key=${i} title="in the answer alone">${text}</ins>`)}</div>`;
}

// An answer as it is shown: one without a letter would look like one that is missing.
const saidText = (text) => (typeof text === "string" && !text.trim() ? "(empty)" : text);

function targetText(sample) {
  const { target, choices } = sample;
  if (target === null || target === undefined) return "none";
  if (Number.isInteger(target) && choices.length) return choices[target] ?? String(target);
  if (Array.isArray(target)) return isBox(target) ? target.map((v) => number(v)).join(", ") : target.map(String).join("\n");
  return typeof target === "object" ? JSON.stringify(target) : String(target);
}

function nearestTarget(sample, text) {
  const { target, choices } = sample;
  const all = Array.isArray(target) ? target.filter((t) => typeof t === "string") : typeof target === "string" ? [target] : [];
  if (!all.length || choices.length) return null;
  const common = (t) => lettersOf(t, text).reduce((n, [kind, run]) => n + (kind === "same" ? run.length : -run.length), 0);
  return all.length === 1 ? all[0] : all.reduce((a, b) => (common(b) > common(a) ? b : a));
}

function Detail({ columns, at, results, notes, boxesOn, wanted }) {
  const { part, cells } = columns;
  const [texts, error] = usePromise(() => textsOf(part, cells, at), [part.doc, at, part.count, cells.map((c) => `${c.doc}${c.asked}`).join()]);
  const [sources] = usePromise(() => (document.getElementById("document-pictures") ? documentOf("pictures") : { srcs: [] }), []);
  const [media] = usePromise(() => {
    if (!texts?.sample) return [];
    if (texts.sample.media) return texts.sample.media;
    return fetchJson(`media/${part.doc}/${at}.json`).then((v) => v.media, (e) => [{ fault: e.message }]);
  }, [texts]);
  const [against, setAgainst] = useState("target");
  if (error) return html`<${Fault}>${error}</${Fault}>`;
  if (!texts?.sample || !media || !sources) return html`<p class="note">reading …</p>`;
  const { sample, answers } = texts;
  const boxes = [];
  const isBoxTask = isBox(sample.target) && (part.metric?.name ?? "").startsWith("acc@");
  if (isBox(sample.target) && boxesOn) boxes.push({ corners: sample.target, stroke: "var(--truth)" });
  answers.forEach((a, k) => { if (isBox(a?.parsed) && boxesOn) boxes.push({ corners: a.parsed, stroke: colour(k), dashed: true }); });
  return html`<article class="detail" aria-label="sample">
    <header><h2 dir="auto">${saidText(sample.id)}</h2><span><${SampleLink} address=${addressOfSample(part, cells, sample.id)} />
      <${Copy} text=${() => asText(columns, sample, answers)} /></span></header><${Reach} />
    ${media.map((m, i) => html`<${Picture} key=${i} media=${m} boxes=${i === 0 ? boxes : []} sources=${sources.srcs ?? []} marks=${marksOf(media, i, cells, answers)} />`)}
    <h3>Question</h3><${Said} text=${sample.question || "not recorded"} />
    ${areChoicesApart(sample, answers) && html`<h3>Choices</h3><ol class="choices">${sample.choices.map((c, i) => html`<li key=${i} class=${i === sample.target ? "truth" : ""} dir="auto">${c}
      ${answers.map((a, k) => a?.logprobs && html`<span class="count"><${Swatch} i=${k} />${number(a.logprobs[i], 2)}</span>`)}</li>`)}</ol>`}
    <h3><span class="swatch" style=${{ background: "var(--truth)" }}></span>Target</h3><${Said} text=${targetText(sample)} />
    ${cells.length > 1 && html`<div class="controls"><${Choice} label="letters compared with" value=${against} onChange=${setAgainst} options=${[["target", "the target"], ["0", cells[0].label], ["none", "nothing"]]} /></div>`}
    <div class="answers">${cells.map((cell, k) => html`<${Answer} key=${cell.doc} k=${k} cell=${cell} answer=${answers[k]} sample=${sample} isBoxTask=${isBoxTask}
      other=${against === "none" ? null : against === "0" && k > 0 ? answers[0]?.text : nearestTarget(sample, answers[k]?.text ?? "")} named=${against === "0" && k > 0 ? "in the first answer" : "in the target"} />`)}</div>
    <${NoteOn} notes=${notes} part=${part} sample=${sample} live=${results.live} />
    <details open=${false}><summary>Metadata</summary><dl>${[["cluster", sample.cluster], ...Object.entries(sample.metadata)].map(([name, value]) => html`<dt key=${name}>${name}</dt><dd dir="auto">${typeof value === "string" ? value : JSON.stringify(value)}</dd>`)}</dl></details>
    ${cells[0]?.command && html`<details><summary>Ask this sample again</summary><pre class="command">${askAgain(cells[0].command, sample.id)}</pre></details>`}
  </article>`;
}

// Whether options say anything that the question as sent does not: how likely each was, or what they are.
function areChoicesApart({ question, choices }, answers) {
  return choices.length > 0 && (answers.some((a) => a?.logprobs) || !choices.every((choice) => question.includes(choice)));
}

// The times of the frames that each model was shown of the i-th of a sample's media.
function marksOf(media, i, cells, answers) {
  const clip = media.slice(0, i).filter((m) => m.clip).length;
  return cells.map((cell, k) => ({ k, label: cell.label, times: answers[k]?.frames?.[clip] }));
}

const quoted = (text) => (/^[\w./:@%+-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`);
function askAgain(command, id) {
  if (!command.startsWith("evalkit run")) return `${command}   # with ids=[${JSON.stringify(id)}], fresh=True`;
  return `${command.replace(/ --(limit|seed|sample-id)(=| )\S+/g, "")} --sample-id ${quoted(id)} --fresh --output try`;
}

// Records hold no reason: what can be seen of the answer, else what its task looks for.
function whyUnparsed({ text, parsed, finish }, { target, choices }, isBoxTask) {
  if (!text?.trim()) return "the answer is empty";
  const cut = finish === "length" ? "; it was cut off at the limit of tokens" : "";
  const read = typeof parsed === "string" && parsed.trim();
  if (choices.length) return `${read ? `“${read}” is not among the options` : "it does not name exactly one of the options"}${cut}`;
  if (isBox(target)) return `${isBoxTask ? "no box" : "no point"} in it that the task's rule can read${cut}`;
  if (/^(yes|no)$/i.test(target)) return `neither yes nor no in it that the task's rule can read${cut}`;
  return `no answer in it that the task's rule can read${cut}`;
}

function Answer({ k, cell, answer, sample, other, named, isBoxTask }) {
  if (!answer) return html`<section><h3><${Swatch} i=${k} />${cell.label}</h3><p class="note">not asked</p></section>`;
  const facts = [
    ...Object.entries(answer.scores ?? {}).map(([name, value]) => [name, number(value, 3)]),
    ...(isBoxTask && isBox(answer.parsed) && answer.scores?.iou === undefined ? [["IoU with the target", number(iouOf(answer.parsed, sample.target), 3)]] : []),
    ["read as", answer.unparsed ? `could not be read (unparsed): ${whyUnparsed(answer, sample, isBoxTask)}` : answer.parsed === undefined ? null : Array.isArray(answer.parsed) ? answer.parsed.map((v) => (typeof v === "number" ? number(v) : v)).join(", ") : String(answer.parsed)],
    ["finish", answer.finish], ["tokens", answer.tokens && `${answer.tokens[0]} text, ${answer.tokens[1]} visual in; ${answer.tokens[2]} out`],
    ["seconds", answer.seconds], ["prompt", answer.prompt],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  return html`<section class="answer"><h3><${Swatch} i=${k} />${cell.label}</h3>
    ${answer.error ? html`<${Fault}>error${answer.failed_in ? ` in ${answer.failed_in}` : ""}: ${answer.error}</${Fault}>` : null}
    ${answer.text !== undefined && (typeof other === "string" && other !== answer.text && answer.text.trim() && !answer.error ? html`<${Letters} from=${other} to=${answer.text} named=${named} />` : html`<${Said} text=${saidText(answer.text)} />`)}
    <dl>${facts.map(([name, value]) => html`<dt key=${name}>${name}</dt><dd dir="auto">${value}</dd>`)}</dl></section>`;
}

function NoteOn({ notes, part, sample, live }) {
  const note = notes.of(part).get(sample.id);
  const [text, setText] = useState(note?.text ?? "");
  const [fault, setFault] = useState("");
  useEffect(() => { setText(note?.text ?? ""); setFault(""); }, [sample.id, note?.created]);
  const send = (flag) => notes.add({ task: part.task, data: part.data, id: sample.id, flag, text: flag ? text : "" }).then(() => setFault(""), (e) => setFault(e.message));
  if (!live) return note ? html`<h3>Note</h3><p><strong>${note.flag}</strong> <span dir="auto">${note.text}</span></p>` : null;
  return html`<h3>Note${note ? `: ${note.flag}` : ""}</h3>
    <div class="controls note-editor"><label>in a sentence <input value=${text} maxlength="2000" onInput=${(e) => setText(e.target.value)} dir="auto" /></label>
      ${notes.flags.map((flag) => html`<button key=${flag} aria-pressed=${note?.flag === flag} onClick=${() => send(flag)}>${flag}</button>`)}
      ${note && html`<button onClick=${() => send(null)}>take back</button>`}</div>
    ${fault && html`<${Fault}>${fault}</${Fault}>`}`;
}
