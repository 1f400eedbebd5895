// Filters of a long table: a choice for each column named in data-facets, a search, the number of rows shown, and those
// rows as CSV. Rows are hidden, not removed: sorting keeps what is shown, and paper gets what the screen shows.
for (const table of document.querySelectorAll("table[data-facets]")) {
  const heads = [...table.tHead.rows[0].cells].map((th) => th.textContent.trim());
  const rows = [...table.tBodies[0].rows];
  const shown = (cell) => cell.textContent.trim();
  const order = (a, b) => {
    const [x, y] = [a.dataset.sort ?? shown(a), b.dataset.sort ?? shown(b)];
    const [p, q] = [Number(x), Number(y)];
    return Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
  };
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  const field = (name, input) => {
    input.id = `filter-${name}`;
    return make("span", { className: "field" }, make("label", { htmlFor: input.id, textContent: name }), input);
  };

  const facets = [];
  for (const name of table.dataset.facets.split("|")) {
    const column = heads.indexOf(name);
    const cells = rows.map((row) => row.cells[column]).sort(order);
    const values = [...new Set(cells.map(shown))];
    if (values.length < 2) continue;
    const select = make("select", {}, make("option", { value: "*", textContent: "all" }));
    for (const word of values) select.append(make("option", { value: word, textContent: word || "none" }));
    facets.push({ name, column, select });
  }
  const search = make("input", { type: "search", placeholder: "in any column", spellcheck: false });
  const count = make("output", {});
  const clear = make("button", { type: "button", textContent: "Show all" });
  const save = make("button", { type: "button", textContent: "Save rows shown as CSV" });

  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden =
        facets.some(({ column, select }) => select.value !== "*" && shown(row.cells[column]) !== select.value) ||
        !words.every((word) => text.includes(word));
    }
    const left = rows.filter((row) => !row.hidden).length;
    count.textContent = `${left} of ${rows.length} rows shown`;
    clear.disabled = left === rows.length;
    save.disabled = left === 0;
  };
  const value = (cell) => {
    // full precision where the page rounds
    const text = shown(cell) && cell.classList.contains("number") ? (cell.dataset.sort ?? shown(cell)) : shown(cell);
    const safe = /^\s*[=+\-@]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text; // no formula for a spreadsheet
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  save.onclick = () => {
    const quoted = heads.map((head) => (/[",]/.test(head) ? `"${head}"` : head));
    const lines = [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => [...row.cells].map(value));
    download(new Blob([[quoted, ...lines].map((line) => line.join(",")).join("\n") + "\n"], { type: "text/csv" }),
      `${table.dataset.name}.csv`);
  };
  clear.onclick = () => {
    for (const { select } of facets) select.value = "*";
    search.value = "";
    update();
    search.focus();
  };
  const panel = make("div", { className: "filters" },
    ...facets.map(({ name, select }) => field(name, select)), field("search", search), count, clear, save);
  panel.setAttribute("role", "search");
  panel.setAttribute("aria-label", "Rows of the table");
  panel.addEventListener("input", update);
  table.closest(".scroll").before(panel);
  update();
}
