// Draws a plan: noise at the left, trunks, branch points, branches; and finds the marks of a
// curve's axis. Studio and Lesson both use it.
// Knows segments {members, start, stop, parent}, steps and colours; nothing of pages or servers.
// Coordinates are steps across and prompts down; the box stretches them to its own size.
window.sageTree ??= (() => {
  const SVG = "http://www.w3.org/2000/svg";
  let drawn = 0; // makes the names of clips unique

  /** The segments of groups that share up to a branch point, as sage.core.plan.shared_plan. */
  const groupsPlan = (groups, steps, point) => {
    const segments = [];
    for (const members of groups) {
      const parent = segments.length;
      if (members.length === 1 || point >= steps) {
        segments.push({ members, start: 0, stop: steps, parent: null });
        continue;
      }
      if (point > 0) segments.push({ members, start: 0, stop: point, parent: null });
      for (const n of members)
        segments.push({ members: [n], start: point, stop: steps, parent: point > 0 ? parent : null });
    }
    return segments;
  };

  /** The marks of an axis from 0 to at least a value: round numbers that their digits write out. */
  const axisMarks = (highest) => {
    const exponent = Math.floor(Math.log10(highest)), size = 10 ** exponent;
    const times = [1, 2, 4, 6, 8, 10].find((k) => k * size >= highest);
    const top = times * size, digits = Math.max(0, (times === 1 ? 1 : 0) - exponent);
    return { top, marks: [0, top / 2, top].map((value) => ({ value, text: value.toFixed(digits) })) };
  };

  /** For each segment its height and that of its parent, in prompts from the top. */
  const lanes = (segments, order) => {
    const heights = segments.map(
      ({ members }) => 0.5 + members.reduce((sum, n) => sum + order.indexOf(n), 0) / members.length);
    return segments.map(({ parent }, i) => ({
      height: heights[i], origin: parent === null ? heights[i] : heights[parent],
    }));
  };

  /** Width of a line in pixels: the more prompts it stands for, the wider. */
  const lineWidth = (members) => Math.min(1.5 + 2 * members.length, 18);

  const element = (tag, attributes, parent) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    parent?.append(node);
    return node;
  };

  const pathOf = (segment, lane, steps) => {
    const { start, stop } = segment, { origin, height } = lane;
    if (origin === height) return `M${start} ${height}H${stop}`;
    const bend = Math.min(start + Math.max(1, steps / 6), stop), half = (start + bend) / 2;
    return `M${start} ${origin}C${half} ${origin} ${half} ${height} ${bend} ${height}H${stop}`;
  };

  const names = (members) => [...members].sort((a, b) => a - b).map((n) => `P${n + 1}`).join(", ");

  /**
   * Draws the lines of a plan into an <svg>; what is not yet grown stays pale.
   * plan: {steps, segments, order, colors}; grown: how many steps are done, all of them without it;
   * finished: prompts whose own branch is at its end all the same.
   */
  const drawLines = (svg, plan, grown = plan.steps, finished = []) => {
    const { steps, segments, order, colors } = plan;
    svg.setAttribute("viewBox", `0 0 ${steps} ${order.length}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.replaceChildren();
    const clip = `sage-grown-${(drawn += 1)}`, heights = lanes(segments, order);
    if (grown < steps) {
      const area = { x: -1, y: -1, width: grown + 1, height: order.length + 2 };
      element("rect", area, element("clipPath", { id: clip }, svg));
    }
    segments.forEach((segment, i) => {
      const { members, start, stop } = segment;
      const line = element("g", { class: "sage-line", "data-p": members.join(" ") }, svg);
      line.style.setProperty("--group", colors[members[0]]);
      const how = members.length > 1 ? "shared" : "on its own";
      element("title", {}, line).textContent = `${names(members)}: steps ${start + 1} to ${stop}, ${how}`;
      const d = pathOf(segment, heights[i], steps);
      element("path", { class: "sage-hit", d }, line);
      element("path", { class: "sage-pale", d, "stroke-width": lineWidth(members) }, line);
      const path = element("path", { d, "stroke-width": lineWidth(members) }, line);
      const whole = members.length === 1 && finished.includes(members[0]);
      if (grown < steps && !whole) path.setAttribute("clip-path", `url(#${clip})`);
    });
  };

  /** Noise to look at: the same for the same number, so that nothing flickers. */
  const noise = (seed, side = 24) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
    const pen = canvas.getContext("2d"), pixels = pen.createImageData(side, side);
    let state = seed * 2654435761 + 1;
    for (let i = 0; i < pixels.data.length; i++) {
      state = (Math.imul(state ^ (state >>> 15), 2246822519) + 0x9e3779b9) | 0;
      pixels.data[i] = i % 4 === 3 ? 255 : (state >>> 16) & 255;
    }
    pen.putImageData(pixels, 0, 0);
    return canvas;
  };

  /**
   * Puts round pictures on the lines, as many as have room.
   * pictureAt(segment, step) gives a node, or null where there is none; step 0 is the noise.
   */
  const placeThumbs = (box, plan, pictureAt, { size = 44, grown = plan.steps } = {}) => {
    box.replaceChildren();
    const { steps, segments, order } = plan, width = box.clientWidth;
    if (!width) return;
    /** A trunk's letter beside its noise: colour is not the only thing that tells it. */
    const nameRoot = (n, height) => {
      const badge = document.createElement("b");
      badge.className = "sage-badge sage-root";
      badge.textContent = plan.letters[n];
      badge.style.cssText = `--group:${plan.colors[n]};--ink:${plan.inks[n]};top:${(100 * height) / order.length}%`;
      box.append(badge);
    };
    const heights = lanes(segments, order), every = Math.max(1, Math.ceil((size + 8) / (width / steps)));
    segments.forEach((segment, i) => {
      const trunk = segment.members.length > 1;
      const place = (step) => {
        const node = step <= grown ? pictureAt(segment, step) : null;
        if (!node) return;
        const thumb = document.createElement("span");
        thumb.className = trunk ? "sage-thumb" : "sage-thumb sage-own";
        thumb.dataset.p = segment.members.join(" ");
        thumb.style.left = `${(100 * step) / steps}%`;
        thumb.style.top = `${(100 * heights[i].height) / order.length}%`;
        thumb.append(node);
        box.append(thumb);
      };
      if (segment.parent === null) place(0);
      if (!trunk) return;
      if (segment.parent === null && plan.letters) nameRoot(segment.members[0], heights[i].height);
      for (let step = segment.start + every; step < segment.stop; step += every)
        if (segment.stop - step >= every / 2) place(step);
      place(segment.stop);
    });
  };

  return { groupsPlan, lanes, lineWidth, drawLines, noise, placeThumbs, names, axisMarks };
})();
