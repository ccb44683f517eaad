// To hand a sample to somebody: its link, or all that there is of it as a text.
const copied = (text) => Promise.resolve(navigator.clipboard?.writeText(text) ?? Promise.reject());

// The address of a sample, with the filters, order and search that it is seen under.
const addressOfSample = (part, cells, id) => addressOf({ ...readAddress(), view: "samples", part: part.name, cells: cells.map((c) => c.key), id });
const absolute = (address) => `${location.href.split("#")[0]}${address}`;

// A plain click copies the link; any other way of opening it is the browser's own.
function SampleLink({ address }) {
  const [came, setCame] = useState("");
  const field = useRef();
  useEffect(() => setCame(""), [address]);
  useEffect(() => { field.current?.focus(); field.current?.select(); }, [came]);
  const byHand = () => { setCame("by hand"); field.current?.select(); };
  const copy = (e) => {
    if (e.button || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey) return;
    e.preventDefault();
    copied(absolute(address)).then(() => setCame("copied"), byHand);
  };
  return html`<a href=${address} class="link share" title="copies the link (l)" onClick=${copy} onBlur=${() => setCame((c) => (c === "copied" ? "" : c))}>link to this sample</a>
    <span role="status" class="came">${came === "copied" ? "copied" : came && "copy it from here:"}</span>
    ${came === "by hand" && html`<input ref=${field} class="by-hand" readonly value=${absolute(address)} aria-label="the link" />`}`;
}

// Whom the link is of use to; nothing to say on a page that a web server shows.
function Reach() {
  if (place.live) return html`<p class="note reach">The link opens on this machine only. To send the sample: copy it as text, or send the page that <code>evalkit report</code> writes.</p>`;
  if (location.protocol === "file:") return html`<p class="note reach">The link opens where this file lies. For others: copy the sample as text, or send the file${place.folder ? " with its folder" : ""} along.</p>`;
  return null;
}

// A sample to paste into a message, for somebody who may not have this page.
function asText({ part, cells }, sample, answers) {
  return [`${part.name}, sample ${sample.id}`, sample.question, sample.choices.length ? `choices: ${sample.choices.join(" | ")}` : null, `target: ${targetText(sample).replace(/\n/g, " | ")}`,
    ...cells.map((cell, k) => `${cell.label}: ${answers[k] ? answers[k].error ?? saidText(answers[k].text) : "not asked"}`), absolute(addressOfSample(part, cells, sample.id))].filter((line) => line !== null).join("\n");
}

function Copy({ text }) {
  const [said, setSaid] = useState("copy as text");
  const copy = () => copied(text()).then(() => setSaid("copied"), () => setSaid("the browser forbids it"));
  return html`<button class="link" aria-live="polite" onClick=${copy} onBlur=${() => setSaid("copy as text")}>${said}</button>`;
}
