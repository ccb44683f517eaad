// Documents by name: inside the page, scripts beside it, or fetched from the server that shows it.
const { h, render } = preact;
const { useEffect, useMemo, useRef, useState } = preactHooks;
const html = htm.bind(h);
const place = JSON.parse(document.getElementById("place").textContent);
const MOST_CHUNKS = 60; // kept of the documents of texts; an index is kept as long as it is current
const kept = new Map(); // name -> promise
const waiting = new Map(); // name -> resolve, of scripts that are on their way

globalThis.evalkitDocument = (name, value) => waiting.get(name)?.(value);

function load(name) {
  const inside = document.getElementById(`document-${name}`);
  if (inside) return Promise.resolve(JSON.parse(inside.textContent));
  if (place.live) return fetchJson(`documents/${name}.json`);
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    waiting.set(name, (value) => { waiting.delete(name); script.remove(); resolve(value); });
    script.onerror = () => reject(new Error(`${place.folder}/${name}.js can't be read: is the folder still beside this page?`));
    script.src = `${encodeURIComponent(place.folder)}/${name}.js`;
    document.head.append(script);
  });
}

async function fetchJson(address, options) {
  const answer = await fetch(address, options);
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(value.error ?? `${address}: ${answer.status}`);
  return value;
}

// A document, read once for each revision (how much of a growing result it is about).
function documentOf(name, revision = 0) {
  const known = kept.get(name);
  if (known && known.revision === revision) {
    kept.delete(name);
    kept.set(name, known); // the last one that was asked for is forgotten last
    return known.promise;
  }
  const promise = load(name);
  kept.set(name, { revision, promise });
  promise.catch(() => kept.delete(name));
  const chunks = [...kept.keys()].filter((key) => key.includes("-"));
  for (const key of chunks.slice(0, Math.max(0, chunks.length - MOST_CHUNKS))) kept.delete(key);
  return promise;
}

// The value of a promise in a component: [value, error], undefined until it is there.
function usePromise(make, keys) {
  const [state, set] = useState({});
  useEffect(() => {
    let current = true;
    Promise.resolve(make()).then(
      (value) => current && set({ value }),
      (error) => current && set({ error: error.message }),
    );
    return () => { current = false; };
  }, keys);
  return [state.value, state.error];
}

// The columns of a part and of some of its cells. `at` and `texts` read by a sample's place.
async function columnsOf(part, cells) {
  const [own, ...theirs] = await Promise.all([
    documentOf(part.doc, part.count),
    ...cells.map((cell) => documentOf(cell.doc, `${part.count}/${cell.asked}/${cell.written}`)),
  ]);
  return { part: { ...part, range: own.range }, cells, count: own.ids.length, ids: own.ids, clusters: own.clusters, spread: own.clusters.reduce((most, c) => Math.max(most, c + 1), 0), group: own.group, units: own.units, fields: own.fields, numbers: own.numbers, answers: theirs };
}

async function textsOf(part, cells, at) {
  const chunk = Math.floor(at / place.chunk), inside = at % place.chunk;
  const [own, ...theirs] = await Promise.all([
    documentOf(`${part.doc}-samples-${chunk}`, part.count),
    ...cells.map((cell) => documentOf(`${cell.doc}-answers-${chunk}`, `${part.count}/${cell.asked}/${cell.written}`)),
  ]);
  return { sample: own.samples[inside], answers: theirs.map((their) => their.answers[inside] ?? null) };
}
