// Means with 95 % intervals over clusters: samples that share a picture are not independent.
// By linearisation (cluster-robust standard error, Student's t): symmetric, where the runs' own
// bootstrap (evalkit/stats.py) follows the skew of scores near an end. So they are used where no run
// has a number: for what filters leave, groups and differences.
const T = [12.71, 4.3, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23];
const Z2 = 1.959964 ** 2;
const quantile = (freedom) => T[freedom - 1] ?? 1.96 + 2.4 / freedom;
const absent = (value) => value === null || value === undefined;

// What a metric averages of some samples, for one or two answers `ks` (of two, what both have): the
// first `n` of values, weights (null: all alike), clusters and groups. Of a unit (samples that share
// a value) the least value counts, or each with its weight; with filters, of the samples which they
// left. One with a sample without a score has none.
function counted(places, columns, m, ks) {
  const keys = m.units.length ? m.units : [""], room = places.length * keys.length;
  const scores = ks.map((k) => columns.answers[k].scores[m.name] ?? []);
  const heavy = ks.map((k) => (m.weight ? columns.answers[k].scores[m.weight] ?? [] : null));
  const values = ks.map(() => new Float64Array(room)), weights = heavy.map((w) => w && new Float64Array(room));
  const clusters = new Int32Array(room), groups = new Int32Array(room);
  const lacks = (i) => absent(scores[0][i]) || (ks.length > 1 && absent(scores[1][i]));
  let n = 0;
  for (let key = 0; key < keys.length; key++) {
    const units = keys[key] === "" ? null : columns.units[keys[key]], rows = new Map();
    const broken = units && new Set(places.filter(lacks).map((i) => units[i]));
    for (const i of places) {
      if (lacks(i) || (units && (units[i] < 0 || broken.has(units[i])))) continue;
      const known = units && !m.weight ? rows.get(units[i]) : undefined, row = known ?? n;
      for (let x = 0; x < ks.length; x++) {
        values[x][row] = known === undefined ? scores[x][i] : Math.min(values[x][row], scores[x][i]);
        if (weights[x]) weights[x][row] = heavy[x][i] ?? 0;
      }
      if (known !== undefined) continue;
      if (units) rows.set(units[i], row);
      clusters[row] = columns.clusters[i];
      groups[row] = (columns.group ? columns.group[i] + 1 : 0) * keys.length + key;
      n += 1;
    }
  }
  // of groups that are added up, their mean times their number
  const added = m.total ? new Set(groups.subarray(0, n).map((g) => Math.floor(g / keys.length))).size : 1;
  return { n, values, weights, clusters, groups, added };
}

// The mean of the groups' means, and how far each cluster pulls it.
function estimate({ n, values, weights, clusters, groups, added }, x, pulls, sign) {
  const v = values[x], w = weights[x];
  let kinds = 0;
  for (let i = 0; i < n; i++) kinds = Math.max(kinds, groups[i] + 1);
  const sums = new Float64Array(kinds), heavy = new Float64Array(kinds);
  for (let i = 0; i < n; i++) {
    const weight = w ? w[i] : 1;
    sums[groups[i]] += weight * v[i];
    heavy[groups[i]] += weight;
  }
  const there = heavy.reduce((count, h) => count + (h > 0), 0);
  if (!there) return null;
  let mean = 0;
  for (let g = 0; g < kinds; g++) if (heavy[g] > 0) mean += (added * sums[g]) / heavy[g] / there;
  for (let i = 0; i < n; i++) {
    const g = groups[i];
    if (heavy[g] > 0) pulls[clusters[i]] += (sign * added * (w ? w[i] : 1) * (v[i] - sums[g] / heavy[g])) / (there * heavy[g]);
  }
  return mean;
}

function withInterval(mean, pulls, { n, clusters, added }) {
  const seen = new Uint8Array(pulls.length);
  let many = 0, square = 0;
  for (let i = 0; i < n; i++) if (!seen[clusters[i]]) { seen[clusters[i]] = 1; many += 1; }
  for (const pull of pulls) square += pull * pull;
  // one cluster, or all alike: nothing to judge the spread by
  if (many < 2 || square < 1e-18) return { mean, n, added, many, low: null, high: null };
  const half = quantile(many - 1) * Math.sqrt((square * many) / (many - 1));
  return { mean, n, added, low: mean - half, high: mean + half };
}

// The metric over some samples of the k-th answer; null where none has a score. Its interval ends
// where the scores themselves do.
function meanOf(places, columns, m, k) {
  const items = counted(places, columns, m, [k]), pulls = new Float64Array(columns.spread);
  const mean = estimate(items, 0, pulls, 1);
  if (mean === null) return null;
  const out = withInterval(mean, pulls, items);
  if (out.low === null && out.many > 1 && items.added === 1 && (mean === 0 || mean === 1)) { // all wrong or all right: Wilson's interval, as the run's own
    const reach = Z2 / (out.many + Z2);
    return { ...out, low: mean && 1 - reach, high: mean || reach };
  }
  const ends = columns.part.range.map((v) => v * items.added);
  return out.low === null ? out : { ...out, low: Math.max(out.low, Math.min(...ends)), high: Math.min(out.high, Math.max(...ends)) };
}

// The paired difference of two answers over the samples that both have.
function differenceOf(places, columns, m, a, b) {
  const items = counted(places, columns, m, [a, b]), pulls = new Float64Array(columns.spread);
  const [first, second] = [0, 1].map((x) => estimate(items, x, pulls, x ? -1 : 1));
  return first === null || second === null ? null : withInterval(first - second, pulls, items);
}

const APPROXIMATE = "Intervals (95 %) are approximate: cluster-robust by Student’s t, where the run’s own are a bootstrap.";

const verdict = (d, higher) =>
  !d || d.low === null ? "" : d.low > 0 ? (higher ? "better" : "worse") : d.high < 0 ? (higher ? "worse" : "better") : "not significant";

const number = (value, digits = 1) => (value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(digits).replace("-", "−"));
const signed = (value, digits = 1) => (value > 0 ? "+" : "") + number(value, digits);
const interval = (m, scale = 1) => (m && m.low !== null && m.low !== undefined ? `${number(m.low * scale)} to ${number(m.high * scale)}` : "no interval");
const thousands = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
function duration(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${number(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
