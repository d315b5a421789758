// sage/toy.py in the browser: the exact denoiser of a mixture in the plane, DDIM, and the moment
// at which classes separate. Points are [x, y]. A test holds every number to the Python reference.
const SageToy = (() => {
  /** ᾱ on steps + 1 even times, from almost pure noise to clean data. */
  function alphas(steps) {
    return Array.from({ length: steps + 1 }, (_, i) =>
      Math.max(Math.cos(((1 - i / steps) * Math.PI) / 2) ** 2, 1e-4));
  }

  /** E[clean point | x] when the modes with weights > 0 are possible (Tweedie's formula). */
  function clean(x, alpha, { means, std }, weights) {
    const signal = Math.sqrt(alpha), spread = alpha * std ** 2 + 1 - alpha;
    const squares = means.map((m) => (x[0] - signal * m[0]) ** 2 + (x[1] - signal * m[1]) ** 2);
    const logits = squares.map((s, k) => Math.log(weights[k]) - s / (2 * spread));
    const top = Math.max(...logits);
    const parts = logits.map((l) => Math.exp(l - top));
    const total = parts.reduce((a, b) => a + b);
    const gain = (signal * std ** 2) / spread;
    return [0, 1].map((axis) => means.reduce((sum, m, k) =>
      sum + (parts[k] / total) * (m[axis] + gain * (x[axis] - signal * m[axis])), 0));
  }

  /** One DDIM step. The solver keeps its coefficients in float32, hence fround. */
  function step(x, i, levels, mixture, weights) {
    const f = Math.fround, a = levels[i], b = levels[i + 1];
    const signal = Math.sqrt(a), noise = Math.sqrt(1 - a);
    const guess = clean(x, a, mixture, weights);
    return [0, 1].map((axis) => {
      const eps = (x[axis] - signal * guess[axis]) / noise;
      const x0 = f(1 / signal) * x[axis] + f(-noise / signal) * eps;
      return f(Math.sqrt(b)) * x0 + f(Math.sqrt(1 - b)) * eps;
    });
  }

  /** The points of one trajectory over steps from..to, its start included. */
  function walk(x, from, to, levels, mixture, weights) {
    const points = [x];
    for (let i = from; i < to; i++) points.push(step(points.at(-1), i, levels, mixture, weights));
    return points;
  }

  const all = (mixture) => mixture.means.map(() => 1 / mixture.means.length);
  const only = (mixture, k) => mixture.means.map((_, j) => (j === k ? 1 : 0));

  /** A group of all prompts from one noise: the trunk's points, then each prompt's. */
  function run(mixture, steps, branch, noise) {
    const levels = alphas(steps);
    const trunk = walk(noise, 0, branch, levels, mixture, all(mixture));
    const branches = mixture.means.map((_, k) =>
      walk(trunk.at(-1), branch, steps, levels, mixture, only(mixture, k)));
    return { trunk, branches };
  }

  const distance = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1]);

  /** Mean distance of shared to independent end points at every branch point, in σ. */
  function distances(mixture, steps, noises) {
    const levels = alphas(steps), sums = new Array(steps + 1).fill(0);
    for (const noise of noises) {
      const trunk = walk(noise, 0, steps, levels, mixture, all(mixture));
      mixture.means.forEach((_, k) => {
        const weights = only(mixture, k);
        const end = (b) => walk(trunk[b], b, steps, levels, mixture, weights).at(-1);
        const alone = end(0);
        for (let b = 1; b <= steps; b++) sums[b] += distance(end(b), alone);
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

  return { alphas, run, distances, speciation };
})();
