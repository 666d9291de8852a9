{
  // The retrieval browser. Embeddings are rows of int8; a cosine is an exact integer product over
  // the product of two lengths, so that Python and JavaScript find the same number to the bit.
  const TIE = 1e-6, SHOWN = 8, STEP = 120;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("data"), thumbs = read("thumbs"), count = data.names.length;

  const stages = data.stages.map((stage, i) => {
    const text = atob(document.getElementById(`stage-${i}`).textContent);
    const rows = new Int8Array(text.length);
    for (let j = 0; j < text.length; j++) rows[j] = text.charCodeAt(j);
    const norms = new Float64Array(count), dim = stage.dim;
    for (let j = 0; j < count; j++) {
      let sum = 0;
      for (let d = j * dim; d < (j + 1) * dim; d++) sum += rows[d] * rows[d];
      norms[j] = Math.sqrt(sum) || 1;
    }
    return { ...stage, rows, norms };
  });

  function nearest(stage, query) {
    const { rows, norms, dim } = stage, best = [];
    const own = Int32Array.from(rows.subarray(query * dim, (query + 1) * dim));
    for (let j = 0; j < count; j++) {
      if (j === query) continue;
      let s0 = 0, s1 = 0, d = 0, at = j * dim;
      for (; d + 1 < dim; d += 2, at += 2) {
        s0 = (s0 + own[d] * rows[at]) | 0;
        s1 = (s1 + own[d + 1] * rows[at + 1]) | 0;
      }
      if (d < dim) s0 += own[d] * rows[at];
      const cosine = (s0 + s1) / (norms[query] * norms[j]);
      if (best.length < SHOWN || cosine > best[best.length - 1][0]) {
        let place = best.length;
        while (place && best[place - 1][0] < cosine) place--;
        best.splice(place, 0, [cosine, j]);
        best.length = Math.min(best.length, SHOWN);
      }
    }
    return best;
  }

  const className = (i) => data.classes[data.labels[i]];
  const address = (i) => `#q=${encodeURIComponent(data.names[i])}`;

  function picture(i, alt) {
    const image = document.createElement("img");
    image.src = `data:image/webp;base64,${thumbs[i]}`;
    image.alt = alt;
    image.decoding = "async";
    image.loading = "lazy";
    return image;
  }

  function tile(i, right, cosine) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = right === undefined ? "tile" : `tile ${right ? "right" : "wrong"}`;
    button.dataset.image = i;
    button.append(picture(i, ""));
    if (right !== undefined) {
      const mark = document.createElement("b");
      mark.textContent = `${right ? "✓ right" : "✗ wrong"} ${cosine.toFixed(3)}`;
      button.append(mark);
    }
    button.append(className(i));
    return button;
  }

  // Choosing: the fragment names the query, so that back works and a finding can be shared.
  function chosen() {
    const name = decodeURIComponent(location.hash.replace(/^#q=/, ""));
    return location.hash.startsWith("#q=") ? data.names.indexOf(name) : -1;
  }

  function show() {
    const query = chosen(), target = document.getElementById("chosen");
    target.replaceChildren();
    for (const old of grid.querySelectorAll("[aria-current]")) old.removeAttribute("aria-current");
    if (query < 0) {
      target.append("Choose an image below.");
      return;
    }
    const own = document.createElement("div"), words = document.createElement("p");
    own.className = "own";
    words.append(className(query), document.createElement("br"), data.names[query]);
    own.append(picture(query, `The query: ${className(query)}`), words);
    target.append(own);
    for (const stage of stages) {
      const found = nearest(stage, query), list = document.createElement("div");
      const title = document.createElement("h3");
      const same = (j) => data.labels[j] === data.labels[query];
      const right = found.filter(([, j]) => same(j)).length;
      title.textContent = `${stage.title}: ${right} of ${found.length} right`;
      list.className = "neighbours";
      list.append(...found.map(([cosine, j]) => tile(j, same(j), cosine)));
      rove(list);
      target.append(title, list);
    }
    grid.querySelector(`[data-image="${query}"]`)?.setAttribute("aria-current", "true");
  }

  // Arrow keys move within a list of tiles; one of them is in the order of Tab.
  function rove(list) {
    [...list.children].forEach((one, i) => { one.tabIndex = i ? -1 : 0; });
  }

  document.addEventListener("keydown", (event) => {
    const here = event.target.closest?.(".tile"), list = here?.parentElement;
    if (!here || event.ctrlKey || event.metaKey || event.altKey) return;
    const tiles = [...list.children], at = tiles.indexOf(here);
    const across = tiles.findIndex((one) => one.offsetTop > tiles[0].offsetTop);
    const columns = across < 0 ? tiles.length : across;
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
      Home: -at, End: tiles.length - 1 - at,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = tiles[at + steps[event.key]];
    if (!next) return;
    here.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  document.addEventListener("click", (event) => {
    const one = event.target.closest(".tile");
    if (!one) return;
    location.hash = address(Number(one.dataset.image));
    if (one.parentElement !== grid) return;
    document.getElementById("query").scrollIntoView({ block: "nearest" });
  });
  addEventListener("hashchange", show);

  // The grid of all images, by what is sought; more of it as the reader comes near its end.
  const grid = document.getElementById("grid"), more = document.getElementById("more");
  const find = document.getElementById("find"), make = document.getElementById("make");
  const body = document.getElementById("body"), kind = document.getElementById("show");
  const [before, after] = stages.map((stage) => stage.ranks);
  const kinds = {
    "all": () => true,
    "wrong after": (i) => after[i] > 0,
    "wrong before": (i) => before[i] > 0,
    "mended: wrong before, right after": (i) => before[i] > 0 && after[i] === 0,
    "spoilt: right before, wrong after": (i) => before[i] === 0 && after[i] > 0,
    "wrong in both": (i) => before[i] > 0 && after[i] > 0,
    "none of eight right after": (i) => after[i] >= SHOWN,
  };
  const options = (select, names) => select.append(...names.map((name) => new Option(name, name)));
  options(make, [...new Set(data.makes)].sort());
  options(body, [...new Set(data.bodies)].filter(Boolean).sort());
  options(kind, Object.keys(kinds));
  const sought = data.classes.map((name) => name.toLowerCase());
  let found = [], shown = 0;

  function grow() {
    const next = found.slice(shown, shown + STEP);
    grid.append(...next.map((i) => tile(i)));
    if (!shown) rove(grid);
    else next.forEach((_, j) => { grid.children[shown + j].tabIndex = -1; });
    shown += next.length;
    more.hidden = shown >= found.length;
  }

  function filter() {
    const words = find.value.toLowerCase().split(/\s+/), wanted = kinds[kind.value];
    found = [];
    for (let i = 0; i < count; i++) {
      const label = data.labels[i];
      if (make.value && data.makes[label] !== make.value) continue;
      if (body.value && data.bodies[label] !== body.value) continue;
      if (wanted(i) && words.every((word) => sought[label].includes(word))) found.push(i);
    }
    const [part, all] = [found.length, count].map((number) => number.toLocaleString("en"));
    document.getElementById("count").textContent = `${part} of ${all} images`;
    shown = 0;
    grid.replaceChildren();
    grow();
  }
  find.addEventListener("input", filter);
  for (const one of [make, body, kind]) one.addEventListener("change", filter);
  more.addEventListener("click", grow);
  const shelf = { root: document.querySelector(".shelf"), rootMargin: "600px" };
  new IntersectionObserver((seen) => {
    if (seen[0].isIntersecting && shown < found.length) grow();
  }, shelf).observe(more);
  filter();
  show();

  // Recomputing. Two rows of the gallery ride in one double, the second times 2^26: each sum of
  // products stays below 2^25, so that both come out exactly.
  const SHIFT = 2 ** 26;
  async function ranks(stage, progress) {
    const { rows, norms, dim } = stage, labels = data.labels;
    const best = new Float64Array(count).fill(-Infinity), nearer = new Int32Array(count);
    const query = Float64Array.from(rows), pair = new Float64Array(dim), four = [0, 0, 0, 0];
    const cosine = (sum, i, j) => sum / (norms[i] * norms[j]);
    const byClass = new Map();
    labels.forEach((label, i) => byClass.set(label, [...(byClass.get(label) ?? []), i]));
    for (const members of byClass.values()) {
      for (const i of members) for (const j of members) {
        if (i === j) continue;
        let sum = 0;
        for (let d = 0; d < dim; d++) sum += query[i * dim + d] * query[j * dim + d];
        best[i] = Math.max(best[i], cosine(sum, i, j));
      }
    }
    const judge = (sum, i, j) => {
      if (i >= j || labels[i] === labels[j]) return;
      const value = cosine(sum, i, j);
      if (value >= best[i] - TIE) nearer[i]++;
      if (value >= best[j] - TIE) nearer[j]++;
    };
    let pause = performance.now();
    for (let j = 0; j < count; j += 2) {
      const two = j + 1 < count;
      for (let d = 0; d < dim; d++) {
        pair[d] = query[j * dim + d] + (two ? SHIFT * query[(j + 1) * dim + d] : 0);
      }
      for (let i = 0; i <= j; i += 4) {
        let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        const [a, b, c, e] = four.map((_, n) => Math.min(i + n, count - 1) * dim);
        for (let d = 0; d < dim; d++) {
          const p = pair[d];
          s0 += p * query[a + d];
          s1 += p * query[b + d];
          s2 += p * query[c + d];
          s3 += p * query[e + d];
        }
        [s0, s1, s2, s3].forEach((sum, n) => {
          const high = Math.round(sum / SHIFT), low = sum - high * SHIFT;
          judge(low, i + n, j);
          if (two) judge(high, i + n, j + 1);
        });
      }
      if (performance.now() - pause > 60) {
        progress((j / count) ** 2);
        await new Promise((resolve) => setTimeout(resolve));
        pause = performance.now();
      }
    }
    return nearer.map((value, i) => best[i] === -Infinity ? count : value);
  }

  const button = document.getElementById("recompute"), bar = document.getElementById("progress");
  button.addEventListener("click", async () => {
    const verdict = document.getElementById("verdict"), wrong = [], started = performance.now();
    button.disabled = true;
    bar.hidden = false;
    for (const [number, stage] of stages.entries()) {
      const found = await ranks(stage, (part) => { bar.value = (number + part) / stages.length; });
      const apart = found.reduce((sum, rank, i) => sum + (rank !== stage.ranks[i]), 0);
      if (apart) wrong.push(`${stage.name}: ${apart} images' ranks differ from the library's`);
      for (const [k, rounded] of Object.entries(stage.rounded)) {
        const row = document.querySelector(`tr[data-stage="${stage.name}"][data-k="${k}"]`);
        const hits = found.reduce((sum, rank) => sum + (rank < k), 0);
        const agrees = hits / count === rounded, where = `${stage.name}, K ${k}`;
        const recorded = (hits + stage.apart[k]) / count === stage.record[k];
        const share = (100 * hits / count).toFixed(3);
        row.lastElementChild.textContent = `${agrees ? "✓" : "✗"} ${share} % (${hits} of ${count})`;
        if (!agrees) wrong.push(`${where}: not what the library found`);
        if (!recorded) wrong.push(`${where}: the record does not belong to these embeddings`);
      }
    }
    bar.hidden = true;
    button.disabled = false;
    const time = ((performance.now() - started) / 1000).toFixed(1);
    const good = "✓ Agrees: your browser found exactly what the library found, and the record's "
      + "numbers follow from it.";
    verdict.textContent = wrong.length ? `✗ Does not agree. ${wrong.join("; ")}.` : good;
    verdict.textContent += ` ${time} s.`;
  });
}
