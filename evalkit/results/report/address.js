// The values that a filter of classes wants, as one text: "a|b", whatever stands in a name itself.
const joined = (names) => names.map((name) => (name === "" ? "\\0" : name.replace(/[\\|]/g, "\\$&"))).join("|");
const parted = (wanted) => (wanted.match(/(\\.|[^\\|])+/gs) ?? []).map((name) => (name === "\\0" ? "" : name.replace(/\\(.)/gs, "$1")));

// What is shown is what the address says: a link reproduces the view, and back goes back.
const VIEWS = ["overview", "groups", "samples", "charts", "sweeps", "notes", "studies"];

function readAddress() {
  const [view, query] = location.hash.slice(1).split("?");
  const words = new URLSearchParams(query ?? "");
  return {
    view: VIEWS.includes(view) ? view : "overview",
    part: words.get("task"),
    cells: words.getAll("cell"),
    filters: words.getAll("filter").map((text) => text.split("~").map(decodeURIComponent)).filter((f) => f.length === 3),
    search: words.get("search") ?? "",
    sort: words.get("sort") ?? "",
    id: words.get("sample"),
    by: words.get("by") ?? "",
    base: words.get("base") ?? "",
    find: words.get("find") ?? "",
    thumbs: words.has("thumbs"),
  };
}

function addressOf(state) {
  const words = new URLSearchParams();
  if (state.part) words.set("task", state.part);
  for (const cell of state.cells ?? []) words.append("cell", cell);
  for (const f of state.filters ?? []) words.append("filter", f.map((word) => encodeURIComponent(word).replaceAll("~", "%7E")).join("~"));
  for (const [name, value] of [["search", state.search], ["sort", state.sort], ["by", state.by], ["base", state.base], ["find", state.find]]) {
    if (value) words.set(name, value);
  }
  if (typeof state.id === "string") words.set("sample", state.id);
  if (state.thumbs) words.set("thumbs", "");
  const query = words.toString();
  return `#${state.view}${query ? `?${query}` : ""}`;
}

// `change` keeps what it does not name. Steps through samples replace the address, so that "back"
// leaves the list in one step.
function useAddress() {
  const [state, set] = useState(readAddress);
  useEffect(() => {
    const read = () => set(readAddress());
    addEventListener("hashchange", read);
    return () => removeEventListener("hashchange", read);
  }, []);
  const change = (changes, step = false) => {
    const next = { ...readAddress(), ...changes };
    if (step) { history.replaceState(null, "", addressOf(next)); set(next); }
    else location.hash = addressOf(next);
  };
  return [state, change];
}
