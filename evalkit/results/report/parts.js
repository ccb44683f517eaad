// Small pieces that several views are made of.
const COLOURS = ["--one", "--two", "--three", "--four", "--five"];
const colour = (i) => `var(${COLOURS[i % COLOURS.length]})`;

function Swatch({ i }) {
  return html`<span class="swatch" style=${{ background: colour(i) }} aria-hidden="true"></span>`;
}

function Choice({ label, value, options, onChange, id }) {
  return html`<label>${label} <select id=${id} value=${value} onChange=${(e) => onChange(e.target.value)}>
    ${options.map(([key, text]) => html`<option key=${key} value=${key}>${text}</option>`)}</select></label>`;
}

function Score({ metric }) {
  if (!metric) return html`<span>–</span>`;
  return html`<span title=${`${metric.name}, 95 % interval ${interval(metric)}, n ${metric.n}`}>${number(metric.value)}</span>`;
}

// Text of models and data: its own direction, line breaks kept.
const Said = ({ text, className }) => html`<div class=${`said ${className ?? ""}`} dir="auto">${text}</div>`;

const Fault = ({ children }) => html`<p class="fault" role="alert">${children}</p>`;

// A table whose columns sort it. rows: {key, cells: [{text, sort, node, mark}]}
function SortableTable({ columns, rows, caption, first = -1 }) {
  const [by, setBy] = useState([first, false]);
  const sorted = useMemo(() => {
    const [column, down] = by;
    if (column < 0) return rows;
    const value = (row) => row.cells[column].sort ?? row.cells[column].text;
    const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
    return [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || x === undefined) return 1;
      if (y === null || y === undefined) return -1;
      return (down ? -1 : 1) * order(x, y);
    });
  }, [rows, by]);
  return html`<div class="wide" tabindex="0" role="region" aria-label=${caption}><table>
    <caption class="hidden">${caption}</caption>
    <thead><tr>${columns.map((name, i) => html`<th key=${i} scope="col" aria-sort=${by[0] === i ? (by[1] ? "descending" : "ascending") : "none"}>
      <button class="plain" onClick=${() => setBy([i, by[0] === i ? !by[1] : typeof rows[0]?.cells[i].sort === "number"])}>${name}${by[0] === i ? (by[1] ? " ▾" : " ▴") : ""}</button></th>`)}</tr></thead>
    <tbody>${sorted.map((row) => html`<tr key=${row.key}>${row.cells.map((cell, i) =>
      html`<td key=${i} class=${cell.mark ?? ""} style=${cell.style}>${cell.node ?? cell.text}</td>`)}</tr>`)}</tbody></table></div>`;
}
