// The page: navigation, keys, light and dark, and what grows while it is open.
const POLL = 2000; // milliseconds between two looks at growing results
const TITLES = { overview: "Overview", groups: "Groups", samples: "Samples", charts: "Charts", sweeps: "Sweeps", notes: "Notes", studies: "Studies" };

function useResults() {
  const [state, set] = useState({});
  useEffect(() => {
    let timer, stopped = false;
    const read = async () => {
      try {
        const found = place.live ? await fetchJson("documents/overview.json") : await documentOf("overview");
        place.chunk = found.chunk;
        found.part = Object.fromEntries(found.parts.map((part) => [part.doc, part]));
        const text = JSON.stringify([found.parts, found.cells, found.faults]);
        if (!stopped) set((old) => (old.text === text ? { ...old, error: undefined } : { results: found, text }));
      } catch (error) {
        if (!stopped) set((old) => ({ ...old, error: error.message }));
      }
      if (place.live && !stopped) timer = setTimeout(read, POLL);
    };
    read();
    return () => { stopped = true; clearTimeout(timer); };
  }, []);
  return state;
}

function useNotes() {
  const [document, set] = useState({ flags: [], notes: [] });
  const [version, setVersion] = useState(0);
  const read = async () => { set(place.live ? await fetchJson("documents/notes.json") : await documentOf("notes")); setVersion((v) => v + 1); };
  useEffect(() => { read().catch(() => {}); }, []);
  return {
    ...document,
    version,
    of: (part) => new Map(document.notes.filter((n) => n.task === part.task && n.data === part.data).map((n) => [n.id, n])),
    add: async (note) => {
      await fetchJson("notes", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(note) });
      await read();
    },
  };
}

function Notes({ results, notes }) {
  if (!notes.notes.length) return html`<section><h2>Notes</h2><p class="note">No sample has a note.${place.live ? " Open a sample to add one." : " `evalkit view` adds them."}</p></section>`;
  return html`<section><h2>Notes</h2><${SortableTable} caption="Notes on samples" columns=${["task", "sample", "flag", "note", "when"]} rows=${notes.notes.map((n) => {
    const part = results.parts.find((p) => p.task === n.task && p.data === n.data);
    return { key: `${n.task}${n.data}${n.id}`, cells: [{ text: n.task }, { text: n.id, node: part ? html`<a href=${addressOf({ view: "samples", part: part.name, id: n.id })}>${n.id}</a>` : n.id }, { text: n.flag }, { text: n.text }, { text: n.created.slice(0, 16).replace("T", " ") }] };
  })} /></section>`;
}

function Sweeps({ results }) {
  if (!results.sweeps.length) return html`<section><h2>Sweeps</h2><p class="note">No sweep's tables lie in this folder. <code>evalkit sweep</code> writes them.</p></section>`;
  return html`${results.sweeps.map((s) => html`<section key=${s.name}><h2>${s.name}</h2><p>${s.question}</p><ul>${s.sentences.map((text, i) => html`<li key=${i}>${text}</li>`)}</ul>
    <${Forest} title="Differences to the baseline in points, with 95 % intervals; filled where they stand after correction" rows=${differencesOf(s, results)} />
    <${SortableTable} caption=${`All differences of ${s.name}`} columns=${s.columns} rows=${s.rows.map((row, i) => ({ key: i, cells: row.map((text) => ({ text })) }))} /></section>`)}`;
}

function differencesOf(sweep, results) {
  const keyOf = (folder) => results.cells.find((c) => c.key.endsWith(`/${folder}`));
  return sweep.points.filter((r) => r.difference !== null).map((r) => {
    const [cell, base] = [keyOf(r.cell), keyOf(r.base)];
    return { name: `${r.task}: ${r.settings}`, difference: r.difference, low: r.low, high: r.high, filled: r.significant,
      words: `${r.task}, ${r.settings}: ${signed(r.difference)} (${interval(r)}), n ${r.n}, ${r.verdict}`,
      href: cell && addressOf({ view: "samples", part: results.part[cell.part].name, cells: [cell, base].filter(Boolean).map((c) => c.key) }) };
  });
}

function Page() {
  const { results, error } = useResults();
  const notes = useNotes();
  const [state, change] = useAddress();
  const [dark, setDark] = useState(matchMedia("(prefers-color-scheme: dark)").matches);
  const [help, setHelp] = useState(false);
  const keys = useRef({});
  useEffect(() => { document.documentElement.classList.toggle("dark", dark); }, [dark]);
  useEffect(() => {
    const press = (event) => {
      if (event.target.matches("input:not([type=checkbox]), select, textarea")) { if (event.key === "Escape") event.target.blur(); return; }
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      const place = VIEWS[Number(event.key) - 1];
      const own = { t: () => setDark((d) => !d), "?": () => setHelp((h) => !h), ...(place ? { [event.key]: () => change({ view: place }) } : {}) };
      const act = own[event.key] ?? (readAddress().view === "samples" ? keys.current[event.key] : null);
      if (act) { event.preventDefault(); act(); }
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
  useEffect(() => { document.title = `${TITLES[state.view]}${state.part ? `: ${state.part}` : ""} – evalkit`; }, [state.view, state.part]);
  if (!results) return error ? html`<${Fault}>${error}</${Fault}>` : html`<p class="loading">Reading results …</p>`;
  const views = { overview: Overview, groups: Groups, samples: Samples, charts: Charts, sweeps: Sweeps, notes: Notes, studies: Studies };
  const shown = !results.parts.length && results.studies ? "studies" : state.view; // a study's folder holds nothing else
  const View = results.parts.length || ["sweeps", "studies"].includes(shown) ? views[shown] : null;
  return html`<a class="skip" href="#main" onClick=${(e) => { e.preventDefault(); document.getElementById("main").focus(); }}>to the content</a>
    <header class="top"><h1>evalkit</h1><nav aria-label="views">${VIEWS.filter((view) => view !== "studies" || results.studies).map((view, i) => html`<a key=${view} href=${addressOf({ ...state, view, id: view === "samples" ? state.id : null })} aria-current=${shown === view ? "page" : null} title=${`key ${i + 1}`}>${TITLES[view]}${view === "notes" && notes.notes.length ? ` (${notes.notes.length})` : ""}</a>`)}</nav>
      <span class="made">${results.live ? "loaded" : "page made"} by ${results.made}</span><button onClick=${() => setDark(!dark)}>${dark ? "light" : "dark"}</button><button onClick=${() => setHelp(!help)} aria-expanded=${help}>keys</button></header>
    ${help && html`<p class="keys"><kbd>1</kbd> to <kbd>7</kbd> views; samples: <kbd>j</kbd> <kbd>k</kbd> next and previous, <kbd>/</kbd> search, <kbd>v</kbd> thumbnails, <kbd>z</kbd> enlarge, <kbd>b</kbd> boxes on and off, <kbd>l</kbd> copies the link to the sample; <kbd>t</kbd> light or dark, <kbd>?</kbd> this line</p>`}
    <main id="main" tabindex="-1">
      ${error && html`<${Fault}>${error} (the last results are shown)</${Fault}>`}
      ${results.faults.length > 0 && html`<details class="faults"><summary>${results.faults.length} ${results.faults.length === 1 ? "thing is" : "things are"} missing here</summary><ul>${results.faults.map((f, i) => html`<li key=${i}>${f}</li>`)}</ul></details>`}
      ${View ? html`<${View} results=${results} state=${state} change=${change} notes=${notes} keys=${keys} />` : html`<p class="note">No results yet.</p>`}</main>`;
}

document.getElementById("page").replaceChildren();
render(html`<${Page} />`, document.getElementById("page"));
