{
  // Tables of runs: find, sort, compare two.
  const percent = (x) => (100 * x).toFixed(1);
  for (const table of document.querySelectorAll("table.results")) {
    const body = table.tBodies[0], rows = [...body.rows];
    const filters = document.querySelector(`.filters[data-table="${table.id}"]`);
    const find = filters.querySelector("input"), task = filters.querySelector("select:not(.sort)");
    const select = filters.querySelector(".sort"), count = filters.querySelector(".count");
    const heads = [...table.tHead.rows[0].cells].slice(1, -1);
    const filter = () => {
      const words = find.value.toLowerCase().split(/\s+/);
      let shown = 0;
      for (const row of rows) {
        const text = (row.dataset.name + " " + row.textContent).toLowerCase();
        const other = task && task.value && task.value !== row.dataset.task;
        row.hidden = other || !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      count.textContent = `${shown} of ${rows.length} runs`;
    };
    const sort = (column, down) => {
      const key = (row) => row.cells[column + 1].dataset.sort;
      const sorted = column < 0 ? rows : [...rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)], numbers = x - y;
        return (down ? -1 : 1) * (Number.isNaN(numbers) ? x.localeCompare(y) : numbers);
      });
      body.append(...sorted);
      for (const head of heads) head.removeAttribute("aria-sort");
      heads[column]?.setAttribute("aria-sort", down ? "descending" : "ascending");
    };
    heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
      sort(i, head.getAttribute("aria-sort") !== "descending");
    }));
    select.addEventListener("change", () => {
      sort(select.value === "" ? -1 : Number(select.value), true);
    });
    find.addEventListener("input", filter);
    if (task) task.addEventListener("change", filter);
    filter();

    const said = table.closest(".scroll").nextElementSibling;
    body.addEventListener("change", (event) => {
      const ticked = rows.filter((row) => row.querySelector("input").checked);
      if (ticked.length > 2) {
        for (const row of ticked) row.querySelector("input").checked = row.contains(event.target);
        ticked.splice(0, ticked.length, event.target.closest("tr"));
      }
      if (ticked.length < 2) {
        said.textContent = "Tick two runs to see their difference and its error.";
        return;
      }
      const [a, b] = ticked.map((row) => row.dataset), gain = a.value - b.value;
      const variance = (x) => x.value * (1 - x.value) / x.images;
      const error = Math.sqrt(variance(a) + variance(b));
      const clear = Math.abs(gain) > 2 * error ? "more" : "no more";
      const points = `${gain < 0 ? "−" : "+"}${percent(Math.abs(gain))} points`;
      let text = `${a.name}: ${percent(a.value)} %, ${b.name}: ${percent(b.value)} %; `;
      text += `difference ${points}`;
      text += Number.isFinite(error)
        ? ` ± ${percent(error)} (standard error), ${clear} than two of it.`
        : "; its error is unknown.";
      if (a.print !== b.print) text += " They were scored on different images.";
      said.textContent = text;
    });
  }
}
