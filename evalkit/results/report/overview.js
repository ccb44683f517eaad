// Models down, tasks across; then every cell with its counts and costs.
function rowKey(cell) { return [cell.model, cell.adapter, cell.settings].join("\u0001"); }

function remarks(cell) {
  return [cell.arm, cell.data === "official" ? "" : `${cell.data} data`, cell.partial && `partial: ${cell.partial}`].filter(Boolean).join(", ");
}

function Overview({ results, state, change }) {
  const words = state.find.toLowerCase();
  const named = (cell) => [cell.label, cell.model, cell.adapter, results.part[cell.part].name, remarks(cell)].join(" ").toLowerCase().includes(words);
  const cells = results.cells.filter(named);
  const parts = results.parts.filter((part) => cells.some((cell) => cell.part === part.doc));
  const rows = new Map();
  for (const cell of cells) {
    const row = rows.get(rowKey(cell)) ?? { key: rowKey(cell), cell, at: {} };
    (row.at[cell.part] ??= []).push(cell);
    rows.set(row.key, row);
  }
  const base = rows.get(state.base);
  const best = {};
  for (const part of parts) {
    const values = cells.filter((c) => c.part === part.doc && c.metrics.length && !c.partial).map((c) => c.metrics[0].value);
    if (values.length > 1) best[part.doc] = part.metric.higher ? Math.max(...values) : Math.min(...values);
  }
  const lower = [...new Set(cells.flatMap((c) => c.metrics).filter((m) => !m.higher).map((m) => m.name))];
  const several = new Set(cells.map((c) => c.adapter)).size > 1;
  return html`<section>
    <h2>Scores</h2>
    <div class="controls">
      <label>find <input type="search" value=${state.find} placeholder="model, task, setting" onInput=${(e) => change({ find: e.target.value }, true)} /></label>
      <${Choice} label="difference to" value=${base ? state.base : ""} onChange=${(key) => change({ base: key })}
        options=${[["", "no row"], ...[...rows.values()].map((row) => [row.key, [row.cell.model, row.cell.settings].filter(Boolean).join(", ")])]} />
    </div>
    <${SortableTable} caption="Headline scores, models by tasks" columns=${["model", ...(several ? ["adapter"] : []), "settings", ...parts.map((part) => `${part.name} ${part.metric?.name ?? ""}`), "seconds in all"]}
      rows=${[...rows.values()].map((row) => ({
        key: row.key,
        cells: [{ text: row.cell.model }, ...(several ? [{ text: row.cell.adapter }] : []), { text: row.cell.settings },
          ...parts.map((part) => ({
            sort: row.at[part.doc]?.[0].metrics[0]?.value ?? null,
            mark: "number",
            node: html`${(row.at[part.doc] ?? []).map((cell) => html`<${ScoreLink} key=${cell.doc} cell=${cell} best=${cell.metrics.length && cell.metrics[0].value === best[part.doc]}
              base=${base && base !== row ? base.at[part.doc]?.[0] : null} part=${part} />`)}`,
          })), secondsOf(Object.values(row.at).flat())],
      }))} />
    <p class="note">Best of whole cells in bold; under each score its 95 % interval. Every score leads to its samples.
      ${base && html` Differences are paired, over the samples that both rows have; a verdict says on which side of 0 the whole interval lies. ${APPROXIMATE} No correction is made for looking at several: <code>evalkit compare</code> does.`}
      ${cells.some((c) => c.data === "mini") ? " Mini subsets are small sets drawn by evalkit: their scores are not comparable with those of the official subsets." : ""}</p>
    ${results.live && html`<${Running} results=${results} />`}
    <h2>Cells</h2>
    <${SortableTable} caption="All cells" columns=${["task", "cell", "metric", "score", "95 % interval", "n", "errors", "unparsed", "output tokens", "seconds of the run", "remarks"]}
      rows=${cells.flatMap((cell) => (cell.metrics.length ? cell.metrics : [null]).map((m, i) => ({
        key: `${cell.doc} ${m?.name}`,
        cells: [{ text: results.part[cell.part].name }, { text: cell.label, node: html`<a href=${samplesOf(results, cell)}>${cell.label}</a>` },
          { text: m?.name ?? "no score" }, { text: number(m?.value), sort: m?.value ?? null, mark: "number" }, { text: interval(m), mark: "number" },
          { text: thousands(m?.n ?? 0), sort: m?.n ?? 0, mark: "number" },
          { text: cell.errors, sort: cell.errors, mark: "number", node: cell.errors && i === 0 ? html`<a href=${samplesOf(results, cell, [["0", "result", "error"]])}>${cell.errors}</a>` : null },
          { text: cell.unparsed, sort: cell.unparsed, mark: "number", node: cell.unparsed && i === 0 ? html`<a href=${samplesOf(results, cell, [["0", "result", "unparsed"]])}>${cell.unparsed}</a>` : null },
          { text: thousands(cell.tokens[2]), sort: cell.tokens[2], mark: "number" }, { text: number(cell.wall), sort: cell.wall, mark: "number" }, { text: remarks(cell) }],
      })))} />
    <p class="note">Errors, unparsed answers, tokens and seconds are those of the whole cell, once on the line of each of its metrics.${lower.length ? ` ${lower.join(", ")}: lower is better.` : ""}</p>
  </section>`;
}

function secondsOf(cells) {
  const seconds = cells.reduce((sum, cell) => sum + cell.wall, 0);
  return { text: number(seconds), sort: seconds, mark: "number" };
}

function samplesOf(results, cell, filters = []) {
  return addressOf({ view: "samples", part: results.part[cell.part].name, cells: [cell.key], filters });
}

function ScoreLink({ cell, best, base, part }) {
  const m = cell.metrics[0];
  const [difference] = usePromise(async () => {
    if (!base || base === cell || !m) return null;
    const columns = await columnsOf(part, [cell, base]);
    return differenceOf(all(columns.count), columns, m, 0, 1);
  }, [cell.doc, base?.doc, part.count]);
  const address = addressOf({ view: "samples", part: part.name, cells: base && base !== cell ? [cell.key, base.key] : [cell.key] });
  const marks = [cell.partial && "partial", cell.running && "running", cell.arm].filter(Boolean).join(", ");
  return html`<a class=${`score ${best ? "best" : ""}`} href=${address}><${Score} metric=${m} />
    <small>${interval(m)}${marks && html`<br />${marks}`}
    ${difference && html`<br /><span class=${`verdict ${verdict(difference, m.higher).replace(" ", "-")}`} title=${`approximate 95 % interval ${interval(difference, m.scale)}, n ${difference.n}`}>${signed(difference.mean * m.scale)} ${verdict(difference, m.higher)}</span>`}</small></a>`;
}

const all = (count) => Array.from({ length: count }, (_, i) => i);

// Runs that are going on: how far, how fast, how long still, what failed.
const pace = new Map(); // cell -> [time, asked] of the first time that this page saw it
function Running({ results }) {
  const running = results.cells.filter((cell) => cell.running);
  if (!running.length) return null;
  return html`<h2>Runs without an end yet</h2><ul class="running">${running.map((cell) => {
    const part = results.part[cell.part];
    if (!pace.has(cell.key)) pace.set(cell.key, [Date.now(), cell.asked]);
    const [since, from] = pace.get(cell.key);
    const rate = (cell.asked - from) / Math.max((Date.now() - since) / 1000, 1);
    const left = part.total !== null && rate > 0 ? duration((part.total - cell.asked) / rate) : "–";
    const quiet = Date.now() / 1000 - cell.written > 60;
    const m = cell.metrics[0];
    return html`<li key=${cell.key}><a href=${samplesOf(results, cell)}>${part.name}, ${cell.label}</a>:
      <strong>${thousands(cell.asked)}${part.total === null ? "" : ` of ${thousands(part.total)}`}</strong> samples,
      ${quiet ? "nothing written for a minute (stopped?)" : `${number(rate)} a second, ${left} left`};
      ${m ? `${m.name} ${number(m.value)} (${interval(m)})` : "no score yet"}
      ${Object.entries(cell.error_kinds).map(([kind, n]) => html`; ${n} × ${kind}`)}
      ${part.total !== null && html`<progress max=${part.total} value=${cell.asked} aria-label="samples done"></progress>`}</li>`;
  })}</ul>`;
}
