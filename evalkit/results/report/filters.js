// Fields of samples and of their answers, what fits the filters, and how many each value would leave.
const RESULTS = ["right", "partly", "wrong", "unparsed", "error", "not asked"];
const BY_NUMBER = new Intl.Collator("en", { numeric: true });
const TOGETHER = ["all right", "all wrong", "some right"];

// {scope, name, kind: "class", names, code(i)} or {scope, name, kind: "number", value(i)}.
// scope: "" for the sample, or the answer's place among the chosen cells.
function fieldsOf(columns, notes) {
  const fields = [];
  const { part, answers, count } = columns;
  const headline = part.metric?.name, [worst, best] = part.range;
  const results = answers.map((a) => {
    const scores = a.scores[headline] ?? [];
    const codes = new Uint8Array(count);
    for (let i = 0; i < count; i++) {
      const score = scores[i];
      codes[i] = a.error && a.error.codes[i] >= 0 ? 4 : a.seconds[i] === null ? 5 : a.unparsed[i] ? 3
        : score === best ? 0 : score === worst || score === null || score === undefined ? 2 : 1;
    }
    return codes;
  });
  answers.forEach((a, k) => {
    const scope = String(k);
    fields.push({ scope, name: "result", kind: "class", names: RESULTS, code: (i) => results[k][i] });
    for (const name of ["error", "failed in", "finish"]) {
      if (a[name] && (name !== "finish" || a[name].names.length > 1)) fields.push({ scope, name, kind: "class", names: a[name].names, code: (i) => a[name].codes[i] });
    }
    for (const [name, values] of Object.entries(a.scores)) fields.push({ scope, name, kind: "number", value: (i) => values[i] });
    for (const name of ["tokens", "visual", "seconds", "confidence"]) {
      if (a[name]) fields.push({ scope, name: name === "tokens" ? "output tokens" : name === "visual" ? "visual tokens" : name, kind: "number", value: (i) => a[name][i] });
    }
  });
  if (answers.length > 1) {
    fields.push({ scope: "", name: "all models", kind: "class", names: TOGETHER, code: (i) => {
      let right = 0, asked = 0;
      for (const codes of results) { if (codes[i] < 4) { asked += 1; right += codes[i] === 0; } }
      return asked < results.length ? -1 : right === asked ? 0 : right === 0 ? 1 : 2;
    } });
    fields.push({ scope: "", name: "readings", kind: "class", names: ["agree against the label", "agree with it", "differ"], code: (i) => {
      const first = answers[0].reading[i];
      if (first === null || results.some((codes) => codes[i] >= 3)) return -1;
      return answers.some((a) => a.reading[i] !== first) ? 2 : results[0][i] === 0 ? 1 : 0;
    } });
  }
  for (const [name, column] of Object.entries(columns.fields)) {
    fields.push({ scope: "", name, kind: "class", names: column.names, code: (i) => column.codes[i] });
  }
  for (const [name, values] of Object.entries(columns.numbers)) fields.push({ scope: "", name, kind: "number", value: (i) => values[i] });
  const flagged = notes.of(part);
  if (flagged.size) {
    const names = [...notes.flags, "no note"];
    fields.push({ scope: "", name: "note", kind: "class", names, code: (i) => {
      const note = flagged.get(columns.ids[i]);
      return note ? names.indexOf(note.flag) : names.length - 1;
    } });
  }
  return fields;
}

function fitter(field, wanted) {
  if (field.kind === "class") {
    const codes = new Set(parted(wanted).map((name) => field.names.indexOf(name)));
    return (i) => codes.has(field.code(i));
  }
  const [low, high] = wanted.split("..").map((text) => (text === "" ? null : Number(text)));
  return (i) => {
    const value = field.value(i);
    return value !== null && value !== undefined && (low === null || value >= low) && (high === null || value <= high);
  };
}

// The places that fit, in the order asked for; and for each field of classes how many samples each
// value would leave, its own filter aside. One pass: a sample that only one filter refuses counts
// for that filter's field alone.
function select(columns, fields, filters, hits, sort) {
  const active = filters.flatMap(([scope, name, wanted]) => {
    const field = fields.find((f) => f.scope === scope && f.name === name);
    return field ? [{ field, fits: fitter(field, wanted) }] : [];
  });
  const classes = fields.filter((f) => f.kind === "class");
  const counts = new Map(classes.map((f) => [f, new Int32Array(f.names.length)]));
  const found = [];
  for (let i = 0; i < columns.count; i++) {
    if (hits && !hits[i]) continue;
    let refused = 0, by = null;
    for (const { field, fits } of active) {
      if (!fits(i)) { refused += 1; by = field; if (refused > 1) break; }
    }
    if (refused > 1) continue;
    if (refused === 1) {
      if (by.kind === "class" && by.code(i) >= 0) counts.get(by)[by.code(i)] += 1;
      continue;
    }
    found.push(i);
    for (const field of classes) { const code = field.code(i); if (code >= 0) counts.get(field)[code] += 1; }
  }
  if (sort) {
    const [direction, scope, name] = [sort[0], sort.slice(1).split("~")[0], sort.slice(1).split("~").slice(1).join("~")];
    const field = fields.find((f) => f.scope === scope && f.name === name);
    const value = name === "id" ? null : field && (field.kind === "number" ? field.value : field.code);
    const sign = direction === "-" ? -1 : 1;
    if (name === "id") found.sort((a, b) => sign * BY_NUMBER.compare(columns.ids[a], columns.ids[b]));
    else if (value) found.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || x === undefined) return 1;
      if (y === null || y === undefined) return -1;
      return sign * (x - y) || a - b;
    });
  }
  return { found, counts };
}

// Searches ids, questions, targets and answers, chunk by chunk; `report` gets the hits so far and
// the share of samples looked at. Returns a function that stops it.
function searchTexts(columns, words, report) {
  let stopped = false;
  const wanted = words.toLowerCase();
  const { part, cells, count } = columns;
  const hits = new Uint8Array(count);
  (async () => {
    for (let chunk = 0; chunk * place.chunk < count && !stopped; chunk++) {
      const from = chunk * place.chunk;
      const texts = await Promise.all([
        documentOf(`${part.doc}-samples-${chunk}`, part.count),
        ...cells.map((cell) => documentOf(`${cell.doc}-answers-${chunk}`, `${part.count}/${cell.asked}/${cell.written}`)),
      ]);
      texts[0].samples.forEach((s, k) => {
        const said = texts.slice(1).map((t) => t.answers[k]).map((a) => `${a?.text ?? ""} ${a?.error ?? ""}`);
        const text = [s.id, s.question, JSON.stringify(s.metadata), JSON.stringify(s.target), s.choices.join(" "), ...said].join("\n");
        hits[from + k] = text.toLowerCase().includes(wanted) ? 1 : 0;
      });
      if (chunk % 8 === 7) report(hits.slice(), (from + place.chunk) / count);
    }
    if (!stopped) report(hits, 1);
  })().catch(() => report(hits, 1));
  return () => { stopped = true; };
}

function Filters({ columns, fields, state, change, counts }) {
  const filters = state.filters;
  const current = (field) => filters.find(([scope, name]) => scope === field.scope && name === field.name)?.[2] ?? "";
  const put = (field, wanted) => {
    const others = filters.filter(([scope, name]) => scope !== field.scope || name !== field.name);
    change({ filters: wanted ? [...others, [field.scope, field.name, wanted]] : others, id: null });
  };
  const toggle = (field, name) => {
    const there = parted(current(field));
    put(field, joined(there.includes(name) ? there.filter((n) => n !== name) : [...there, name]));
  };
  const scopes = [...columns.cells.map((cell, k) => [String(k), cell.label]), ["", "sample"]];
  return html`<aside class="filters" aria-label="filters">
    ${filters.length > 0 && html`<button onClick=${() => change({ filters: [], id: null })}>clear ${filters.length} ${filters.length === 1 ? "filter" : "filters"}</button>`}
    ${scopes.map(([scope, title]) => html`<div key=${scope}>
      <h3>${scope !== "" && html`<${Swatch} i=${Number(scope)} />`}${title}</h3>
      ${fields.filter((f) => f.scope === scope).map((field) => html`<details key=${field.name} open=${field.name === "result" || field.name === "all models" || current(field) !== ""}>
        <summary>${field.name}</summary>
        ${field.kind === "class"
          ? html`<ul>${field.names.map((name, code) => ({ name, n: counts.get(field)?.[code] ?? 0 })).filter(({ name, n }) => n || parted(current(field)).includes(name)).map(({ name, n }) => html`<li key=${name}>
            <label><input type="checkbox" checked=${parted(current(field)).includes(name)} onChange=${() => toggle(field, name)} /> <span dir="auto">${saidText(name)}</span></label> <span class="count">${thousands(n)}</span></li>`)}</ul>`
          : html`<${Bounds} field=${field} wanted=${current(field)} put=${(wanted) => put(field, wanted)} />`}
      </details>`)}</div>`)}
  </aside>`;
}

function Bounds({ field, wanted, put }) {
  const [low, high] = wanted ? wanted.split("..") : ["", ""];
  const set = (a, b) => put(a === "" && b === "" ? "" : `${a}..${b}`);
  return html`<div class="bounds"><label>from <input type="number" step="any" value=${low} onChange=${(e) => set(e.target.value, high)} aria-label=${`${field.name} from`} /></label>
    <label>to <input type="number" step="any" value=${high} onChange=${(e) => set(low, e.target.value)} aria-label=${`${field.name} to`} /></label></div>`;
}
