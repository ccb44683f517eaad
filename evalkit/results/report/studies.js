// Studies of the lab, from their tables: what came of the hypotheses, effects, right answers, learning.
function Studies({ results, state, change }) {
  const [found, error] = usePromise(() => (results.studies ? documentOf("studies", results.studies) : { studies: [], faults: [] }), [results.studies]);
  if (error) return html`<${Fault}>${error}</${Fault}>`;
  if (!found) return html`<p class="note">reading …</p>`;
  const { studies, faults } = found, study = studies.find((s) => s.name === state.part) ?? studies[0];
  return html`<section>${faults.map((fault) => html`<${Fault} key=${fault}>${fault}</${Fault}>`)}
    ${studies.length > 1 && html`<div class="controls"><${Choice} id="study" label="study" value=${study.name} options=${studies.map((s) => [s.name, s.name])} onChange=${(name) => change({ part: name, by: "" })} /></div>`}
    ${study ? html`<${OneStudy} key=${study.name} study=${study} state=${state} change=${change} />` : !faults.length && html`<p class="note">No study lies in this folder. <code>evalkit study</code> makes one.</p>`}</section>`;
}

const namesOf = (rows, key) => [...new Set(rows.map((row) => row[key]))];

function OneStudy({ study, state, change }) {
  const conditions = namesOf(study.scores, "condition"), kinds = namesOf(study.scores, "kind"), arms = namesOf(study.scores, "arm");
  const condition = conditions.includes(state.by) ? state.by : conditions[0];
  const [heads, ...rows] = study.hypotheses;  // none in a study that states no hypothesis
  const effects = kinds.flatMap((kind) => study.effects.filter((e) => e.kind === kind && e.condition === condition));
  return html`<h2>${study.name}</h2><p>${study.question}</p><ul>${study.sentences.map((text, i) => html`<li key=${i}>${text}</li>`)}</ul>
    <h3>${study.as_stated}</h3>
    ${heads && html`<${SortableTable} caption=${study.as_stated} columns=${heads} rows=${rows.map((row, i) => ({ key: i, cells: row.map((text) => ({ text })) }))} />`}
    <p class="note">Differences are of NLL in nats an answer, first arm minus second; ${heads && "these intervals hold together at 95 %, "}those below at 95 % each.</p>
    <h3>Effects</h3>
    <div class="controls"><${Choice} id="by" label="condition" value=${condition} options=${conditions.map((name) => [name, name])} onChange=${(by) => change({ by })} /></div>
    ${effects.length > 0 ? html`<${Forest} title=${`NLL minus that of ${effects[0].baseline}, in nats (below 0: better), ${condition}; 95 % intervals over seeds, filled where 0 lies outside`}
      rows=${effects.map((e) => ({ ...e, name: `${e.kind}: ${e.arm}`, filled: e.low > 0 || e.high < 0, words: `${e.kind}, ${e.arm}: ${signed(e.difference, 2)} (${number(e.low, 2)} to ${number(e.high, 2)}), ${e.seeds} seeds` }))} />`
      : html`<p class="note">No arm has two seeds in common with the baseline here.</p>`}
    <h3>Right answers in per cent</h3>
    <div class="charts">${kinds.map((kind) => html`<${Right} key=${kind} kind=${kind} arms=${arms} conditions=${conditions} scores=${study.scores.filter((s) => s.kind === kind)} />`)}</div>
    <p class="note">The mean over seeds; the fuller the colour, the better.</p>
    <h3>Learning</h3>
    ${study.curves.length > 0 ? html`<${Learning} curves=${study.curves} />` : html`<p class="note">The study's folder holds no curves.csv: its page was written before learning curves were kept. <code>evalkit study</code> writes it where the runs are.</p>`}`;
}

function Right({ kind, arms, conditions, scores }) {
  const there = conditions.filter((condition) => scores.some((s) => s.condition === condition));
  const rows = arms.map((arm) => ({ key: arm, cells: [{ text: arm }, ...there.map((condition) => {
    const score = scores.find((s) => s.arm === arm && s.condition === condition);
    return score ? { text: number(score.right * 100), sort: score.right, mark: "number heat", style: { "--share": `${Math.round(score.right * 55)}%` } } : { text: "–", sort: null };
  })] }));
  return html`<figure class="chart"><figcaption>${kind}</figcaption><${SortableTable} caption=${`right answers, ${kind}`} columns=${["arm", ...there]} rows=${rows} /></figure>`;
}

function Learning({ curves }) {
  const arms = namesOf(curves, "arm");
  return html`<ul class="legend">${arms.map((arm, i) => html`<li key=${arm}><svg width="30" height="10" aria-hidden="true"><line class="line" x1="0" x2="30" y1="5" y2="5" stroke-dasharray=${dash(i)} style=${{ stroke: colour(i) }} /></svg> ${arm}</li>`)}</ul>
    <div class="charts">${namesOf(curves, "kind").map((kind) => html`<${Lines} key=${kind} title=${`${kind}: NLL in training, mean over seeds`} label="nats" under="step"
      lines=${arms.map((arm) => ({ name: arm, points: curves.filter((p) => p.arm === arm && p.kind === kind).map((p) => [p.step, p.nll]) })).filter((line) => line.points.length)} />`)}</div>`;
}
