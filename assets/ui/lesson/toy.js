// sage/toy.py in the browser: the exact denoiser of a mixture in the plane, DDIM, and the moment
// at which classes separate. Points are [x, y]. A test holds every number to the Python reference.
const SageToy = (() => {
  /** ᾱ on steps + 1 even times, from almost pure noise to clean data. */
  function alphas(steps) {
    return Array.from({ length: steps + 1 }, (_, i) =>
      Math.max(Math.cos(((1 - i / steps) * Math.PI) / 2) ** 2, 1e-4));
  }

  const tables = {};
  /** Everything a step needs that does not depend on the point; made once for a number of steps. */
  function table(steps) {
    const f = Math.fround, levels = alphas(steps); // the solver keeps its coefficients in float32
    return (tables[steps] ??= levels.slice(0, -1).map((alpha, i) => {
      const signal = Math.sqrt(alpha), noise = Math.sqrt(1 - alpha), next = levels[i + 1];
      return { alpha, signal, noise, fromX: f(1 / signal), fromEps: f(-noise / signal),
        nextX0: f(Math.sqrt(next)), nextEps: f(Math.sqrt(1 - next)) };
    }));
  }

  /** E[clean point | x] (Tweedie's formula) where all modes are equally likely, or only one. */
  function clean(x, { alpha, signal }, { means, std }, only) {
    const spread = alpha * std ** 2 + 1 - alpha, gain = (signal * std ** 2) / spread;
    const pull = (m, axis) => m[axis] + gain * (x[axis] - signal * m[axis]);
    if (only !== null) return [pull(means[only], 0), pull(means[only], 1)];
    const logits = means.map((m) =>
      -((x[0] - signal * m[0]) ** 2 + (x[1] - signal * m[1]) ** 2) / (2 * spread));
    const top = Math.max(...logits), parts = logits.map((l) => Math.exp(l - top));
    let total = 0, sumX = 0, sumY = 0;
    means.forEach((m, k) => {
      total += parts[k];
      sumX += parts[k] * pull(m, 0);
      sumY += parts[k] * pull(m, 1);
    });
    return [sumX / total, sumY / total];
  }

  /** One DDIM step of a point. */
  function step(x, row, mixture, only) {
    const guess = clean(x, row, mixture, only);
    const along = (axis) => {
      const eps = (x[axis] - row.signal * guess[axis]) / row.noise;
      return row.nextX0 * (row.fromX * x[axis] + row.fromEps * eps) + row.nextEps * eps;
    };
    return [along(0), along(1)];
  }

  /** The points of one trajectory over steps from..to, its start included. */
  function walk(x, from, to, rows, mixture, only) {
    const points = [x];
    for (let i = from; i < to; i++) points.push((x = step(x, rows[i], mixture, only)));
    return points;
  }

  /** Where a prompt's own steps from..steps lead; as `walk`, without keeping the way. */
  function end(x, from, rows, mixture, only) {
    for (let i = from; i < rows.length; i++) x = step(x, rows[i], mixture, only);
    return x;
  }

  /** A group of all prompts from one noise: the trunk's points, then each prompt's. */
  function run(mixture, steps, branch, noise) {
    const rows = table(steps);
    const trunk = walk(noise, 0, branch, rows, mixture, null);
    const branches = mixture.means.map((_, k) => walk(trunk.at(-1), branch, steps, rows, mixture, k));
    return { trunk, branches };
  }

  /** Only the end points of `run`. */
  function ends(mixture, steps, branch, noise) {
    const rows = table(steps), fork = walk(noise, 0, branch, rows, mixture, null).at(-1);
    return mixture.means.map((_, k) => end(fork, branch, rows, mixture, k));
  }

  /** Mean distance of shared to independent end points at every branch point, in σ. */
  function distances(mixture, steps, noises) {
    const rows = table(steps), sums = new Array(steps + 1).fill(0);
    for (const noise of noises) {
      const trunk = walk(noise, 0, steps, rows, mixture, null);
      mixture.means.forEach((_, k) => {
        const alone = end(noise, 0, rows, mixture, k);
        for (let b = 1; b <= steps; b++) {
          const shared = end(trunk[b], b, rows, mixture, k);
          sums[b] += Math.hypot(shared[0] - alone[0], shared[1] - alone[1]);
        }
      });
    }
    return sums.map((sum) => sum / (noises.length * mixture.means.length * mixture.std));
  }

  /** Finished steps at which the classes separate, not rounded; null if they overlap too much. */
  function speciation({ means, std }, steps) {
    const count = means.length;
    const middle = [0, 1].map((axis) => means.reduce((sum, m) => sum + m[axis], 0) / count);
    const moment = (a, b) =>
      means.reduce((sum, m) => sum + (m[a] - middle[a]) * (m[b] - middle[b]), 0) / count;
    const xx = moment(0, 0), yy = moment(1, 1), xy = moment(0, 1);
    const largest = (xx + yy) / 2 + Math.hypot((xx - yy) / 2, xy); // eigenvalue of a 2 × 2 matrix
    if (largest <= std ** 2) return null;
    const alpha = 1 / (1 + largest - std ** 2);
    return steps * (1 - (2 / Math.PI) * Math.acos(Math.sqrt(alpha)));
  }

  return { run, ends, distances, speciation };
})();
