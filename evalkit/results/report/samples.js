// The samples of one task: filters, a list of any length, and the chosen one in full.
const ROW = 30, NARROW = "(max-width: 900px)"; // as in page.css

function useSelection(results, state) {
  const part = results.parts.find((p) => p.name === state.part) ?? results.parts[0];
  const mine = results.cells.filter((cell) => cell.part === part?.doc);
  const named = state.cells.map((key) => mine.find((cell) => cell.key === key)).filter(Boolean);
  const cells = named.length ? named : mine.slice(0, 1);
  const stamp = cells.map((c) => `${c.doc}/${c.asked}/${c.written}`).join();
  const [columns, error] = usePromise(() => (part ? columnsOf(part, cells) : null), [part?.doc, part?.count, stamp]);
  return { part, mine, cells, columns: columns?.part.doc === part?.doc && columns.cells.length === cells.length ? columns : null, error };
}

function Samples({ results, state, change, notes, keys }) {
  const { part, mine, cells, columns, error } = useSelection(results, state);
  if (error) return html`<${Fault}>${error}</${Fault}>`;
  return html`<section class="samples">
    <div class="controls">
      <${Choice} id="task" label="task" value=${part.name} options=${results.parts.map((p) => [p.name, p.name])}
        onChange=${(name) => change({ part: name, cells: [], filters: [], id: null, sort: "" })} />
      ${cells.map((cell, k) => html`<span key=${cell.key} class="chosen-cell"><${Swatch} i=${k} /><${Choice} id=${`cell-${k}`} label=${k ? "beside" : "cell"} value=${cell.key}
        options=${mine.filter((c) => c === cell || !cells.includes(c)).map((c) => [c.key, c.label])} onChange=${(key) => change({ cells: cells.map((c, i) => (i === k ? key : c.key)) })} />
        ${k > 0 && html`<button aria-label=${`take away ${cell.label}`} onClick=${() => change({ cells: cells.filter((c) => c !== cell).map((c) => c.key), filters: state.filters.filter(([scope]) => Number(scope || 0) < k || scope === "") })}>×</button>`}</span>`)}
      ${cells.length < mine.length && cells.length < COLOURS.length && html`<${Choice} id="beside" label=${cells.length > 1 ? "and" : "beside"} value=""
        options=${[["", "no other"], ...mine.filter((c) => !cells.includes(c)).map((c) => [c.key, c.label])]} onChange=${(key) => key && change({ cells: [...cells.map((c) => c.key), key] })} />`}
    </div>
    ${columns ? html`<${Browser} results=${results} columns=${columns} state=${state} change=${change} notes=${notes} keys=${keys} />` : html`<p class="note">reading …</p>`}
  </section>`;
}

function Browser({ results, columns, state, change, notes, keys }) {
  const [hits, setHits] = useState(null), [searched, setSearched] = useState(1);
  useEffect(() => {
    if (!state.search) { setHits(null); setSearched(1); return undefined; }
    return searchTexts(columns, state.search, (found, share) => { setHits(found); setSearched(share); });
  }, [state.search, columns]);
  const fields = useMemo(() => fieldsOf(columns, notes), [columns, notes.version]);
  const filters = JSON.stringify(state.filters);
  const { found, counts } = useMemo(() => select(columns, fields, state.filters, hits, state.sort), [columns, fields, filters, hits, state.sort]);
  const at = Math.max(0, state.id === null ? 0 : found.indexOf(columns.ids.indexOf(state.id)));
  const direct = state.id !== null && at === 0 && columns.ids[found[0]] !== state.id ? columns.ids.indexOf(state.id) : -1; // a link to a sample that the filters leave out
  const [boxesOn, setBoxes] = useState(true);
  const pane = useRef();
  const show = () => state.id !== null && matchMedia(NARROW).matches && pane.current.scrollIntoView(); // there it lies below the list
  useEffect(show, [state.id]);
  const go = (i) => {
    const id = columns.ids[found[Math.min(Math.max(i, 0), found.length - 1)]];
    if (id === state.id) show();
    else if (id !== undefined) change({ id }, true);
  };
  keys.current = { j: () => go(at + 1), k: () => go(at - 1), b: () => setBoxes((on) => !on), z: () => document.querySelector("[data-enlarge]")?.click(), l: () => document.querySelector("a.share")?.click(), "/": () => document.getElementById("search").focus(), v: () => change({ thumbs: !state.thumbs }) };
  const sorts = [["", "stored order"], ["+~id", "id"], ...fields.filter((f) => f.kind === "number" || f.name === "result").flatMap((f) => {
    const name = f.scope === "" ? f.name : columns.cells.length > 1 ? `${f.name} (${columns.cells[Number(f.scope)].label})` : f.name;
    return [[`+${f.scope}~${f.name}`, `${name}, lowest first`], [`-${f.scope}~${f.name}`, `${name}, highest first`]];
  })];
  const chosen = direct >= 0 ? direct : found[at];
  return html`<div class="controls">
      <label>search <input id="search" type="search" value=${state.search} placeholder="id, question, target, answer" onChange=${(e) => change({ search: e.target.value, id: null })}
        onKeyDown=${(e) => { if (e.key === "Enter") change({ search: e.target.value, id: null }); }} /></label>
      <${Choice} id="sort" label="sort" value=${state.sort} options=${sorts} onChange=${(sort) => change({ sort, id: null })} />
      <button aria-pressed=${state.thumbs} onClick=${() => change({ thumbs: !state.thumbs })}>thumbnails</button>
      <output id="count" aria-live="polite">${thousands(found.length)} of ${thousands(columns.count)}${searched < 1 ? `, ${Math.round(searched * 100)} % searched` : ""}</output>
    </div>
    <${Summary} columns=${columns} found=${found} counts=${counts} fields=${fields} state=${state} change=${change} />
    <div class="browser">
      <${Filters} columns=${columns} fields=${fields} state=${state} change=${change} counts=${counts} />
      ${state.thumbs ? html`<${Thumbnails} columns=${columns} found=${found} at=${at} go=${go} />` : html`<${List} columns=${columns} fields=${fields} found=${found} at=${direct >= 0 ? -1 : at} go=${go} />`}
      <div class="pane" ref=${pane}><button class="narrow" onClick=${() => document.querySelector(".list").scrollIntoView()}>back to the list</button>
        ${chosen === undefined ? html`<p class="note">No sample fits. Take a filter away.</p>` : html`
        ${direct >= 0 && html`<p class="note">This sample does not fit the filters.</p>`}
        <${Detail} columns=${columns} at=${chosen} results=${results} notes=${notes} boxesOn=${boxesOn} />`}</div>
    </div>`;
}

// Over all samples, what the run itself came to: the overview shows the same. In points.
function storedScore(cell, m) {
  const stored = cell.metrics[0];
  return stored?.name === m.name ? stored : null;
}

const inPoints = (mean, scale) => mean && { value: mean.mean * scale, low: mean.low === null ? null : mean.low * scale, high: mean.high === null ? null : mean.high * scale, n: mean.n };

// Scores over what the filters left; with two cells their difference, and who is right where.
function Summary({ columns, found, counts, fields, state, change }) {
  const m = columns.part.metric;
  if (!m) return null;
  const whole = found.length === columns.count;
  const scores = useMemo(() => columns.cells.map((cell, k) => (whole && storedScore(cell, m)) || inPoints(meanOf(found, columns, m, k), m.scale)), [found, columns]);
  const difference = useMemo(() => (columns.answers.length > 1 ? differenceOf(found, columns, m, 0, 1) : null), [found]);
  return html`<div class="summary">
    <p>${m.name}${howAveraged(m)}: ${scores.map((score, k) => html`<span key=${k} class="mean"><${Swatch} i=${k} /><strong>${number(score?.value)}</strong> <small>${score ? `${interval(score)}, n ${thousands(score.n)}` : "no score"}</small></span>`)}
      ${difference && html`<span class="mean">difference <strong>${signed(difference.mean * m.scale)}</strong> <small>${[interval(difference, m.scale), `n ${thousands(difference.n)}`, verdict(difference, m.higher)].filter(Boolean).join(", ")}</small></span>`}
      <small class="note intervals">95 % intervals ${whole ? `as in the overview${difference ? "; that of the difference approximate (Student’s t over clusters)" : ""}` : "approximate, over these samples alone (Student’s t over clusters)"}</small></p>
    ${columns.cells.length > 1 && html`<${TwoByTwo} columns=${columns} found=${found} fields=${fields} state=${state} change=${change} />`}</div>`;
}

// What one number of a metric is, where it is no plain mean of samples.
function howAveraged(m) {
  const words = [m.units.length && `each ${m.units.map((key) => key || "sample").join(" and each ")} counted ${m.weight ? "whole" : "as its worst answer"}`, m.group && `${m.total ? "sum" : "mean"} over ${m.group}`, m.weight && `weighted by ${m.weight}`].filter(Boolean);
  return words.length ? ` (${words.join(", ")})` : "";
}

function TwoByTwo({ columns, found, fields, state, change }) {
  const results = [0, 1].map((k) => fields.find((f) => f.scope === String(k) && f.name === "result"));
  const table = useMemo(() => {
    const n = [[0, 0], [0, 0]];
    for (const i of found) {
      const [a, b] = results.map((f) => f.code(i));
      if (a < 4 && b < 4) n[a === 0 ? 0 : 1][b === 0 ? 0 : 1] += 1;
    }
    return n;
  }, [found, fields]);
  const pick = (a, b) => {
    const others = state.filters.filter(([scope, name]) => name !== "result" || (scope !== "0" && scope !== "1"));
    const wanted = (right) => (right ? "right" : "partly|wrong|unparsed");
    change({ filters: [...others, ["0", "result", wanted(a)], ["1", "result", wanted(b)]], id: null });
  };
  return html`<table class="two"><caption><span class="hidden">right and wrong of the first two cells; </span>not: partly right, wrong or unparsed</caption>
    <thead><tr><td></td><th scope="col"><${Swatch} i=${1} />right</th><th scope="col"><${Swatch} i=${1} />not</th></tr></thead>
    <tbody>${[true, false].map((a) => html`<tr key=${a}><th scope="row"><${Swatch} i=${0} />${a ? "right" : "not"}</th>${[true, false].map((b) => html`<td key=${b}><button onClick=${() => pick(a, b)} aria-label=${`first ${a ? "right" : "not right"}, second ${b ? "right" : "not right"}`}>${thousands(table[a ? 0 : 1][b ? 0 : 1])}</button></td>`)}</tr>`)}</tbody></table>`;
}

// The height of an element that is left for it, and which rows of a long list are in view.
function useWindow(rows, height) {
  const box = useRef(), [top, setTop] = useState(0), [tall, setTall] = useState(600);
  useEffect(() => {
    const measure = () => box.current && setTall(box.current.clientHeight);
    measure();
    addEventListener("resize", measure);
    return () => removeEventListener("resize", measure);
  }, []);
  const first = Math.max(0, Math.floor(top / height) - 6), last = Math.min(rows, Math.ceil((top + tall) / height) + 6);
  return { box, first, last, onScroll: (e) => setTop(e.currentTarget.scrollTop) };
}

function useTexts(columns, places) {
  const chunks = [...new Set(places.map((i) => Math.floor(i / place.chunk)))].slice(0, 40);
  const [texts] = usePromise(async () => {
    const read = await Promise.all(chunks.map((chunk) => Promise.all([
      documentOf(`${columns.part.doc}-samples-${chunk}`, columns.part.count),
      ...columns.cells.map((cell) => documentOf(`${cell.doc}-answers-${chunk}`, `${columns.part.count}/${cell.asked}/${cell.written}`)),
    ])));
    return new Map(chunks.map((chunk, i) => [chunk, read[i]]));
  }, [chunks.join(), columns]);
  return (i) => {
    const [own, ...theirs] = texts?.get(Math.floor(i / place.chunk)) ?? [], inside = i % place.chunk;
    if (!own?.samples[inside]) return null; // not read yet, or read before a result grew as far
    return { sample: own.samples[inside], answers: theirs.map((t) => t.answers[inside]) };
  };
}

// An id that is too long keeps its end, by which it differs from the others.
function Id({ text }) {
  const letters = Array.from(text);
  return html`<span class="id" dir="auto" title=${text}><span>${letters.slice(0, -7).join("")}</span><span>${letters.slice(-7).join("")}</span></span>`;
}

function List({ columns, fields, found, at, go }) {
  const { box, first, last, onScroll } = useWindow(found.length, ROW);
  const visible = found.slice(first, last), texts = useTexts(columns, visible);
  const results = columns.cells.map((_, k) => fields.find((f) => f.scope === String(k) && f.name === "result"));
  const headline = columns.part.metric?.name;
  useEffect(() => {
    const list = box.current, top = at * ROW;
    if (at < 0) return;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + 2 * ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + 2 * ROW - list.clientHeight; // below the headings
  }, [at, found]);
  const onKey = (e) => {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity };
    if (e.key in steps) { e.preventDefault(); go(Math.max(0, Math.min(found.length - 1, at + steps[e.key]))); }
  };
  return html`<div class="list" ref=${box} onScroll=${onScroll} onKeyDown=${onKey} tabindex="0" role="listbox" aria-label="samples" aria-activedescendant=${at >= 0 ? `row-${at}` : null}>
    <div class="heads" aria-hidden="true"><span class="id">sample</span>${columns.cells.map((cell, c) => html`<span key=${c} class="mark" title=${headline}><${Swatch} i=${c} />${headline ?? ""}</span><span class="text" title=${cell.label}>answer</span>`)}
      <span class="text">target</span><span class="text question">question</span></div>
    <div style=${{ height: `${found.length * ROW}px`, position: "relative" }} role="presentation">${visible.map((i, k) => {
      const row = first + k, text = texts(i);
      return html`<div key=${i} id=${`row-${row}`} class=${`row ${row === at ? "chosen" : ""}`} role="option" aria-selected=${row === at} aria-posinset=${row + 1} aria-setsize=${found.length} style=${{ top: `${row * ROW}px` }} onClick=${() => go(row)}>
        <${Id} text=${columns.ids[i]} />
        ${columns.answers.map((a, c) => {
          const result = RESULTS[results[c].code(i)], score = a.scores[headline]?.[i];
          return html`<span key=${c} class=${`mark ${result.replace(" ", "-")}`}><${Swatch} i=${c} />${result === "error" || result === "not asked" ? result : score === null || score === undefined ? "–" : number(score, 2)}</span>
            <span class="text" dir="auto">${text?.answers[c]?.error ?? saidText(text?.answers[c]?.text) ?? ""}</span>`;
        })}
        <span class="text target" dir="auto">${text ? targetText(text.sample).replace(/\n/g, " / ") : ""}</span>
        <span class="text question" dir="auto">${text?.sample.question ?? ""}</span></div>`;
    })}</div></div>`;
}

function Thumbnails({ columns, found, at, go }) {
  const WIDE = 4, TALL = 150;
  const { box, first, last, onScroll } = useWindow(Math.ceil(found.length / WIDE), TALL);
  const visible = found.slice(first * WIDE, last * WIDE), texts = useTexts(columns, visible);
  const [sources] = usePromise(() => (document.getElementById("document-pictures") ? documentOf("pictures") : { srcs: [] }), []);
  return html`<div class="list" ref=${box} onScroll=${onScroll} tabindex="0" role="region" aria-label="thumbnails"><div style=${{ height: `${Math.ceil(found.length / WIDE) * TALL}px`, position: "relative" }}>
    ${visible.map((i, k) => {
      const n = first * WIDE + k, media = texts(i)?.sample.media?.[0];
      const src = media?.src?.startsWith("#") ? sources?.srcs[Number(media.src.slice(1))] : media?.src ?? (place.live ? `thumbnails/${columns.part.doc}/${i}.webp` : null);
      return html`<button key=${i} class=${`thumb ${n === at ? "chosen" : ""}`} style=${{ top: `${Math.floor(n / WIDE) * TALL}px`, left: `${(n % WIDE) * (100 / WIDE)}%`, width: `${100 / WIDE}%`, height: `${TALL}px` }} onClick=${() => go(n)} aria-current=${n === at}>
        ${src ? html`<img src=${src} loading="lazy" alt="" />` : null}<span dir="auto">${columns.ids[i]}</span></button>`;
    })}</div></div>`;
}
