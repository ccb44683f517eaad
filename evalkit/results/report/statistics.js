// Means with 95 % intervals over clusters: samples that share a picture are not independent.
// By linearisation (cluster-robust standard error, Student's t); `evalkit compare` prints bootstrap
// intervals and corrected p-values, which these approximate.
const T = [12.71, 4.3, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23];
const quantile = (freedom) => T[freedom - 1] ?? 1.96 + 2.4 / freedom;
const absent = (value) => value === null || value === undefined;

// What a metric averages of some samples, for one or two answers `ks` (of two, what both have):
// values and weights of each answer, clusters, groups. Of a unit (samples that share a value) the
// least value counts; with filters, that of its samples which they left.
function counted(places, columns, m, ks) {
  const scores = ks.map((k) => columns.answers[k].scores[m.name] ?? []);
  const weights = ks.map((k) => (m.weight ? columns.answers[k].scores[m.weight] ?? [] : null));
  const out = { values: ks.map(() => []), weights: ks.map(() => []), clusters: [], groups: [] };
  const keys = m.units.length ? m.units : [""];
  for (let key = 0; key < keys.length; key++) {
    const units = keys[key] === "" ? null : columns.units[keys[key]], rows = new Map();
    for (const i of places) {
      if (absent(scores[0][i]) || (ks.length > 1 && absent(scores[1][i])) || (units && units[i] < 0)) continue;
      const row = units ? rows.get(units[i]) : undefined;
      for (let x = 0; x < ks.length; x++) {
        if (row !== undefined) out.values[x][row] = Math.min(out.values[x][row], scores[x][i]);
        else { out.values[x].push(scores[x][i]); out.weights[x].push(weights[x] ? weights[x][i] ?? 0 : 1); }
      }
      if (row !== undefined) continue;
      if (units) rows.set(units[i], out.clusters.length);
      out.clusters.push(columns.clusters[i]);
      out.groups.push((columns.group ? columns.group[i] : 0) * keys.length + key);
    }
  }
  // of groups that are added up, their mean times their number
  out.added = m.total ? new Set(out.groups.map((g) => Math.floor(g / keys.length))).size : 1;
  return out;
}

// The mean of the groups' means, and how far each cluster pulls it.
function estimate(values, weights, { clusters, groups, added }, pulls, sign) {
  const sums = [], heavy = [];
  for (let i = 0; i < values.length; i++) {
    sums[groups[i]] = (sums[groups[i]] ?? 0) + weights[i] * values[i];
    heavy[groups[i]] = (heavy[groups[i]] ?? 0) + weights[i];
  }
  const there = Object.keys(heavy).filter((g) => heavy[g] > 0);
  if (!there.length) return null;
  let mean = 0;
  for (const g of there) mean += (added * sums[g]) / heavy[g] / there.length;
  for (let i = 0; i < values.length; i++) {
    const g = groups[i];
    if (heavy[g] > 0) pulls[clusters[i]] += (sign * added * weights[i] * (values[i] - sums[g] / heavy[g])) / (there.length * heavy[g]);
  }
  return mean;
}

function withInterval(mean, pulls, { clusters, added }) {
  const many = new Set(clusters).size, n = clusters.length;
  let square = 0;
  for (const pull of pulls) square += pull * pull;
  // one cluster, or all alike: nothing to judge the spread by
  if (many < 2 || square < 1e-18) return { mean, n, added, low: null, high: null };
  const half = quantile(many - 1) * Math.sqrt((square * many) / (many - 1));
  return { mean, n, added, low: mean - half, high: mean + half };
}

// The metric over some samples of the k-th answer; null where none has a score. Its interval ends
// where the scores themselves do.
function meanOf(places, columns, m, k) {
  const items = counted(places, columns, m, [k]), pulls = new Float64Array(columns.spread);
  const mean = estimate(items.values[0], items.weights[0], items, pulls, 1);
  if (mean === null) return null;
  const out = withInterval(mean, pulls, items), ends = columns.part.range.map((v) => v * items.added);
  return out.low === null ? out : { ...out, low: Math.max(out.low, Math.min(...ends)), high: Math.min(out.high, Math.max(...ends)) };
}

// The paired difference of two answers over the samples that both have.
function differenceOf(places, columns, m, a, b) {
  const items = counted(places, columns, m, [a, b]), pulls = new Float64Array(columns.spread);
  const [first, second] = [0, 1].map((x) => estimate(items.values[x], items.weights[x], items, pulls, x ? -1 : 1));
  return first === null || second === null ? null : withInterval(first - second, pulls, items);
}

const verdict = (d, higher) =>
  !d || d.low === null ? "" : d.low > 0 ? (higher ? "better" : "worse") : d.high < 0 ? (higher ? "worse" : "better") : "not significant";

const number = (value, digits = 1) => (value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(digits).replace("-", "−"));
const signed = (value) => (value > 0 ? "+" : "") + number(value);
const interval = (m, scale = 1) => (m && m.low !== null && m.low !== undefined ? `${number(m.low * scale)} to ${number(m.high * scale)}` : "no interval");
const thousands = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
function duration(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${number(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
