// Means with 95 % intervals over clusters: samples that share a picture are not independent.
// By linearisation (cluster-robust standard error, Student's t); `evalkit compare` prints bootstrap
// intervals and corrected p-values, which these approximate.
const T = [12.71, 4.3, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23];
// An interval ends where the scores themselves do.
const within = (m, [a, b]) => (m && m.low !== null ? { ...m, low: Math.max(m.low, Math.min(a, b)), high: Math.min(m.high, Math.max(a, b)) } : m);
const quantile = (freedom) => T[freedom - 1] ?? 1.96 + 2.4 / freedom;

// `values[i]` may be null; `groups` (codes) makes it the mean of the groups' means.
function meanOf(places, values, clusters, groups) {
  const sums = new Map(); // group -> [sum, n]
  let n = 0;
  for (const i of places) {
    const value = values(i);
    if (value === null || value === undefined) continue;
    const group = groups ? groups[i] : 0;
    const entry = sums.get(group) ?? [0, 0];
    entry[0] += value; entry[1] += 1; n += 1;
    sums.set(group, entry);
  }
  if (!n) return null;
  let mean = 0;
  for (const [sum, count] of sums.values()) mean += sum / count / sums.size;
  const residuals = new Map(); // cluster -> its influence on the mean
  for (const i of places) {
    const value = values(i);
    if (value === null || value === undefined) continue;
    const [sum, count] = sums.get(groups ? groups[i] : 0);
    residuals.set(clusters[i], (residuals.get(clusters[i]) ?? 0) + (value - sum / count) / (sums.size * count));
  }
  const many = residuals.size;
  let square = 0;
  for (const r of residuals.values()) square += r * r;
  // one cluster, or all alike: nothing to judge the spread by
  if (many < 2 || square < 1e-18) return { mean, n, low: null, high: null };
  const half = quantile(many - 1) * Math.sqrt(square * many / (many - 1));
  return { mean, n, low: mean - half, high: mean + half };
}

// The paired difference a - b of two cells' scores over places that both have.
function differenceOf(places, a, b, clusters, groups) {
  const difference = (i) => {
    const x = a(i), y = b(i);
    return x === null || y === null || x === undefined || y === undefined ? null : x - y;
  };
  return meanOf(places, difference, clusters, groups);
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
