// Charts: every bar leads to its samples. Drawn here as SVG, in the page's own colours.
const W = 560, H = 240, LEFT = 46, BOTTOM = 46, TOP = 26, RIGHT = 12;

function axisSteps(low, high, most = 5) {
  const raw = (high - low || 1) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw);
  const out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step) out.push(Number(v.toPrecision(12)));
  return out;
}

// Bars in groups: items [{name, bars: [{value, low, high, n, href}|null]}], a bar for each cell.
// Dragging from one group to another leads to the samples of all between them, by `brush(first, last)`.
function Bars({ title, label, items, cells, high, brush }) {
  const [drag, setDrag] = useState(null);
  const wide = Math.max(W, LEFT + RIGHT + items.length * Math.max(34, cells.length * 16 + 12));
  const values = items.flatMap((item) => item.bars.flatMap((b) => (b ? [b.value, b.high ?? b.value, b.low ?? b.value] : [])));
  const top = Math.max(high ?? 0, ...values, 1e-9), bottom = Math.min(0, ...values);
  const y = (v) => TOP + (H - TOP - BOTTOM) * (1 - (v - bottom) / (top - bottom));
  const slot = (wide - LEFT - RIGHT) / Math.max(items.length, 1), bar = Math.min(28, (slot - 8) / cells.length);
  const at = (e) => Math.max(0, Math.min(items.length - 1, Math.floor((e.clientX - e.currentTarget.getBoundingClientRect().left - LEFT) / slot)));
  const end = (e) => {
    if (drag && drag[0] !== at(e)) location.hash = brush(Math.min(drag[0], at(e)), Math.max(drag[0], at(e)));
    setDrag(null);
  };
  return html`<figure class="chart"><figcaption>${title}</figcaption><div class="wide" tabindex="0" role="region" aria-label=${title}>
    <svg width=${wide} height=${H} role="group" aria-label=${title} class=${brush ? "brushed" : ""} onDragStart=${(e) => e.preventDefault()}
      onPointerDown=${brush && ((e) => setDrag([at(e), at(e)]))} onPointerMove=${drag && ((e) => setDrag([drag[0], at(e)]))} onPointerUp=${drag && end} onPointerLeave=${drag && (() => setDrag(null))}>
      ${drag && drag[0] !== drag[1] && html`<rect class="brush" x=${LEFT + slot * Math.min(...drag)} y=${TOP} width=${slot * (Math.abs(drag[1] - drag[0]) + 1)} height=${H - TOP - BOTTOM} />`}
      ${axisSteps(bottom, top).map((v) => html`<g key=${v}><line x1=${LEFT} x2=${wide - RIGHT} y1=${y(v)} y2=${y(v)} class="grid" /><text x=${LEFT - 6} y=${y(v) + 4} text-anchor="end">${v}</text></g>`)}
      <text x="4" y="11">${label}</text>
      ${items.map((item, i) => html`<g key=${item.name}>
        ${item.bars.map((b, k) => {
          if (!b) return null;
          const x = LEFT + slot * i + (slot - bar * cells.length) / 2 + bar * k;
          const words = `${item.name}, ${cells[k].label}: ${number(b.value)}${b.low !== null && b.low !== undefined ? ` (${number(b.low)} to ${number(b.high)})` : ""}, n ${b.n}`;
          return html`<a key=${k} href=${b.href} aria-label=${words}><title>${words}</title>
            <rect x=${x} y=${Math.min(y(b.value), y(0))} width=${Math.max(bar - 2, 1)} height=${Math.max(Math.abs(y(b.value) - y(0)), 1)} style=${{ fill: colour(k) }} />
            ${b.low !== null && b.low !== undefined && ["halo", "error-bar"].map((layer) => html`<line key=${layer} x1=${x + bar / 2 - 1} x2=${x + bar / 2 - 1} y1=${y(b.low)} y2=${y(b.high)} class=${layer} />`)}</a>`;
        })}
        <text x=${LEFT + slot * (i + 0.5)} y=${H - BOTTOM + 15} text-anchor="middle">${item.name.length > slot / 6 ? `${item.name.slice(0, Math.max(3, slot / 6 - 1))}…` : item.name}<title>${item.name}</title></text>
        <text x=${LEFT + slot * (i + 0.5)} y=${H - BOTTOM + 29} text-anchor="middle" class="faint">${item.note}</text></g>`)}
    </svg></div></figure>`;
}

function Legend({ cells }) {
  return html`<ul class="legend">${cells.map((cell, k) => html`<li key=${cell.doc}><${Swatch} i=${k} />${cell.label}</li>`)}</ul>`;
}

// Bins of equal counts would hide gaps: bins are of equal width, or logarithmic where values spread.
function binsOf(values, most = 10) {
  const there = values.filter((v) => v !== null && v !== undefined);
  if (!there.length) return [];
  let low = Infinity, high = -Infinity, whole = true;
  for (const v of there) { low = Math.min(low, v); high = Math.max(high, v); whole &&= Number.isInteger(v); }
  if (low === high) return [[low, high]];
  if (whole && high - low < most) return Array.from({ length: high - low + 1 }, (_, i) => [low + i, low + i]);
  const log = low > 0 && high / low > 50;
  const edge = (i) => { const v = log ? low * (high / low) ** (i / most) : low + ((high - low) * i) / most; return whole ? Math.round(v) : Number(v.toPrecision(3)); };
  const bins = [];
  for (let i = 0; i < most; i++) {
    const from = i ? bins[bins.length - 1][2] : low, to = i === most - 1 ? high : edge(i + 1);
    if (to > from || i === most - 1) bins.push([from, whole && i < most - 1 ? to - 1 : to, to]);
  }
  return bins.filter(([a, b]) => b >= a).map(([a, b], i, list) => [a, !whole && i < list.length - 1 ? b - (b - a) * 1e-6 : b]);
}

function Charts({ results, state, change, notes }) {
  const chosen = state.cells.length ? state.cells : results.cells.filter((c) => c.part === (results.parts.find((p) => p.name === state.part) ?? results.parts[0])?.doc).slice(0, COLOURS.length).map((c) => c.key);
  const { part, mine, cells, columns, error } = useSelection(results, { ...state, cells: chosen });
  if (error) return html`<${Fault}>${error}</${Fault}>`;
  if (!columns) return html`<p class="note">reading …</p>`;
  return html`<section><div class="controls">
      <${Choice} id="task" label="task" value=${part.name} options=${results.parts.map((p) => [p.name, p.name])} onChange=${(name) => change({ part: name, cells: [], filters: [] })} />
      <fieldset><legend>cells</legend>${mine.map((cell) => html`<label key=${cell.key}><input type="checkbox" checked=${cells.includes(cell)} disabled=${!cells.includes(cell) && cells.length >= COLOURS.length}
        onChange=${() => change({ cells: cells.includes(cell) ? cells.filter((c) => c !== cell).map((c) => c.key) : [...cells.map((c) => c.key), cell.key] })} /> ${cell.label}</label>`)}</fieldset></div>
    <${Legend} cells=${cells} />
    <p class="note">A bar leads to its samples; dragging over several bars to those of all of them. ${APPROXIMATE}</p>
    ${mine.length > cells.length && html`<p class="note">${cells.length} of ${mine.length} cells are shown.</p>`}
    <${PartCharts} part=${columns.part} cells=${cells} columns=${columns} notes=${notes} />
    <${Costs} columns=${columns} /></section>`;
}

// How many samples each bar of a group is over: once where all are over as many, from least to most where more numbers
// would run into the next group's. A bar's title has its own.
function countsOf(bars) {
  const counts = bars.map((bar) => bar?.n ?? 0), least = Math.min(...counts), most = Math.max(...counts);
  return `n ${least === most ? least : counts.length > 2 ? `${least}–${most}` : counts.join(", ")}`;
}

function PartCharts({ part, cells, columns, notes }) {
  const m = part.metric;
  const fields = useMemo(() => fieldsOf(columns, notes), [columns]);
  if (!m) return html`<p class="note">No sample of this task has a score.</p>`;
  const link = (scope, name, wanted) => addressOf({ view: "samples", part: part.name, cells: cells.map((c) => c.key), filters: [[scope, name, wanted]] });
  const places = all(columns.count);
  const barOf = (k, inside, href) => {
    const mean = meanOf(inside, columns, m, k);
    return mean && { value: mean.mean * m.scale, low: mean.low === null ? null : mean.low * m.scale, high: mean.high === null ? null : mean.high * m.scale, n: mean.n, href };
  };
  const most = m.scale * Math.max(...part.range);
  const charts = [];
  for (const field of fields.filter((f) => f.scope === "" && f.kind === "class" && !["all models", "readings", "note", "target", "visual_tokens"].includes(f.name) && f.names.length > 1 && f.names.length <= 40)) {
    const inside = field.names.map(() => []);
    for (const i of places) if (field.code(i) >= 0) inside[field.code(i)].push(i);
    const items = field.names.map((name, code) => {
      const bars = cells.map((_, k) => barOf(k, inside[code], link("", field.name, joined([name]))));
      return { name, note: countsOf(bars), bars };
    });
    charts.push(html`<${Bars} key=${field.name} title=${`${m.name} by ${field.name}`} label=${m.name} items=${items} cells=${cells} high=${most} brush=${(a, b) => link("", field.name, joined(field.names.slice(a, b + 1)))} />`);
  }
  for (const name of ["visual tokens", "output tokens"]) {
    const theirs = fields.filter((f) => f.kind === "number" && f.name === name);
    const bins = binsOf(theirs.flatMap((f) => places.map((i) => f.value(i))));
    if (bins.length < 2) continue;
    const items = bins.map(([low, high]) => {
      const bars = theirs.map((f, k) => barOf(k, places.filter((i) => { const v = f.value(i); return v !== null && v >= low && v <= high; }), link(f.scope, name, `${low}..${high}`)));
      return { name: low === high ? String(low) : `${Number(low.toPrecision(3))}–${Number(high.toPrecision(3))}`, note: countsOf(bars), bars };
    });
    charts.push(html`<${Bars} key=${name} title=${`${m.name} by ${name}`} label=${m.name} items=${items} cells=${cells} high=${most} brush=${(a, b) => link(theirs[0].scope, name, `${bins[a][0]}..${bins[b][1]}`)} />`);
  }
  if (columns.answers.some((a) => a.scores.iou)) charts.push(html`<${Histogram} key="iou" title="IoU of the answers with their targets" name="iou" bins=${Array.from({ length: 10 }, (_, i) => [i / 10, i === 9 ? 1 : (i + 1) / 10 - 1e-9])} values=${columns.answers.map((a) => a.scores.iou ?? [])} places=${places} cells=${cells} link=${link} />`);
  charts.push(html`<${Histogram} key="length" title="Length of the answers in tokens" name="output tokens" bins=${binsOf(columns.answers.flatMap((a) => a.tokens))} values=${columns.answers.map((a) => a.tokens)} places=${places} cells=${cells} link=${link} />`);
  if (columns.answers.some((a) => a.confidence)) {
    const bins = Array.from({ length: 10 }, (_, i) => [i / 10, i === 9 ? 1 : (i + 1) / 10 - 1e-9]);
    const items = bins.map(([low, high], n) => {
      const bars = columns.answers.map((a, k) => a.confidence && barOf(k, places.filter((i) => a.confidence[i] !== null && a.confidence[i] >= low && a.confidence[i] <= high), link(String(k), "confidence", `${low}..${high}`)));
      return { name: `${n * 10}–${n * 10 + 10} %`, note: countsOf(bars), bars };
    });
    charts.push(html`<${Bars} key="calibration" title="Calibration: score by the probability of the chosen option" label=${m.name} items=${items} cells=${cells} high=${most} brush=${(a, b) => link("0", "confidence", `${bins[a][0]}..${bins[b][1]}`)} />`);
  }
  return html`<div class="charts">${charts}</div>`;
}

function Histogram({ title, name, bins, values, places, cells, link }) {
  if (bins.length < 1) return null;
  const items = bins.map(([low, high]) => ({
    name: low === high ? String(low) : `${Number(low.toPrecision(3))}–${Number(high.toPrecision(3))}`, note: "",
    bars: values.map((v, k) => { const n = places.reduce((sum, i) => sum + (v[i] !== null && v[i] !== undefined && v[i] >= low && v[i] <= high ? 1 : 0), 0); return { value: n, low: null, high: null, n, href: link(String(k), name, `${low}..${high}`) }; }),
  }));
  return html`<${Bars} title=${title} label="answers" items=${items} cells=${cells} brush=${(a, b) => link("0", name, `${bins[a][0]}..${bins[b][1]}`)} />`;
}

// Score against what a sample costs; a point for each cell.
function Costs({ columns }) {
  const { part, cells, answers } = columns;
  const [by, setBy] = useState("seconds");
  const seconds = useMemo(() => answers.map((a) => { const there = a.seconds.filter((s) => s !== null); return there.reduce((sum, s) => sum + s, 0) / Math.max(there.length, 1); }), [answers]);
  const cost = (c) => (by === "seconds" ? seconds[cells.indexOf(c)] : (c.tokens[0] + c.tokens[1] + c.tokens[2]) / Math.max(c.asked, 1));
  const unit = by === "seconds" ? "seconds from request to answer (those of a batch overlap)" : "tokens a sample";
  const points = cells.filter((c) => c.metrics.length && cost(c) > 0);
  if (points.length < 2) return null;
  const xs = points.map(cost), most = Math.max(...xs), values = points.map((c) => c.metrics[0].value);
  const low = Math.min(0, ...values), high = Math.max(...values, low + 1);
  const x = (v) => LEFT + (W - LEFT - RIGHT - 20) * (v / most), y = (v) => TOP + (H - TOP - BOTTOM) * (1 - (v - low) / (high - low));
  return html`<figure class="chart narrow-chart"><figcaption>Score and cost of a sample <${Choice} label="in" value=${by} options=${[["seconds", "seconds"], ["tokens", "tokens"]]} onChange=${setBy} /></figcaption>
    <svg width=${W} height=${H} role="group" aria-label="score and cost">
      ${axisSteps(low, high).map((v) => html`<g key=${v}><line x1=${LEFT} x2=${W - RIGHT} y1=${y(v)} y2=${y(v)} class="grid" /><text x=${LEFT - 6} y=${y(v) + 4} text-anchor="end">${v}</text></g>`)}
      ${axisSteps(0, most).map((v) => html`<text key=${v} x=${x(v)} y=${H - BOTTOM + 15} text-anchor="middle">${v}</text>`)}
      <text x="4" y="11">${part.metric.name}</text><text x=${W - RIGHT} y=${H - BOTTOM + 31} text-anchor="end">${unit}</text>
      ${points.map((c, k) => { const words = `${c.label}: ${number(c.metrics[0].value)} at ${number(xs[k], 3)} ${unit}`; return html`<a key=${c.doc} href=${addressOf({ view: "samples", part: part.name, cells: [c.key] })} aria-label=${words}><title>${words}</title>
        <circle cx=${x(xs[k])} cy=${y(c.metrics[0].value)} r="5" style=${{ fill: colour(k) }} /><text ...${xs[k] > most / 2 ? { x: x(xs[k]) - 8, "text-anchor": "end" } : { x: x(xs[k]) + 8 }} y=${y(c.metrics[0].value) + 4}>${c.label.slice(0, 40)}</text></a>`; })}
    </svg></figure>`;
}

// Differences with their intervals, a row each: {name, difference, low, high, words, href, filled}.
function Forest({ rows, title }) {
  if (!rows.length) return null;
  const ends = rows.flatMap((r) => [r.low ?? r.difference, r.high ?? r.difference, 0]);
  const low = Math.min(...ends), high = Math.max(...ends), TALL = 24, NAMES = 330;
  const x = (v) => NAMES + 10 + (W - 30) * ((v - low) / (high - low || 1)), tall = TOP + rows.length * TALL;
  return html`<figure class="chart"><figcaption>${title}</figcaption><div class="wide" tabindex="0" role="region" aria-label=${title}>
    <svg width=${NAMES + W} height=${tall + BOTTOM} role="group" aria-label=${title}>
      ${axisSteps(low, high).map((v) => html`<g key=${v}><line x1=${x(v)} x2=${x(v)} y1=${TOP - 8} y2=${tall} class="grid" /><text x=${x(v)} y=${tall + 16} text-anchor="middle">${v}</text></g>`)}
      <line x1=${x(0)} x2=${x(0)} y1=${TOP - 8} y2=${tall} class="error-bar" />
      ${rows.map((r, i) => {
        const y = TOP + i * TALL + TALL / 2;
        const mark = html`<title>${r.words}</title>${r.low !== null && html`<line x1=${x(r.low)} x2=${x(r.high)} y1=${y} y2=${y} class="error-bar" />`}<circle cx=${x(r.difference)} cy=${y} r="5" class=${r.filled ? "found" : "open"} />`;
        return html`<g key=${i}><text x=${NAMES} y=${y + 4} text-anchor="end">${r.name.slice(0, 56)}<title>${r.words}</title></text>
          ${r.href ? html`<a href=${r.href} aria-label=${r.words}>${mark}</a>` : html`<g role="img" aria-label=${r.words}>${mark}</g>`}</g>`;
      })}
    </svg></div></figure>`;
}

// Lines over a scale from 0: [{name, points: [[x, y]]}]; colours, and then dashes, tell them apart.
const DASHES = ["", "6 3", "2 3"];
const dash = (i) => DASHES[Math.floor(i / COLOURS.length) % DASHES.length];
function Lines({ title, label, under, lines }) {
  const all = lines.flatMap((line) => line.points);
  const most = Math.max(...all.map(([v]) => v), 1e-9), top = Math.max(...all.map(([, v]) => v), 1e-9);
  const x = (v) => LEFT + (W - LEFT - RIGHT - 10) * (v / most), y = (v) => TOP + (H - TOP - BOTTOM) * (1 - v / top);
  return html`<figure class="chart"><figcaption>${title}</figcaption><div class="wide" tabindex="0" role="region" aria-label=${title}>
    <svg width=${W} height=${H} role="group" aria-label=${title}>
      ${axisSteps(0, top).map((v) => html`<g key=${v}><line x1=${LEFT} x2=${W - RIGHT} y1=${y(v)} y2=${y(v)} class="grid" /><text x=${LEFT - 6} y=${y(v) + 4} text-anchor="end">${v}</text></g>`)}
      ${axisSteps(0, most).map((v) => html`<text key=${v} x=${x(v)} y=${H - BOTTOM + 15} text-anchor="middle">${v}</text>`)}
      <text x="4" y="11">${label}</text><text x=${W - RIGHT} y=${H - BOTTOM + 31} text-anchor="end">${under}</text>
      ${lines.map((line, i) => { const [, last] = line.points[line.points.length - 1], words = `${line.name}: ${number(last, 2)} at the end`; return html`<polyline key=${line.name} role="img" aria-label=${words} class="line" points=${line.points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ")} stroke-dasharray=${dash(i)} style=${{ stroke: colour(i) }}><title>${words}</title></polyline>`; })}
    </svg></div></figure>`;
}

// Scores by group as a heat table: cells down, values of a field across.
function Groups({ results, state, change, notes }) {
  const part = results.parts.find((p) => p.name === state.part) ?? results.parts[0];
  const mine = results.cells.filter((cell) => cell.part === part.doc);
  const { columns, error } = useSelection(results, { ...state, part: part.name, cells: mine.map((c) => c.key) });
  if (error) return html`<${Fault}>${error}</${Fault}>`;
  if (!columns) return html`<p class="note">reading …</p>`;
  const names = Object.entries(columns.fields).filter(([, c]) => c.names.length > 1 && c.names.length <= 60).map(([name]) => name);
  const by = names.includes(state.by) ? state.by : names[0];
  const m = part.metric;
  return html`<section><div class="controls">
      <${Choice} id="task" label="task" value=${part.name} options=${results.parts.map((p) => [p.name, p.name])} onChange=${(name) => change({ part: name, by: "", cells: [], filters: [] })} />
      ${names.length > 0 && html`<${Choice} id="by" label="by" value=${by} options=${names.map((n) => [n, n])} onChange=${(name) => change({ by: name })} />`}</div>
    ${!m || !by ? html`<p class="note">The samples of this task have no property to group by.</p>` : html`<${Heat} part=${columns.part} mine=${mine} columns=${columns} by=${by} m=${m} />`}</section>`;
}

function Heat({ part, mine, columns, by, m }) {
  const column = columns.fields[by];
  const inside = column.names.map(() => []);
  column.codes.forEach((code, i) => code >= 0 && inside[code].push(i));
  const rows = mine.map((cell, k) => {
    const means = inside.map((places) => meanOf(places, columns, m, k));
    const worst = means.reduce((w, mean, code) => (mean && (w < 0 || (m.higher ? mean.mean < means[w].mean : mean.mean > means[w].mean)) ? code : w), -1);
    return { key: cell.doc, cells: [{ text: cell.label }, worst < 0 ? { text: "–", sort: null } : { text: `${column.names[worst]} ${number(means[worst].mean * m.scale)}`, sort: means[worst].mean, mark: "worst" }, ...means.map((mean, code) => {
    if (!mean) return { text: "–", sort: null };
    const [worst, best] = part.range.map((v) => v * mean.added);
    const share = Math.max(0, Math.min(1, (mean.mean - worst) / (best - worst || 1)));
    const href = addressOf({ view: "samples", part: part.name, cells: [cell.key], filters: [["", by, joined([column.names[code]])]] });
    return { text: number(mean.mean * m.scale), sort: mean.mean, mark: "number heat", style: { "--share": `${Math.round(share * 55)}%` },
      node: html`<a href=${href} title=${`95 % interval ${interval(mean, m.scale)}, n ${mean.n}`}>${number(mean.mean * m.scale)}<small>${mean.low === null ? "" : `±${number(((mean.high - mean.low) / 2) * m.scale)}`} n ${mean.n}</small></a>` };
  })] };
  });
  return html`<${SortableTable} caption=${`${m.name} by ${by}`} columns=${["cell", "worst", ...column.names]} rows=${rows} /><p class="note">${m.name}; under each score half of its 95 % interval and the number of samples. ${APPROXIMATE} The fuller the colour, the better.</p>`;
}
